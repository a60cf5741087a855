"""The code that a sweep's jobs run: a copy of the package as it was when they were started, with its git state."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from selfspec.config.hashing import digest, file_hash
from selfspec.runtime.files import list_files

PACKAGE = Path(__file__).parents[1]


def copy_package(folder: Path) -> Path:
    """`folder/code-<hash>`: the package, `commit.txt` and `diff.patch` (what of it is not committed)."""
    final = folder / f"code-{package_hash()[:8]}"
    if not final.exists():
        draft = folder / f".code.{os.getpid()}"
        shutil.copytree(PACKAGE, draft / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (draft / "commit.txt").write_text(git_commit())
        (draft / "diff.patch").write_text(_git("diff", "HEAD", "--", "."))
        draft.rename(final)
    return final


@cache
def package_hash() -> str:
    """A hash of the package's files: other code is another copy."""
    files = [path for path in list_files(PACKAGE) if path.suffix != ".pyc"]
    return digest([[str(path.relative_to(PACKAGE)), file_hash(path)] for path in files])


def snapshot_environment(folder: Path) -> dict[str, str]:
    """What makes a process run the copy: before an editable install on Python's path."""
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(copy_package(folder)), others]))}


def git_commit() -> str:
    """The commit of the code that runs, or an empty string outside a clone."""
    copied = PACKAGE.parent / "commit.txt"
    return copied.read_text() if copied.exists() else _git("rev-parse", "HEAD").strip()


def _git(*arguments: str) -> str:
    git = ["git", "-C", str(PACKAGE)]
    try:
        for command in ([*git, "ls-files", "--error-unmatch", "__init__.py"], [*git, *arguments]):  # ours, or nobody's
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
        return done.stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
