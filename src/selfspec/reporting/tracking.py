"""Loggers: an adapter's curve while it is tuned, and a job's result. Offline unless `logger.mode=online`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec.config import Config
from selfspec.records import read_jsonl
from selfspec.store import digest

if TYPE_CHECKING:
    from selfspec.stage import Job


@contextmanager
def curves(job: Job) -> Iterator[Any]:
    """The Lightning logger of one adapter; its id is the stage's key, so that a resumed one goes on in the same run."""
    config = job.config
    folder = Path(config.paths.output)
    if not job.stop.ranks.first:
        yield False
    elif config.logger.name == "csv":
        from pytorch_lightning.loggers import CSVLogger

        yield CSVLogger(folder, name="curves", version=job.stage.key)
    elif config.logger.name == "wandb":
        from pytorch_lightning.loggers import WandbLogger

        settings = _settings(config, folder)
        logger = WandbLogger(
            id=job.stage.key,
            name=job.stage.label,
            job_type="tune",
            log_model=False,
            save_dir=folder,
            **settings,
        )
        logger.experiment.define_metric("tune/*", step_metric="tune/step")  # a run that goes on goes on there
        try:
            yield logger
        finally:
            _finish()
    else:
        yield False


def result(config: Config, folder: Path, report: Mapping[str, Any], examples: Path) -> None:
    """One W&B run for the job: the score table, the funnel, and twenty generated rows."""
    if config.logger.name != "wandb":
        return
    settings = _settings(config, folder)
    import wandb

    try:
        run = wandb.init(
            id=digest({"result": report["keys"]}),
            name=report["title"],
            job_type="result",
            dir=folder,
            **settings,
        )
        columns = ["model", "shots", "task", "measure", "value", "low", "high"]
        scores = [[row[column] for column in columns] for row in report["scores"]]
        rows = [row for row, _ in zip(read_jsonl(examples / "rows.jsonl"), range(20), strict=False)]
        shown = ["id", "task_type", "instruction", "input", "output"]
        run.log(
            {
                "scores": wandb.Table(columns=columns, data=scores),
                "funnel": wandb.Table(columns=["filter", "reason", "rows"], data=funnel_rows(report["funnel"])),
                "rows": wandb.Table(
                    columns=[*shown, "dropped"],
                    data=[
                        [*(row[n] for n in shown), "; ".join(filter(None, row["verdicts"].values()))] for row in rows
                    ],
                ),
                **{
                    f"{row['model']}/{row['shots']}-shot/{row['measure']}": row["value"]
                    for row in report["scores"]
                    if row["task"] == "all"
                },
            }
        )
    finally:
        _finish()


def funnel_rows(funnel: Mapping[str, Any]) -> list[list[Any]]:
    """The funnel as rows: filter, reason, how many rows it dropped."""
    return [[name, reason, count] for name, reasons in funnel["dropped"].items() for reason, count in reasons.items()]


def _settings(config: Config, folder: Path) -> dict[str, Any]:
    """What both kinds of runs share: the group, the tags, the mode."""
    os.environ.setdefault("WANDB_SILENT", "true")
    folder.mkdir(parents=True, exist_ok=True)
    tags = [
        config.domain.name,
        config.model.name,
        f"examples={config.data_size.examples}",
        f"r={config.lora.r}",
    ]
    return {
        "project": config.logger.project,
        "entity": config.logger.entity,
        "mode": config.logger.mode,
        "group": config.logger.group,
        "tags": tags,
        "resume": "allow" if config.logger.mode == "online" else None,
    }


def _finish() -> None:
    import wandb

    wandb.finish()
