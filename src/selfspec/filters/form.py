"""Form: instruction and input are complete and neither too short nor too long.

Self-Instruct drops instructions of 3 words or fewer, and of more than 150.
"""

from __future__ import annotations

from typing import ClassVar

from selfspec.data.text import words
from selfspec.filters.protocol import Candidate, Phase

MIN_INSTRUCTION_WORDS = 4
MAX_INSTRUCTION_WORDS = 150
MIN_INPUT_WORDS = 5  # [O]: every task type of a domain works on a text


class Form:
    """Drops truncated tasks, and those whose instruction or input has a wrong length."""

    phase: ClassVar[Phase] = "task"

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        count = len(words(candidate.draft.instruction))
        reasons = {
            "truncated": not candidate.finished,
            "instruction too short": count < MIN_INSTRUCTION_WORDS,
            "instruction too long": count > MAX_INSTRUCTION_WORDS,
            "input too short": len(words(candidate.draft.input)) < MIN_INPUT_WORDS,
        }
        return next((reason for reason, is_true in reasons.items() if is_true), "")
