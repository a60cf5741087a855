"""`selfspec store ls|verify|gc`: list, verify and clean the store."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from pathlib import Path

from filelock import SoftFileLease, Timeout

from selfspec.runtime.leases import LEASE_SECONDS
from selfspec.runtime.store import find_damage


def store_command() -> None:
    """`selfspec store ls|verify|gc [--root store]`."""
    parser = argparse.ArgumentParser(prog="selfspec store", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["ls", "verify", "gc"])
    parser.add_argument("--root", type=Path, default=Path("store"))
    arguments = parser.parse_args()
    if not (arguments.root / "format.json").exists():
        sys.exit(f"{arguments.root} is no store; give its folder with --root.")
    outputs = [path for path in sorted(arguments.root.glob("*/*/")) if path.parent.name not in ("work", "aside")]
    if arguments.action == "gc":
        return _collect(arguments.root)
    damaged = 0
    for folder in outputs:
        name, told = f"{folder.parent.name:<13} {folder.name:<30}", ""
        if arguments.action == "verify":
            told = find_damage(folder)
            damaged += bool(told)
        elif (folder / "manifest.json").exists():
            facts = json.loads((folder / "manifest.json").read_text())
            told = f"{facts.get('seconds', 0):8.1f} s  {facts.get('counts', {})}"
        print(f"{name} {told or 'whole'}")
    if damaged:
        sys.exit(f"{damaged} damaged; the next run that needs them sets them aside and makes them again.")


def _collect(root: Path) -> None:
    """Remove what nobody will use: outputs set aside, drafts of killed processes, scratch of finished outputs.

    Scratch of an unfinished output stays: the next run goes on from it.
    """
    removed = list((root / "aside").glob("*"))
    for path in removed:
        shutil.rmtree(path)
    finished = {path.parent.name for path in root.glob("*/*/manifest.json")}
    for lock_path in (root / "work").glob("*.lock"):
        lease = SoftFileLease(lock_path, lease_duration=LEASE_SECONDS)
        with contextlib.suppress(Timeout), lease.acquire(timeout=0.2):
            key = lock_path.stem
            left = [root / "work" / f"{key}.draft", *([root / "work" / key] if key in finished else [])]
            for path in filter(Path.exists, left):
                shutil.rmtree(path)
                removed.append(path)
    print(f"removed {len(removed)}")


if __name__ == "__main__":
    store_command()
