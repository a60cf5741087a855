"""The stage `harness`: a model's results on tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from selfspec.config.schema import Config, EvaluationConfig, ModelConfig
from selfspec.evaluation.harness import harness_identity, measure_task, task_index, task_names
from selfspec.evaluation.lm_eval_adapter import wrap_for_harness
from selfspec.runtime.batches import load_or_compute_rows
from selfspec.runtime.context import StageContext
from selfspec.runtime.stage import stage


def _identity(config: Config) -> dict[str, Any]:
    return {"evaluation": harness_identity(config.evaluation)}


@stage(
    version=4,
    sections=("model", "evaluation", "seed"),
    inputs=("adapter",),
    resources="scores",
    identity=_identity,
)
def harness(
    context: StageContext,
    adapter: Path | None = None,
    *,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """Write `results.json`: one row for each task and metric. A requeued stage resumes at the next task."""
    known_tasks = task_index(evaluation)  # an unknown task is an error before the weights are loaded
    from selfspec.models.load import load_base, with_adapter

    base, tokenizer = load_base(model, context.config.paths, context.progress)
    rows: list[dict[str, Any]] = []
    names = task_names(evaluation)
    with with_adapter(base, adapter) as network, context.progress.step(context.stage.label, None, "request") as step:

        def after_request() -> None:
            step.advance(1, name)
            context.stop.raise_if_set()

        wrapped = wrap_for_harness(network, tokenizer, model.context_length, evaluation.batch_size, after_request)
        for number, name in enumerate(names):
            measure = partial(measure_task, name, known_tasks, wrapped, evaluation, seed)
            rows += load_or_compute_rows(context.work / f"task-{number:03d}.jsonl", measure)
    (context.output / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return {"tasks": len(names), "results": len(rows)}
