"""The default experiment's model, domain and seeds, for benchmarks that need the real weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from selfspec.config.composition import register_schema
from selfspec.config.resolvers import register_resolvers
from selfspec.config.schema import Config
from selfspec.data.reading import read_seeds
from selfspec.data.records import Seed
from selfspec.data.splits import split_seeds
from selfspec.launch.preparation import prepare_config
from selfspec.models.load import load_base
from selfspec.models.weights import locate_weights
from selfspec.runtime.progress import Progress

PROJECT = Path(__file__).resolve().parent.parent


def located() -> Path:
    """The folder of the model's safetensors, converted first where they were not."""
    return locate_weights(_entered().model, Path(_entered().paths.cache), Progress())


def default() -> tuple[Config, list[Seed], Any, Any]:
    """(config, shown seeds, model, tokenizer)."""
    entered = _entered()
    shown, _ = split_seeds(read_seeds(Path(entered.domain.seeds), entered.domain.tasks))
    return (entered, shown, *load_base(entered.model, entered.paths, Progress()))


def _entered() -> Config:
    register_schema()
    register_resolvers(PROJECT)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return prepare_config(compose("config", ["paths.output=/tmp/selfspec-benchmark"]))
