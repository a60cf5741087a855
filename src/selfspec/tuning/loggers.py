"""Loggers of an adapter's training curve."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec.config.schema import Config

if TYPE_CHECKING:
    from selfspec.runtime.context import StageContext


@contextmanager
def curve_logger(job: StageContext) -> Iterator[Any]:
    """The Lightning logger of one adapter; its id is the stage's key, so that a resumed one goes on in the same run."""
    config = job.config
    folder = Path(config.paths.output)
    if not job.stop.process_group.is_first:
        yield False
    elif config.logger.name == "csv":
        from pytorch_lightning.loggers import CSVLogger

        yield CSVLogger(folder, name="curves", version=job.stage.key)
    elif config.logger.name == "wandb":
        from pytorch_lightning.loggers import WandbLogger

        settings = wandb_settings(config, folder)
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
            finish_wandb()
    else:
        yield False


def wandb_settings(config: Config, folder: Path) -> dict[str, Any]:
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


def finish_wandb() -> None:
    """End the W&B run of this process."""
    import wandb

    wandb.finish()
