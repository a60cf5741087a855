"""The engine that a config names: a registry entry, or an object of the user's own by `engine._target_`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from selfspec.config.schema import EngineConfig, ModelConfig, PathsConfig
from selfspec.config.targets import build_target
from selfspec.engines.protocol import LoadedModel, ModelLoader
from selfspec.errors import UserError, did_you_mean
from selfspec.runtime.progress import Progress

ENGINES: Mapping[str, str] = {"transformers": "selfspec.engines.transformers_loader.TransformersLoader"}


def build_engine(config: EngineConfig) -> ModelLoader:
    """The loader of models that the config names.

    Raises:
        UserError: there is no such engine, or its `_target_` can't be built.
    """
    target = config._target_ or ENGINES.get(config.name)
    if target is None:
        raise UserError(
            f"engine.name={config.name} is none of {', '.join(ENGINES)}; {did_you_mean(config.name, ENGINES)}"
            "choose one, or name an engine of your own with engine._target_."
        )
    spec: dict[str, Any] = {"_target_": target, **(config.arguments or {})}
    loader: ModelLoader = build_target("engine", spec)
    return loader


@contextmanager
def lazy_model(
    config: EngineConfig, model: ModelConfig, paths: PathsConfig, progress: Progress, adapter: Path | None = None
) -> Iterator[Callable[[], LoadedModel]]:
    """A function that loads the model at its first call and returns it; the model is kept until the block ends."""
    loader = build_engine(config)
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(loader.load(model, paths, progress, adapter)))
