"""The store: finished stage outputs by key, under `paths.store`.

    store/<stage>/<key>/            a finished output; `manifest.json`, written last, is the sign that it is done
    store/work/<key>/               what a stage has done so far: one file a numbered batch, checkpoints
    store/work/<key>.draft/         outputs while they are written
    store/work/<key>.lock           who makes it now: a lease with a heartbeat, for file systems without locks too
    store/aside/                    outputs whose files no longer match their manifest

An output appears by one rename, whole or not at all. `python -m selfspec.store ls|verify|gc` looks after it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from selfspec.errors import UserError

log = logging.getLogger("selfspec")
FORMAT = 1  # of the store's layout; a store of another format is refused
WRITTEN: Counter[str] = Counter()  # files that this process wrote, by suffix: whether it did any work
STORED = "give another folder with paths.store=..., and the same command goes on from what is stored"
LEASE_SECONDS = 120.0  # without a heartbeat, after which a maker on another machine counts as dead


class Store:
    """Finished outputs by stage and key."""

    def __init__(self, root: Path) -> None:
        """Open, or begin, the store at `root`.

        Raises:
            UserError: no permission, or a store that another version's layout wrote.
        """
        self.root = root
        self._verified: set[Path] = set()
        with writing(root):
            (root / "work").mkdir(parents=True, exist_ok=True)
            mark = root / "format.json"
            if not mark.exists():
                write_atomic(mark, json.dumps({"format": FORMAT}).encode())
            found = json.loads(mark.read_text())["format"]
        if found != FORMAT:
            raise UserError(
                f"The store {root} has format {found} and this version writes format {FORMAT}; "
                "give another folder with paths.store=..., or remove the old one."
            )

    def find(self, stage: str, key: str) -> Path | None:
        """The finished output, its hashes checked once a process, or None. A damaged one is set aside."""
        folder = self.root / stage / key
        if folder in self._verified:
            return folder
        if not folder.exists():
            return None
        if problem := damage(folder):
            aside = self.root / "aside" / f"{stage}-{key}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
            print(f"{folder} is damaged ({problem}); it was set aside and is made again.", file=sys.stderr)
            return None
        self._verified.add(folder)
        return folder

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """The manifest of a finished output."""
        return dict(json.loads((self.root / stage / key / "manifest.json").read_text()))

    def make(
        self,
        stage: str,
        key: str,
        facts: dict[str, Any],
        fill: Callable[[Path, Path], None],
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        """The finished output of `key`: found, or made by `fill(work, output)` while nobody else makes it.

        Args:
            stage: Name of the stage, the first level of the store.
            key: What the output is a function of, hashed.
            facts: What the manifest shall say; `fill` may add to it.
            fill: Writes the output's files into `output`; what it keeps in `work` outlives a kill.
            check: Called while another process is waited for; may raise.
        """
        if found := self.find(stage, key):
            return found
        with self.claim(key, check) as work:
            if found := self.find(stage, key):  # made by another process while this one waited
                return found
            started = time.monotonic()
            with self.publish(stage, key, facts) as output:
                fill(work, output)
                facts["seconds"] = round(time.monotonic() - started, 1)
            log.info("made %s %s in %.1f s", stage, key, facts["seconds"])
        return self.root / stage / key

    @contextlib.contextmanager
    def claim(self, key: str, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """The scratch folder of `key`, for one process at a time; it outlives a killed process."""
        lease = SoftFileLease(self.root / "work" / f"{key}.lock", lease_duration=LEASE_SECONDS, poll_interval=0.05)
        with writing(self.root):
            try:
                lease.acquire(timeout=0.2)  # enough to take over from a process of this machine that died
            except Timeout:
                print(f"Another process makes {key}; waiting for it.", file=sys.stderr)
                while not lease.is_locked:
                    check()
                    with contextlib.suppress(Timeout):
                        lease.acquire(timeout=1)
        try:
            work = self.root / "work" / key
            with writing(self.root):
                work.mkdir(exist_ok=True)
                yield work
        finally:
            lease.release()

    @contextlib.contextmanager
    def publish(self, stage: str, key: str, facts: Mapping[str, Any]) -> Iterator[Path]:
        """A fresh folder to fill; on leaving without error it becomes the finished output of `key`.

        `facts` may still change inside the block; they are written into the manifest at its end. Only whoever claimed
        the key publishes it. Two that did so (a machine was silent for long and came back) publish the same bytes: the
        first stays.
        """
        final = self.root / stage / key
        with writing(self.root):
            draft = self.root / "work" / f"{key}.draft" / uuid.uuid4().hex
            draft.mkdir(parents=True)
            yield draft
            hashes = {str(path.relative_to(draft)): file_hash(path) for path in files_in(draft)}
            manifest = {"stage": stage, "key": key, **facts, "files": hashes}
            write_atomic(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
            seal(draft)
            final.parent.mkdir(exist_ok=True)
            try:
                draft.rename(final)
            except OSError:
                if not final.exists():
                    raise
            sync(final.parent)
            self._verified.add(final)
            for left in (key, f"{key}.draft"):
                shutil.rmtree(self.root / "work" / left, ignore_errors=True)


def remembered(path: Path, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One numbered batch of work: read from `path` if it was done before, else computed and kept there."""
    if path.exists():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = compute()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, text.encode())
    return rows


def damage(folder: Path) -> str:
    """What is wrong with a finished output, or an empty string."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError):
        return "no readable manifest.json"
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != expected:
            return f"{name} differs from its hash"
    return ""


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A short hash of plain data: equal data, equal hash, on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def files_in(folder: Path) -> list[Path]:
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


def seal(folder: Path) -> None:
    """Every file below `folder` is on the disk, and all may read it: safetensors writes for its owner alone."""
    for path in files_in(folder):
        path.chmod(0o644)
        sync(path)


def sync(path: Path) -> None:
    """What was written to `path` (a file, or a folder's entries) is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(root: Path, remedy: str = STORED) -> Iterator[None]:
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


def main() -> None:
    """`python -m selfspec.store ls|verify|gc [--root store]`."""
    parser = argparse.ArgumentParser(prog="python -m selfspec.store", description=__doc__.split("\n")[0])
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
            told = damage(folder)
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
    main()
