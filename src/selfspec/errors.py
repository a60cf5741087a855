"""Errors that a user can correct, which are shown as one sentence without a traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

STORE_REMEDY = "give another folder with paths.store=..., and the same command continues from what is stored"


class UserError(Exception):
    """An error that the user can correct. Its message is one sentence: what is wrong, where, and what to do.

    For a file with several errors, it is one sentence a line.
    """


class Interrupted(BaseException):
    """A signal asked this process to stop; finished work is kept. A BaseException: no `except Exception` catches it."""


def printable(text: str) -> str:
    """The text for a terminal: control characters of files and models are escapes that move no cursor (`\\x1b[2J`)."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`did you mean '...'? ` with the allowed word nearest to `word`, or an empty string if none is near."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""


@contextlib.contextmanager
def explain_disk_errors(root: Path, remedy: str = STORE_REMEDY) -> Iterator[None]:
    """Turn a full disk, a missing permission or a file in place of a folder into a `UserError` that gives `remedy`."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _errno_in_text(str(error))
        path = getattr(error, "filename2", None) or getattr(error, "filename", None) or root
        if number in (errno.ENOSPC, errno.EDQUOT):
            problem = f"No space is left on the disk of {path}; free some"
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            problem = f"There is no permission to read or write {path}; change it"
        elif number in (errno.ENOTDIR, errno.EEXIST) and (file := _file_in_path(Path(path))):
            problem = f"{file} is a file where a folder is needed; remove it"
        else:
            raise
        raise UserError(f"{problem}, or {remedy}.") from error


def _file_in_path(path: Path) -> Path | None:
    """The path itself or the one above it that is a file; None if all are folders or missing."""
    return next((each for each in (path, *path.parents) if each.is_file()), None)


def _errno_in_text(message: str) -> int | None:
    """The error number in a message of safetensors, whose error class has no `errno`."""
    match = re.search(r"os error (\d+)", message)
    return int(match[1]) if match else None
