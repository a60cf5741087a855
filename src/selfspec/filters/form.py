"""Form: is this a task at all? Lengths as in Self-Instruct (an instruction of 3 to 150 words)."""

from __future__ import annotations

import re

from selfspec.filters import words
from selfspec.prompts import Draft

INSTRUCTION_WORDS = (3, 150)
INPUT_WORDS = 5  # ours: every task type of a domain works on a text
_FIELD = re.compile(
    r"^(type|topic|options|instruction|input|task \d+)\b.{0,3}:|^task \d+$", re.IGNORECASE | re.MULTILINE
)
_ANSWER = re.compile(r"^(answer|output|response|solution|explanation)s?:", re.IGNORECASE | re.MULTILINE)


def check(draft: Draft, finished: bool) -> str:
    """Why the draft is no usable task, or an empty string."""
    shortest, longest = INSTRUCTION_WORDS
    count = len(words(draft.instruction))
    text = f"{draft.instruction}\n{draft.input}"
    checks = {
        "truncated": not finished,
        "instruction too short": count < shortest,
        "instruction too long": count > longest,
        "input too short": len(words(draft.input)) < INPUT_WORDS,
        "another task inside": bool(_FIELD.search(text)),
        "answers itself": bool(_ANSWER.search(text)),
    }
    return next((reason for reason, found in checks.items() if found), "")
