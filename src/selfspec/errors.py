"""Errors that a user can correct, which are shown as one sentence without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct. Its message is one sentence: what is wrong, where, and what to do."""


class Interrupted(BaseException):
    """A signal asked this process to stop; finished work is kept. A BaseException: no `except Exception` catches it."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`did you mean '...'? ` with the allowed word nearest to `word`, or an empty string if none is near."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""
