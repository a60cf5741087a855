"""The stage `scores`: a model's replies to every evaluation question, at each number and draw of shots.

Replies and log-probabilities are kept; what they are worth is computed from them whenever a report is drawn.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from selfspec.config.schema import EngineConfig, EvaluationConfig, ModelConfig
from selfspec.data.jsonl import write_jsonl
from selfspec.data.reading import read_all_questions, read_few_shot_examples, read_seeds
from selfspec.data.splits import split_seeds
from selfspec.evaluation.few_shot import answer_batch, build_batches
from selfspec.runtime.batches import NumberedBatch, run_batches
from selfspec.runtime.context import StageContext


def scores(
    job: StageContext,
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
    from selfspec.models.load import load_base, with_adapter

    domain = evaluation.domain
    assert domain is not None  # the door has filled it in
    shown = [
        *split_seeds(read_seeds(seeds, domain.tasks))[0],
        *(row for path in shots for row in read_few_shot_examples(path)),
    ]
    sheets = build_batches(read_all_questions(questions, domain.tasks), shown, evaluation, seed)
    base, tokenizer = load_base(model, job.config.paths, job.progress)
    total = sum(len(sheet.questions) for sheet in sheets)
    with (
        with_adapter(base, adapter) as network,
        job.progress.step(job.stage.label, total, "question") as step,
    ):
        examiner = TransformersEngine(network, tokenizer)
        batches = [
            NumberedBatch(
                partial(answer_batch, examiner, sheet, domain.role, model.context_length),
                len(sheet.questions),
                f"{sheet.task_type}, {sheet.shots} shots",
            )
            for sheet in sheets
        ]
        rows = run_batches(job.stop, job.work, batches, step)
    write_jsonl(job.output / "answers.jsonl", rows)
    fewer = sum(row["shots_shown"] < row["shots"] for row in rows)
    return {"answers": len(rows), "with_fewer_shots": fewer}
