"""Maintenance of the store: what `selfspec store` lists and removes."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from selfspec.data.jsonl import read_object
from selfspec.errors import UserError
from selfspec.runtime.leases import LEASE_SECONDS
from selfspec.runtime.store import Store


def list_outputs(root: Path) -> list[Path]:
    """Folders of all finished outputs in the store at `root`.

    Raises:
        UserError: `root` is not a store.
    """
    _check_store(root)
    return [path for path in sorted(root.glob("*/*/")) if path.parent.name not in ("work", "aside")]


def read_manifest(output: Path) -> dict[str, Any]:
    """The manifest of an output; empty if it can't be read."""
    return read_object(output / "manifest.json")


def collect_garbage(root: Path) -> list[Path]:
    """Remove outputs set aside, drafts of processes that ended, and scratch of finished outputs.

    Scratch of an unfinished output is kept: the next run resumes from it.

    Returns:
        The folders that were removed.

    Raises:
        UserError: `root` is not a store.
    """
    _check_store(root)
    removed = list((root / "aside").glob("*"))
    for path in removed:
        shutil.rmtree(path)
    store = Store(root)
    finished = {path.parent.name for path in root.glob("*/*/manifest.json")}
    for key in sorted({path.name.removesuffix(".draft").removesuffix(".lock") for path in (root / "work").iterdir()}):
        lease = SoftFileLease(store.lease_file(key), lease_duration=LEASE_SECONDS)
        with contextlib.suppress(Timeout), lease.acquire(timeout=0.2):
            leftovers = [store.drafts_folder(key), *([store.work_folder(key)] if key in finished else [])]
            for path in filter(Path.exists, leftovers):
                shutil.rmtree(path)
                removed.append(path)
    return removed


def _check_store(root: Path) -> None:
    if not (root / "format.json").exists():
        raise UserError(f"{root} is not a store; give its folder with --root.")
