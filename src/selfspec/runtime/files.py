"""Atomic writes and fsync."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path


def list_files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def folder_state(folder: Path) -> dict[Path, tuple[int, int]] | None:
    """(modification time in ns, inode) of each file below `folder`, or None if there is no such folder.

    The state changes with every atomic write.
    """
    if not folder.exists():
        return None
    state = {}
    for path in list_files(folder):
        with contextlib.suppress(FileNotFoundError):  # a draft that another process has just renamed
            stat = path.stat()
            state[path] = (stat.st_mtime_ns, stat.st_ino)
    return state


def write_atomic(path: Path, data: bytes) -> None:
    """Write the file completely or not at all, even if the process is killed."""
    draft = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


@contextlib.contextmanager
def atomic_folder(final: Path, draft: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder; when the block ends without an error, it is flushed to disk and renamed to `final`.

    If another process was first, its folder stays. A kill leaves the draft at most.

    Args:
        final: The folder to create.
        draft: A new folder on the same disk; by default one with a unique name beside `final`.
    """
    draft = draft or final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        yield draft
        sync_folder(draft)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(final)
        except OSError:
            if not final.is_dir():
                raise
        fsync_path(final.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush every file below `folder` to disk, and make it readable for all users (safetensors writes mode 600)."""
    for path in list_files(folder):
        path.chmod(0o644)
        fsync_path(path)


def fsync_path(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
