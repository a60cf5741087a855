"""The stage `scores`: a model's replies to every evaluation question, at each number and draw of shots.

Replies and log-probabilities are kept; what they are worth is computed from them whenever a report is drawn.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from selfspec import together
from selfspec.config import EngineConfig, EvaluationConfig, ModelConfig
from selfspec.records import read_all_questions, read_seeds, read_shots, split, write_jsonl
from selfspec.scoring import answers
from selfspec.stage import Job


def scores(
    job: Job,
    seeds: Path,
    questions: tuple[Path, ...],
    shots: tuple[Path, ...] = (),
    adapter: Path | None = None,
    *,
    model: ModelConfig,
    engine: EngineConfig,
    evaluation: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """`answers.jsonl`: one row a question, number of shots and draw of them."""
    from selfspec.engines.transformers import TransformersEngine
    from selfspec.models import load

    domain = evaluation.domain
    assert domain is not None  # the door has filled it in
    shown = [*split(read_seeds(seeds, domain.tasks))[0], *(row for path in shots for row in read_shots(path))]
    sheets = answers.sheets(read_all_questions(questions, domain.tasks), shown, evaluation, seed)
    base, tokenizer = load.base(model, job.config.paths, job.progress)
    total = sum(len(sheet.questions) for sheet in sheets)
    with (
        load.adapted(base, adapter) as network,
        job.progress.step(job.stage.label, total, "question") as step,
    ):
        examiner = TransformersEngine(network, tokenizer)
        batches = [
            together.Batch(
                partial(answers.ask, examiner, sheet, domain.role, model.context_length),
                len(sheet.questions),
                f"{sheet.task_type}, {sheet.shots} shots",
            )
            for sheet in sheets
        ]
        rows = together.rows(job.stop, job.work, batches, step)
    write_jsonl(job.output / "answers.jsonl", rows)
    fewer = sum(row["shots_shown"] < row["shots"] for row in rows)
    return {"answers": len(rows), "with_fewer_shots": fewer}
