"""Atomic writes, fsync, and disk errors as one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from selfspec.errors import UserError

WRITTEN: Counter[str] = Counter()  # files that this process wrote, by suffix: whether it did any work


STORE_REMEDY = "give another folder with paths.store=..., and the same command goes on from what is stored"


def list_files(folder: Path) -> list[Path]:
    """Every file below `folder`, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_atomic(path: Path, data: bytes) -> None:
    """The whole file or none of it, whenever the process dies."""
    WRITTEN[path.suffix] += 1
    draft = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def sync_folder(folder: Path) -> None:
    """Every file below `folder` is on the disk, and all may read it: safetensors writes for its owner alone."""
    for path in list_files(folder):
        path.chmod(0o644)
        fsync_path(path)


def fsync_path(path: Path) -> None:
    """What was written to `path` (a file, or a folder's entries) is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explain_disk_errors(root: Path, remedy: str = STORE_REMEDY) -> Iterator[None]:
    """Turn a full disk or a missing permission into one sentence, which ends with `remedy`."""
    try:
        yield
    except Exception as error:  # safetensors has an error class of its own, which tells the number in its text
        told = re.search(r"os error (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            what = "No space is left on the disk of"
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            what = "There is no permission to write to"
        else:
            raise
        raise UserError(f"{what} {getattr(error, 'filename', None) or root}; free it or {remedy}.") from error
