"""The store: finished stage outputs by key, under `paths.store`.

    store/<stage>/<key>/            a finished output; `manifest.json` is written last and marks it as finished
    store/work/<key>/               work of an unfinished stage: a file for each finished batch, checkpoints
    store/work/<key>.draft/         outputs that are being written
    store/work/<key>.lock           the lease of the process that computes the output, with a heartbeat
    store/aside/                    outputs whose files do not match their manifest

An output is published by one rename, so it is complete or absent. `selfspec store ls|verify|gc` lists, verifies and
cleans the store.
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

from selfspec.config.hashing import file_hash
from selfspec.data.jsonl import read_object
from selfspec.errors import UserError, explain_disk_errors
from selfspec.runtime.files import atomic_folder, folder_state, list_files, write_atomic
from selfspec.runtime.leases import hold_lease

log = logging.getLogger("selfspec")

FORMAT = 2  # of the layout and of the keys; a store of another format is refused


class Store:
    """Finished outputs by stage and key."""

    def __init__(self, root: Path) -> None:
        """Open the store at `root`, or create it.

        Raises:
            UserError: No permission, or the store has the format of another version.
        """
        self.root = root
        self._verified: set[Path] = set()
        self._state_at_claim: dict[Path, dict[Path, tuple[int, int]] | None] = {}  # by work folder
        with explain_disk_errors(root):
            (root / "work").mkdir(parents=True, exist_ok=True)
            format_file = root / "format.json"
            if not format_file.exists():
                write_atomic(format_file, json.dumps({"format": FORMAT}).encode())
            store_format = json.loads(format_file.read_text())["format"]
        if store_format != FORMAT:
            raise UserError(
                f"The store {root} has format {store_format} and this version writes format {FORMAT}; "
                "give another folder with paths.store=..., or remove the old one."
            )

    def output_folder(self, stage: str, key: str) -> Path:
        """Where the finished output is, or will be."""
        return self.root / stage / key

    def work_folder(self, key: str) -> Path:
        """Where the work on an unfinished output is."""
        return self.root / "work" / key

    def drafts_folder(self, key: str) -> Path:
        """Where drafts of an output are written."""
        return self.root / "work" / f"{key}.draft"

    def lease_file(self, key: str) -> Path:
        """The file of the lease that the process which computes the output holds."""
        return self.root / "work" / f"{key}.lock"

    def find(self, stage: str, key: str) -> Path | None:
        """Return the finished output or None. Its hashes are verified once a process; a damaged one is set aside."""
        folder = self.output_folder(stage, key)
        if folder in self._verified:
            return folder
        if not folder.exists():
            return None
        if problem := find_damage(folder):
            aside = self.root / "aside" / f"{stage}-{key}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process has set it aside
                folder.rename(aside)
                print(f"{folder} is damaged ({problem}); it was set aside and is computed again.", file=sys.stderr)
            return None
        self._verified.add(folder)
        return folder

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """Return the manifest of a finished output."""
        return dict(json.loads((self.output_folder(stage, key) / "manifest.json").read_text()))

    def make(
        self,
        stage: str,
        key: str,
        metadata: dict[str, Any],
        write_output: Callable[[Path, Path], None],
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        """Return the finished output of `key`; compute it if it is missing, unless another process does.

        Args:
            stage: Name of the stage, the first level of the store.
            key: Hash of everything that the output depends on.
            metadata: Entries of the manifest; `write_output` may add some.
            write_output: Called with the work folder, whose files outlive a killed process, and the output folder.
            check: Called while waiting for another process; may raise.
        """
        if output := self.find(stage, key):
            return output
        with self.claim(key, check) as work:
            if output := self.find(stage, key):  # computed by another process while this one waited
                return output
            start = time.monotonic()
            with self.publish(stage, key, metadata) as output:
                write_output(work, output)
                metadata["seconds"] = round(time.monotonic() - start, 1)
            log.info("computed %s %s in %.1f s", stage, key, metadata["seconds"])
        return self.output_folder(stage, key)

    @contextlib.contextmanager
    def claim(self, key: str, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Hold the lease of `key` and yield its work folder, whose files outlive a killed process.

        Args:
            key: Of an output.
            check: Called while waiting for another process; may raise.
        """
        work = self.work_folder(key)
        with hold_lease(self.lease_file(key), check), explain_disk_errors(self.root):
            work.mkdir(exist_ok=True)
            self._state_at_claim.setdefault(work, folder_state(work))
            yield work

    def has_new_work(self) -> bool:
        """Whether this process saved a batch or a checkpoint, or published an output, since it opened the store."""
        return any(folder_state(work) != state for work, state in self._state_at_claim.items())

    @contextlib.contextmanager
    def publish(self, stage: str, key: str, metadata: Mapping[str, Any]) -> Iterator[Path]:
        """Yield an empty folder; when the block ends without an error, it becomes the finished output of `key`.

        Only the process that claimed the key may publish it. If two did (a node did not respond for long and came
        back), they publish the same bytes, and the first output stays.

        Args:
            stage: Name of the stage.
            key: Of the output.
            metadata: Entries of the manifest, read at the end of the block.
        """
        final = self.output_folder(stage, key)
        with explain_disk_errors(self.root), atomic_folder(final, self.drafts_folder(key) / uuid.uuid4().hex) as draft:
            yield draft
            hashes = {str(path.relative_to(draft)): file_hash(path) for path in list_files(draft)}
            manifest = {"stage": stage, "key": key, **metadata, "files": hashes}
            write_atomic(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
        self._verified.add(final)
        for leftover in (self.work_folder(key), self.drafts_folder(key)):
            shutil.rmtree(leftover, ignore_errors=True)


def find_damage(folder: Path) -> str:
    """Return what is wrong with a finished output, or an empty string."""
    hashes = read_object(folder / "manifest.json").get("files")
    if not isinstance(hashes, dict):
        return "no readable manifest.json"
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != expected:
            return f"{name} differs from its hash"
    return ""
