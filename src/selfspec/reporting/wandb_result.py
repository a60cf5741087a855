"""Loggers: an adapter's curve while it is tuned, and a job's result. Offline unless `logger.mode=online`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest
from selfspec.config.schema import Config
from selfspec.data.jsonl import read_jsonl
from selfspec.tuning.loggers import finish_wandb, wandb_settings


def log_result(config: Config, folder: Path, report: Mapping[str, Any], examples: Path) -> None:
    """One W&B run for the job: the score table, the funnel, and twenty generated rows."""
    if config.logger.name != "wandb":
        return
    settings = wandb_settings(config, folder)
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
        finish_wandb()


def funnel_rows(funnel: Mapping[str, Any]) -> list[list[Any]]:
    """The funnel as rows: filter, reason, how many rows it dropped."""
    return [[name, reason, count] for name, reasons in funnel["dropped"].items() for reason, count in reasons.items()]
