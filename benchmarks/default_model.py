"""The model, domain and seeds of the default experiment, for benchmarks that need real weights."""

from __future__ import annotations

from collections.abc import Sequence
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


def default_weights() -> Path:
    """The folder of the model's safetensors, converted first if necessary."""
    config = default_config()
    return locate_weights(config.model, Path(config.paths.cache), Progress())


def load_default(overrides: Sequence[str] = ()) -> tuple[Config, list[Seed], Any, Any]:
    """(config, seeds without the held-out ones, model, tokenizer)."""
    config = default_config(overrides)
    seeds, _ = split_seeds(read_seeds(Path(config.domain.seeds), config.domain.tasks))
    return (config, seeds, *load_base(config.model, config.paths, Progress()))


def default_config(overrides: Sequence[str] = ()) -> Config:
    """The config of the default experiment with overrides."""
    register_schema()
    register_resolvers(PROJECT)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return prepare_config(compose("config", ["paths.output=/tmp/selfspec-benchmark", *overrides]))
