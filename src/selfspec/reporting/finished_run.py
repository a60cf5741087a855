"""A finished run as read from its folder: config, results, and the adapter of the specialized model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacite import DaciteError
from omegaconf import OmegaConf

from selfspec.config.composition import freeze
from selfspec.config.hashing import file_hash
from selfspec.config.schema import Config
from selfspec.data.jsonl import read_object
from selfspec.data.reading import read_seeds
from selfspec.data.records import Seed
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.errors import UserError
from selfspec.runtime.store import find_damage

RUN_FOLDER_HINT = "outputs/<date>/<time>-..., or a job's folder in a sweep's"


@dataclass(frozen=True)
class FinishedRun:
    """One run. Its adapter is that of the kept round: the last that lowered the loss on the held-out seeds.

    Attributes:
        config: The run's config.
        report: What `results.json` holds.
        adapter: Folder of the adapter in the store, in PEFT's format.
        manifest: Manifest of the stage that made the adapter.
        template: The response prompt that the adapter was tuned with.
        shown_seeds: Seeds that were shown in context.
        held_out_seeds: Seeds that were in no prompt.
    """

    config: Config
    report: Mapping[str, Any]
    adapter: Path
    manifest: Mapping[str, Any]
    template: str
    shown_seeds: tuple[Seed, ...]
    held_out_seeds: tuple[Seed, ...]


def read_finished_run(folder: Path) -> FinishedRun:
    """Read the finished run in `folder`.

    Raises:
        UserError: the folder holds no run, the run is not finished, or its adapter or seeds are gone or changed.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} holds no run (no config.yaml); give the folder of one: {RUN_FOLDER_HINT}.")
    stages, report = read_object(folder / "stages.json"), read_object(folder / "results.json")
    if not stages or report.get("keys") != {label: path.rpartition("/")[2] for label, path in stages.items()}:
        raise UserError(
            f"The run in {folder} is not finished; start its command again, and it continues from what is stored."
        )
    config = _read_config(folder / "config.yaml")
    adapter = Path(config.paths.store) / stages[_adapter_label(report["rounds"]["kept"])]
    if problem := find_damage(adapter):
        raise UserError(
            f"The run's adapter {adapter} is damaged ({problem}); start the run's command again, which makes only what "
            "is missing."
        )
    manifest = read_object(adapter / "manifest.json")
    shown, held_out = _read_split(config, manifest)
    template = read_object(adapter / "prompt.json")["template"]
    return FinishedRun(config, report, adapter, manifest, template, shown, held_out)


def _adapter_label(round_number: int) -> str:
    """Label of the stage that tunes the adapter of a round."""
    return "adapter (specialized)" if round_number == 1 else f"adapter (round {round_number})"


def _read_config(path: Path) -> Config:
    try:
        return freeze(OmegaConf.create(path.read_text(encoding="utf-8")))  # type: ignore[arg-type]
    except (DaciteError, UserError) as error:
        raise UserError(f"{path} was written by another version of selfspec ({error}); run that one.") from error


def _read_split(config: Config, manifest: Mapping[str, Any]) -> tuple[tuple[Seed, ...], tuple[Seed, ...]]:
    """The shown and the held-out seeds, as split by the run."""
    path = Path(config.domain.seeds)
    shown, held_out = split_seeds(read_seeds(path, config.domain.tasks))
    if file_hash(path) != manifest["inputs"]["seeds"]:
        raise UserError(
            f"{path} changed since the run, and the model card describes its seeds; restore the file first."
        )
    return tuple(seed_subset(shown, config.domain.seed_count)), tuple(held_out)
