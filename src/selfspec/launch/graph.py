"""The graph of an experiment's stages, run in this process: what is stored is not done again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfspec.config import Config
from selfspec.errors import Interrupted, UserError
from selfspec.pipeline import Stage
from selfspec.reporting.progress import Progress
from selfspec.stage import Stop, run
from selfspec.store import Store


class StageFailed(Exception):
    """A stage ended with an error; the sentence says which, and what mends it."""

    def __init__(self, stage: Stage, error: Exception) -> None:
        self.stage, self.error = stage, error
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        super().__init__(told)


def run_all(stages: Sequence[Stage], config: Config, store: Store, progress: Progress) -> list[Stage]:
    """Make every output that is not stored, parents first.

    Returns:
        The stages that had to be made.

    Raises:
        StageFailed: with the stage's own error.
        Interrupted: a signal came; the same call goes on from what is done.
    """
    made = []
    with Stop().listening() as stop:
        for stage in stages:
            stored = store.find(stage.name, stage.key)
            started = time.monotonic()
            try:
                folder = stored or run(stage, config, store, progress, stop)
            except Interrupted:
                raise
            except Exception as error:
                raise StageFailed(stage, error) from error
            if not stored:
                made.append(stage)
            progress.say(_line(stage, store, "stored" if stored else f"{time.monotonic() - started:.1f} s", folder))
    return made


def _line(stage: Stage, store: Store, seconds: str, folder: Path) -> str:
    counts: dict[str, Any] = store.manifest(stage.name, folder.name)["counts"]
    told = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if value)
    return f"  [green]✓[/] {stage.label:<22} {seconds:>9}  [dim]{told}[/]"
