"""The engine protocol: completes prompts that share a prefix, and scores options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. A temperature of 0 is greedy; there is no top-k."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0  # of this batch


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that share a prefix: `prefix + item` for each item, tokenised apart."""

    prefix: str
    items: tuple[str, ...]
    sampling: Sampling
    stop: tuple[str, ...]  # texts at which a completion ends, themselves left out
    options: tuple[tuple[str, ...], ...] = ()  # for each item, answers whose log-probability is wanted
    begun: bool = False  # each item begins what the model writes: in a conversation it stands in the model's turn
    closed: tuple[bool, ...] = ()  # for each item, whether its answer is a label, which is never contrasted


@dataclass(frozen=True)
class Completion:
    """What followed one prompt."""

    text: str
    tokens: int
    finished: bool  # by an end token or the stop text, not by the limit
    option_logprobs: tuple[float, ...] = ()  # natural log of each option's probability, summed over its tokens


class Engine(Protocol):
    """A loaded model that completes batches."""

    def complete(self, batch: PromptBatch) -> list[Completion]:
        """One completion for each item, in order; the same batch gives the same completions."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...
