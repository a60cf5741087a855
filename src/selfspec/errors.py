"""What a user can mend: one sentence, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. The message says what, where, and what to do, in one sentence."""


class Interrupted(BaseException):
    """A signal asked this process to stop; what was done is kept. No `except Exception` on the way shall hold it up."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`did you mean '...'? ` when something allowed is near `word`, else an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""
