"""The protocol of engines and their inputs. A batch is a unit of work; a row's result does not depend on its batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from selfspec.config.schema import ModelConfig, PathsConfig
from selfspec.runtime.progress import Progress

TOKEN_MARGIN = 8  # tokens that tokenising prefix and task apart may add
MAX_OPTION_ROWS = 32  # rows of one forward pass that scores options


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. A temperature of 0 is greedy; there is no top-k."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that share a prefix: `prefix + item` for each item, tokenised apart.

    Args:
        prefix: What all prompts begin with.
        items: What each prompt continues with.
        sampling: How tokens are chosen.
        stop: Texts at which a completion ends; they are left out of it.
        seeds: For each item, the seed of its own random stream; may be empty for greedy decoding.
        options: For each item, answers whose log-probability is wanted.
        continues_response: Whether each item is the beginning of what the model writes (with a chat template: it is
            part of the model's turn).
        closed: For each item, whether its answer is a label, which contrastive decoding does not change.
    """

    prefix: str
    items: tuple[str, ...]
    sampling: Sampling
    stop: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    options: tuple[tuple[str, ...], ...] = ()
    continues_response: bool = False
    closed: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What followed one prompt."""

    text: str
    num_tokens: int
    finished: bool  # by an end token or a stop text, not by the token limit
    option_logprobs: tuple[float, ...] = ()  # natural log of each option's probability, summed over its tokens


class Engine(Protocol):
    """Completes prompts with one model: a base model, or a specialized one."""

    def complete(self, batch: PromptBatch) -> list[Completion]:
        """One completion for each item, in order.

        A row is a function of its prompt, its seed and the sampling; other rows of the batch change it by rounding at
        most.
        """
        ...

    def count(self, text: str) -> int:
        """Number of tokens of a prompt, chat template included."""
        ...


class LoadedModel(Protocol):
    """A model in an engine: its base, and with an adapter its specialized form."""

    def base(self) -> Engine:
        """The base model, without its adapter."""
        ...

    def specialized(self) -> Engine:
        """The base model with its adapter; the base model if it was loaded without one."""
        ...

    def contrastive(self, contrast: float, plausible: float) -> Engine:
        """The specialized model, contrasted with its base (`engines.contrastive`).

        Args:
            contrast: Weight of the base's log-probability.
            plausible: Least probability of a token, as a share of the most probable one's.

        Raises:
            UserError: this engine can't.
        """
        ...


class ModelLoader(Protocol):
    """What an entry of the registry, or `engine._target_`, is once it is built with `engine.arguments`."""

    def load(
        self, model: ModelConfig, paths: PathsConfig, progress: Progress, adapter: Path | None = None
    ) -> AbstractContextManager[LoadedModel]:
        """The model, loaded while the block lasts."""
        ...
