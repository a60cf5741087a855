"""A copy of the package for the jobs of a sweep, as it was when they were started, with its git state."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from selfspec.config.hashing import digest, file_hash
from selfspec.runtime.files import atomic_folder, list_files

PACKAGE = Path(__file__).parents[1]


def copy_package(folder: Path) -> Path:
    """Copy the package to `folder/code-<hash>`, with `commit.txt` and `diff.patch` (uncommitted changes); return it."""
    final = folder / f"code-{package_hash()[:8]}"
    if not final.exists():
        with atomic_folder(final) as draft:
            shutil.copytree(PACKAGE, draft / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
            (draft / "commit.txt").write_text(git_commit())
            (draft / "diff.patch").write_text(_run_git("diff", "HEAD", "--", "."))
    return final


@cache
def package_hash() -> str:
    """A hash of the package's files, as this process first read them."""
    files = [path for path in list_files(PACKAGE) if path.suffix != ".pyc"]
    return digest([[str(path.relative_to(PACKAGE)), file_hash(path)] for path in files])


def snapshot_environment(folder: Path) -> dict[str, str]:
    """Environment variables with which a process imports the copy in `folder`, before any installed package."""
    paths = [str(copy_package(folder)), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def git_commit() -> str:
    """The commit of the running code, or an empty string outside a clone."""
    recorded = PACKAGE.parent / "commit.txt"
    return recorded.read_text() if recorded.exists() else _run_git("rev-parse", "HEAD").strip()


def _run_git(*arguments: str) -> str:
    """What git prints, or an empty string if git does not track this package."""
    git = ["git", "-C", str(PACKAGE)]
    try:
        # An installed package may be in the folder of another repository, which does not track it.
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True)
        result = subprocess.run([*git, *arguments], capture_output=True, text=True, errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout
