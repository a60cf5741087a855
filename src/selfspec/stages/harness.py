"""The stage `harness`: a model's results on tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from selfspec.config.schema import EvaluationConfig, ModelConfig
from selfspec.evaluation.harness import measure_task, task_index, task_names, wrap_for_harness
from selfspec.runtime.batches import load_or_compute_rows
from selfspec.runtime.context import StageContext


def harness(
    job: StageContext,
    adapter: Path | None = None,
    *,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """`results.json`: one row a task and metric. A killed stage goes on after the last task that was done."""
    manager = task_index(evaluation)  # a task that is not there is told before the weights are loaded
    from selfspec.models.load import load_base, with_adapter

    base, tokenizer = load_base(model, job.config.paths, job.progress)
    rows: list[dict[str, Any]] = []
    names = task_names(evaluation)
    with with_adapter(base, adapter) as network, job.progress.step(job.stage.label, None, "request") as step:

        def finished() -> None:
            step.advance(1, name)
            job.stop.raise_if_set()

        examinee = wrap_for_harness(network, tokenizer, model.context_length, evaluation.batch_size, finished)
        for number, name in enumerate(names):
            measure = partial(measure_task, name, manager, examinee, evaluation, seed)
            rows += load_or_compute_rows(job.work / f"task-{number:03d}.jsonl", measure)
    (job.output / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return {"tasks": len(names), "results": len(rows)}
