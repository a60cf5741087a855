"""The store: finished stage outputs by key, under `paths.store`.

    store/<stage>/<key>/            a finished output; `manifest.json` is written last and marks it as finished
    store/work/<key>/               scratch of an unfinished stage: one file a numbered batch, checkpoints
    store/work/<key>.draft/         outputs while they are written
    store/work/<key>.lock           the lease of the process that makes it, with a heartbeat
    store/aside/                    outputs whose files no longer match their manifest

An output appears by one rename, whole or not at all. `selfspec store ls|verify|gc` inspects and cleans it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from selfspec.config.hashing import file_hash
from selfspec.errors import UserError
from selfspec.runtime.files import explain_disk_errors, fsync_path, list_files, sync_folder, write_atomic

log = logging.getLogger("selfspec")


FORMAT = 1  # of the store's layout; a store of another format is refused


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
        with explain_disk_errors(root):
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
        if problem := find_damage(folder):
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
        with explain_disk_errors(self.root):
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
            with explain_disk_errors(self.root):
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
        with explain_disk_errors(self.root):
            draft = self.root / "work" / f"{key}.draft" / uuid.uuid4().hex
            draft.mkdir(parents=True)
            yield draft
            hashes = {str(path.relative_to(draft)): file_hash(path) for path in list_files(draft)}
            manifest = {"stage": stage, "key": key, **facts, "files": hashes}
            write_atomic(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
            sync_folder(draft)
            final.parent.mkdir(exist_ok=True)
            try:
                draft.rename(final)
            except OSError:
                if not final.exists():
                    raise
            fsync_path(final.parent)
            self._verified.add(final)
            for left in (key, f"{key}.draft"):
                shutil.rmtree(self.root / "work" / left, ignore_errors=True)


def load_or_compute_rows(path: Path, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One numbered batch of work: read from `path` if it was done before, else computed and kept there."""
    if path.exists():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = compute()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, text.encode())
    return rows


def find_damage(folder: Path) -> str:
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
