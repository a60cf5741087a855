"""A file and its version, as a cache key for what was read from it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class FileVersion(NamedTuple):
    """A file that, once rewritten, has another size or modification time."""

    path: Path
    size: int  # bytes
    mtime_ns: int


def file_version(path: Path) -> FileVersion:
    """The present version of a file."""
    stat = path.stat()
    return FileVersion(path, stat.st_size, stat.st_mtime_ns)
