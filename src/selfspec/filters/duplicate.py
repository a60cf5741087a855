"""Duplicates: the input is that of a seed or of an earlier candidate, apart from case and punctuation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from selfspec.data.records import Seed
from selfspec.data.text import words
from selfspec.filters.protocol import Candidate, Phase


class DuplicateInputs:
    """Drops a task whose input a seed or an earlier task has. The first one stays.

    Args:
        seeds: Their inputs count as earlier ones.
    """

    phase: ClassVar[Phase] = "task"
    needs: ClassVar = ("seeds",)

    def __init__(self, seeds: Sequence[Seed]) -> None:
        self._ids: dict[str, str] = {}  # normalized input -> id of the first that has it
        for seed in seeds:
            self._remember(seed.input, seed.id)

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        first = self._ids.get(_normalize(candidate.draft.input))
        return f"same input as {first}" if first else ""

    def keep(self, candidate: Candidate) -> None:
        """Later candidates must have another input."""
        self._remember(candidate.draft.input, candidate.id)

    @staticmethod
    def summarize(reason: str) -> str:
        """The reason without the id that it names."""
        return reason.partition(" as ")[0]

    def _remember(self, text: str, name: str) -> None:
        if key := _normalize(text):
            self._ids.setdefault(key, name)


def _normalize(text: str) -> str:
    return " ".join(words(text))
