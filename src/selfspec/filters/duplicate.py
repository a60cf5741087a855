"""Duplicates: an input that a seed or an earlier row has, too, but for case and punctuation. The first stays."""

from __future__ import annotations

from collections.abc import Sequence

from selfspec.data.records import Draft, Seed
from selfspec.data.text import words


class DuplicateInputs:
    """Remembers the inputs of the seeds and of what was kept."""

    def __init__(self, seeds: Sequence[Seed]) -> None:
        self._names: dict[str, str] = {}
        for seed in seeds:
            self.keep(seed.input, seed.id)

    def check(self, draft: Draft) -> str:
        """Whose input this is, or an empty string."""
        same = self._names.get(" ".join(words(draft.input)))
        return f"same input as {same}" if same else ""

    def keep(self, text: str, name: str) -> None:
        """Later rows must have another input."""
        if key := " ".join(words(text)):
            self._names.setdefault(key, name)
