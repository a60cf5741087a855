"""The stage `scores`: a model's replies to every evaluation question, at each number and draw of shots.

Replies and log-probabilities are stored; scores are computed from them whenever a report is written.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from selfspec.config.schema import EngineConfig, EvaluationConfig, ModelConfig, PromptsConfig
from selfspec.data.jsonl import write_jsonl
from selfspec.engines.build import lazy_model
from selfspec.evaluation.few_shot import answer_batch, read_batches
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.batches import NumberedBatch, run_batches
from selfspec.runtime.context import StageContext
from selfspec.runtime.stage import stage


@stage(
    version=5,
    sections=("model", "engine", "prompts", "evaluation", "seed"),
    inputs=("seeds", "questions", "shots", "adapter"),
    distributed=True,
)
def scores(
    context: StageContext,
    seeds: Path,
    questions: tuple[Path, ...],
    shots: tuple[Path, ...] = (),
    adapter: Path | None = None,
    *,
    model: ModelConfig,
    engine: EngineConfig,
    prompts: PromptsConfig,
    evaluation: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """`answers.jsonl`: one row for each question, number of shots and draw of them."""
    domain = evaluation.domain
    assert domain is not None  # set by validation
    batches = read_batches(seeds, questions, shots, evaluation, seed)
    renderer, total = PromptRenderer(prompts), sum(len(batch.questions) for batch in batches)
    scratch = context.work / f"batches-of-{evaluation.batch_size}"  # batches of another size have other rows
    scratch.mkdir(exist_ok=True)
    with (
        lazy_model(engine, model, context.config.paths, context.progress, adapter) as loaded,
        context.progress.step(context.stage.label, total, "question") as step,
    ):
        engine_of_model = loaded().specialized()
        numbered = [
            NumberedBatch(
                partial(answer_batch, engine_of_model, batch, domain.role, model.context_length, renderer),
                len(batch.questions),
                f"{batch.task_type}, {batch.shots} shots",
            )
            for batch in batches
        ]
        rows = run_batches(context.stop, scratch, numbered, step)
    write_jsonl(context.output / "answers.jsonl", rows)
    num_with_fewer = sum(row["shots_shown"] < row["shots"] and not row["too_long"] for row in rows)
    num_too_long = sum(row["too_long"] for row in rows)
    return {"answers": len(rows), "with_fewer_shots": num_with_fewer, "too_long": num_too_long}
