"""The code that a sweep's jobs run: a copy of the package as it was when they were started, with its git state."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent


def copy(folder: Path) -> Path:
    """`folder/code`, made once: the package, `commit.txt` and `diff.patch` (what is not committed)."""
    final = folder / "code"
    if not final.exists():
        draft = folder / f".code.{os.getpid()}"
        shutil.copytree(PACKAGE, draft / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (draft / "commit.txt").write_text(commit())
        (draft / "diff.patch").write_text(_git("diff", "HEAD"))
        draft.rename(final)
    return final


def environment(folder: Path) -> dict[str, str]:
    """What makes a process run the copy: before an editable install on Python's path."""
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(copy(folder)), others]))}


def commit() -> str:
    """The commit of the code that runs, or an empty string outside a clone."""
    copied = PACKAGE.parent / "commit.txt"
    return copied.read_text() if copied.exists() else _git("rev-parse", "HEAD").strip()


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
