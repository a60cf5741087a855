"""Echo: the task repeats a seed of its own prompt."""

from __future__ import annotations

from typing import ClassVar

from selfspec.data.text import longest_common_run, words
from selfspec.filters.protocol import Candidate, Phase

MIN_RUN_WORDS = 5  # [O]: a shorter run of words is no echo
MAX_SHARE = 0.5  # [O]: of the input's words that may be one run of words of a seed


class Echo:
    """Drops a task if a few-shot example of its prompt has half of its input as one run of words.

    A task without input is compared by its instruction.
    """

    phase: ClassVar[Phase] = "task"

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        text = words(candidate.draft.input) or words(candidate.draft.instruction)
        for seed in candidate.seeds:
            seed_text = words(seed.input) or words(seed.instruction)
            if text and longest_common_run(text, seed_text) >= max(MIN_RUN_WORDS, MAX_SHARE * len(text)):
                return f"echo of {seed.id}"
        return ""

    @staticmethod
    def summarize(reason: str) -> str:
        """The reason without the seed's id."""
        return reason.partition(" of ")[0]
