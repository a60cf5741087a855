"""Models that run in this process with transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfspec.config.schema import ModelConfig, PathsConfig
from selfspec.engines.protocol import Completion, Engine, PromptBatch
from selfspec.runtime.progress import Progress


class TransformersLoader:
    """`engine=transformers`: the model on a GPU where there is one, else on the processor."""

    @contextmanager
    def load(
        self, model: ModelConfig, paths: PathsConfig, progress: Progress, adapter: Path | None = None
    ) -> Iterator[TransformersModel]:
        """See `ModelLoader`. The base remains in memory for the next stage of this process."""
        from selfspec.models.load import load_base, with_adapter

        network, tokenizer = load_base(model, paths, progress)
        with with_adapter(network, adapter) as adapted:
            yield TransformersModel(adapted, tokenizer)


@dataclass(frozen=True)
class TransformersModel:
    """A network of transformers, which PEFT may have wrapped, with its tokenizer."""

    network: Any
    tokenizer: Any

    def base(self) -> Engine:
        """See `LoadedModel`."""
        engine = self.specialized()
        return _AdapterOff(self.network, engine) if hasattr(self.network, "disable_adapter") else engine

    def specialized(self) -> Engine:
        """See `LoadedModel`."""
        from selfspec.engines.transformers import TransformersEngine

        return TransformersEngine(self.network, self.tokenizer)

    def contrastive(self, contrast: float, plausible: float) -> Engine:
        """See `LoadedModel`."""
        from selfspec.engines.contrastive import ContrastiveEngine

        return ContrastiveEngine(self.network, self.tokenizer, contrast, plausible)


class _AdapterOff:
    """The base model while its network has an adapter attached."""

    def __init__(self, network: Any, engine: Engine) -> None:
        self.network, self.engine = network, engine
        self.count = engine.count

    def complete(self, batch: PromptBatch) -> list[Completion]:
        """See `Engine`."""
        with self.network.disable_adapter():
            return self.engine.complete(batch)
