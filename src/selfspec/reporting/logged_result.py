"""Log a job's result: its scores, and in W&B also tables, links to the curves, and the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest
from selfspec.config.schema import Config
from selfspec.data.jsonl import read_jsonl
from selfspec.loggers.build import log_failure, open_logger
from selfspec.loggers.logged_run import LoggedRun, config_key, flat_config, join_name, tune_run
from selfspec.loggers.settings import has_logger, uses_wandb
from selfspec.pipeline.build import Pipeline
from selfspec.reporting.cells import funnel_rows
from selfspec.reporting.report import kept_round, output_folder
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store

MAX_ROWS = 20  # generated rows in W&B's table


SCORE_COLUMNS = ["model", "shots", "task", "measure", "value", "low", "high"]
ROW_COLUMNS = ["id", "task_type", "instruction", "input", "output"]


def log_result(config: Config, report: Mapping[str, Any], pipeline: Pipeline, store: Store) -> None:
    """Log the result of one job; a failure is written to the log.

    Args:
        config: The job.
        report: What `results.json` holds.
        pipeline: The job's stages.
        store: Where their outputs are.
    """
    if not has_logger(config.logger):
        return
    with open_logger(config, result_run(config, report, pipeline)) as logger:
        if logger and uses_wandb(config.logger):
            log_failure(_log_to_wandb)(logger.experiment, config, report, pipeline, store)
        elif logger:
            logger.log_metrics(result_metrics(report), 0)
            logger.finalize("success")


def result_run(config: Config, report: Mapping[str, Any], pipeline: Pipeline) -> LoggedRun:
    """The run of a job's result, with the keys of its stages."""
    keys = {f"stages.{config_key(stage.label)}": f"{stage.name}/{stage.key}" for stage in pipeline.stages}
    name = join_name(config.logger.run_name, " ".join(config.logger.job_overrides)) or join_name(report["title"])
    return LoggedRun(digest({"result": report["keys"]}), name, "result", "result", {**flat_config(config), **keys})


def result_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The loss on held-out seeds, and every measure over all tasks: of each model, and between pairs of models."""
    scores = {
        f"{row['model']}/{row['shots']}-shot/{row['measure']}": row["value"]
        for row in report["scores"]
        if row["task"] == "all"
    }
    differences = {
        f"{row['model']}-{row['minus']}/{row['shots']}-shot/{row['measure']}": row["value"]
        for row in report["differences"]
        if row["task"] == "all"
    }
    loss = report["held_out_loss"]
    return {**({} if loss is None else {"held_out_loss": loss}), **scores, **differences}


def _log_to_wandb(run: Any, config: Config, report: Mapping[str, Any], pipeline: Pipeline, store: Store) -> None:
    """Scores as summary values; the score table, the funnel and some rows as tables; links; the adapter."""
    import wandb

    run.config.update(tune_links(run, config, pipeline))
    run.summary.update(result_metrics(report))
    scores = [[row[column] for column in SCORE_COLUMNS] for row in report["scores"]]
    rows = islice(read_jsonl(output_folder(store, kept_round(pipeline, store)[0]) / "rows.jsonl"), MAX_ROWS)
    run.log(
        {
            "scores": wandb.Table(columns=SCORE_COLUMNS, data=scores),
            "funnel": wandb.Table(columns=["filter", "reason", "rows"], data=funnel_rows(report["funnel"])),
            "rows": wandb.Table(columns=[*ROW_COLUMNS, "dropped"], data=[_generated_row(row) for row in rows]),
        }
    )
    if config.logger.log_adapter:
        kept = pipeline.rounds[report["rounds"]["kept"] - 1][1]
        _log_adapter(run, config, kept, output_folder(store, kept))


def tune_links(run: Any, config: Config, pipeline: Pipeline) -> dict[str, str]:
    """`tune_runs.LABEL`: entity/project/run of each adapter's curve; `tune_urls.LABEL`: its page, when online."""
    project = [name for name in (run.entity or config.logger.entity, config.logger.project) if name]
    links = {}
    for stage in pipeline.stages:
        if stage.name == "adapter":
            label, run_id = config_key(stage.label), tune_run(config, stage).id
            links[f"tune_runs.{label}"] = "/".join([*project, run_id])
            if config.logger.mode == "online":
                links[f"tune_urls.{label}"] = f"{run.project_url}/runs/{run_id}"
    return links


def _log_adapter(run: Any, config: Config, stage: Stage, folder: Path) -> None:
    import wandb

    metadata = {"base_model": config.model.name, "weights": stage.values["weights"], "stage_key": stage.key}
    artifact = wandb.Artifact(f"adapter-{stage.key}", type="model", metadata=metadata)
    for path in sorted([*folder.glob("adapter_*"), folder / "prompt.json"]):
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _generated_row(row: Mapping[str, Any]) -> list[Any]:
    return [*(row[name] for name in ROW_COLUMNS), "; ".join(filter(None, row["verdicts"].values()))]
