"""Form: is this a task at all? Self-Instruct drops instructions of 3 words or fewer, and of more than 150."""

from __future__ import annotations

from selfspec.data.records import Draft
from selfspec.data.text import words

INSTRUCTION_WORDS = (4, 150)


INPUT_WORDS = 5  # ours: every task type of a domain works on a text


def check_form(draft: Draft, finished: bool) -> str:
    """Why the draft is no usable task, or an empty string."""
    shortest, longest = INSTRUCTION_WORDS
    count = len(words(draft.instruction))
    checks = {
        "truncated": not finished,
        "instruction too short": count < shortest,
        "instruction too long": count > longest,
        "input too short": len(words(draft.input)) < INPUT_WORDS,
    }
    return next((reason for reason, found in checks.items() if found), "")
