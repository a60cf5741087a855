"""A finished run as it lies on the disk: its config and results, and the adapter that it kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacite import DaciteError
from omegaconf import OmegaConf

from selfspec.config.composition import freeze
from selfspec.config.hashing import file_hash
from selfspec.config.schema import Config
from selfspec.data.reading import read_seeds
from selfspec.data.records import Seed
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.errors import UserError
from selfspec.runtime.store import find_damage

RUN_FOLDER_HINT = "outputs/<date>/<time>-..., or a job's folder in a sweep's"


@dataclass(frozen=True)
class FinishedRun:
    """One run. What it kept is of one round: the last that lowered the loss on the held-out seeds."""

    config: Config
    report: Mapping[str, Any]  # results.json
    adapter: Path  # PEFT's folder, in the store
    manifest: Mapping[str, Any]  # of the stage that made it
    template: str  # the prompt under which it was tuned
    shown: tuple[Seed, ...]
    held_out: tuple[Seed, ...]


def read_finished_run(folder: Path) -> FinishedRun:
    """The run that ended in `folder`.

    Raises:
        UserError: it holds no run, or one that is not finished, or whose adapter or seeds are no longer there.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} holds no run (no config.yaml); give the folder of one: {RUN_FOLDER_HINT}.")
    stages, report = _read_object(folder / "stages.json"), _read_object(folder / "results.json")
    if not stages or report.get("keys") != {label: place.rpartition("/")[2] for label, place in stages.items()}:
        raise UserError(
            f"The run in {folder} is not finished; start its command again, and it goes on from what is stored."
        )
    config = _config(folder / "config.yaml")
    adapter = Path(config.paths.store) / stages[_label(report["rounds"]["kept"])]
    if problem := find_damage(adapter):
        raise UserError(
            f"The run's adapter {adapter} is not whole ({problem}); start the run's command again, and only what is "
            "missing is made."
        )
    manifest = _read_object(adapter / "manifest.json")
    shown, held_out = _read_split(config, manifest)
    template = _read_object(adapter / "prompt.json")["template"]
    return FinishedRun(config, report, adapter, manifest, template, shown, held_out)


def _label(kept: int) -> str:
    """What the stage of a round's adapter is called."""
    return "adapter (specialized)" if kept == 1 else f"adapter (round {kept})"


def _config(path: Path) -> Config:
    try:
        return freeze(OmegaConf.create(path.read_text(encoding="utf-8")))  # type: ignore[arg-type]
    except (DaciteError, UserError) as error:
        raise UserError(f"{path} was written by another version of selfspec ({error}); run that one.") from error


def _read_split(config: Config, manifest: Mapping[str, Any]) -> tuple[tuple[Seed, ...], tuple[Seed, ...]]:
    """(shown, held out), as the adapter's run split them."""
    path = Path(config.domain.seeds)
    shown, held_out = split_seeds(read_seeds(path, config.domain.tasks))
    if file_hash(path) != manifest["inputs"]["seeds"]:
        raise UserError(f"{path} changed since the run; a model card tells of its seeds, so put the file back first.")
    return tuple(seed_subset(shown, config.domain.seed_count)), tuple(held_out)


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where none can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
