"""Extensions of selfspec that a laboratory keeps in a package of its own: a filter, an engine, a metric, a callback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback

from selfspec.config.schema import ModelConfig, PathsConfig
from selfspec.data.records import Question
from selfspec.engines.protocol import Completion, Engine, LoadedModel, PromptBatch
from selfspec.engines.transformers_loader import TransformersLoader
from selfspec.filters.protocol import Candidate
from selfspec.runtime.progress import Progress


class NoDigits:
    """A filter: drops tasks whose input has more than `num_allowed` digits."""

    phase = "task"

    def __init__(self, num_allowed: int) -> None:
        self.num_allowed = num_allowed

    def check(self, candidate: Candidate) -> str:
        """See `selfspec.filters.protocol.Filter`."""
        num_digits = sum(character.isdigit() for character in candidate.draft.input)
        return "too many digits" if num_digits > self.num_allowed else ""


class Brevity:
    """A metric: 1 for an empty reply, 0 for `max_words` words or more."""

    def __init__(self, max_words: int) -> None:
        self.max_words = max_words

    def __call__(self, question: Question, reply: str) -> float:
        """The reply's value in [0, 1]."""
        return max(0.0, 1 - len(reply.split()) / self.max_words)


class MarkingLoader:
    """An engine: transformers, with a mark before each completion."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    @contextmanager
    def load(
        self, model: ModelConfig, paths: PathsConfig, progress: Progress, adapter: Path | None = None
    ) -> Iterator[LoadedModel]:
        """See `selfspec.engines.protocol.ModelLoader`."""
        with TransformersLoader().load(model, paths, progress, adapter) as loaded:
            yield MarkingModel(loaded, self.mark)


class MarkingModel:
    """See `selfspec.engines.protocol.LoadedModel`."""

    def __init__(self, loaded: LoadedModel, mark: str) -> None:
        self.loaded, self.mark = loaded, mark

    def base(self) -> Engine:
        """The base model."""
        return MarkingEngine(self.loaded.base(), self.mark)

    def specialized(self) -> Engine:
        """The base model with its adapter."""
        return MarkingEngine(self.loaded.specialized(), self.mark)

    def contrastive(self, contrast: float, plausible: float) -> Engine:
        """The specialized model, contrasted with its base."""
        return MarkingEngine(self.loaded.contrastive(contrast, plausible), self.mark)


class MarkingEngine:
    """See `selfspec.engines.protocol.Engine`."""

    def __init__(self, engine: Engine, mark: str) -> None:
        self.engine, self.mark = engine, mark

    def complete(self, batch: PromptBatch) -> list[Completion]:
        """The completions of the engine, each with the mark."""
        return [replace(each, text=f"{self.mark}{each.text}") for each in self.engine.complete(batch)]

    def count(self, text: str) -> int:
        """Number of tokens of a prompt."""
        return self.engine.count(text)


class StepRecorder(Callback):  # type: ignore[misc]
    """A Lightning callback: appends the number of each finished step to a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """Append the last step of the curve."""
        with self.path.open("a") as file:
            file.write(f"{module.curve[-1]['step']}\n")
