"""Content hashes of plain data and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Files = Path | tuple[Path, ...]


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A short hash of plain data: equal data, equal hash, on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def hash_files(files: Files) -> str:
    """What a file of the user, or several, count by: their contents."""
    return file_hash(files) if isinstance(files, Path) else digest([file_hash(path) for path in files])
