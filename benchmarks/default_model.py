"""The default experiment's model, domain and seeds, for benchmarks that need the real weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from selfspec import config, door, resolvers
from selfspec.config import Config
from selfspec.models import load, weights
from selfspec.records import Seed, read_seeds, split
from selfspec.reporting.progress import Progress

PROJECT = Path(__file__).resolve().parent.parent


def located() -> Path:
    """The folder of the model's safetensors, converted first where they were not."""
    return weights.locate(_entered().model, Path(_entered().paths.cache), Progress())


def default() -> tuple[Config, list[Seed], Any, Any]:
    """(config, shown seeds, model, tokenizer)."""
    entered = _entered()
    shown, _ = split(read_seeds(Path(entered.domain.seeds), entered.domain.tasks))
    return (entered, shown, *load.base(entered.model, entered.paths, Progress()))


def _entered() -> Config:
    config.register()
    resolvers.register(PROJECT)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return door.enter(compose("config", ["paths.output=/tmp/selfspec-benchmark"]))
