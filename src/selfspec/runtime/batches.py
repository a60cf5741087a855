"""Numbered batches of one output: divided over the processes of a stage, and merged in order."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec.errors import Interrupted, UserError
from selfspec.runtime.files import write_atomic
from selfspec.runtime.store import Store

if TYPE_CHECKING:
    from selfspec.runtime.progress import Step
    from selfspec.runtime.signals import StopFlag

# What the first process broadcasts about an output. Smaller numbers are signals, 0 means that it still waits.
COMPUTE_OUTPUT, OUTPUT_EXISTS = 1000, 1001
PUBLISH_DELAY_SECONDS = 120.0  # a shared file system shows within this time what another node wrote

Row = dict[str, Any]


@dataclass(frozen=True)
class NumberedBatch:
    """One numbered batch of an output. Its rows depend on the output's key and its number, not on who computes it."""

    run: Callable[[], list[Row]]
    size: int  # units in the progress display
    about: str = ""  # note in the progress display


def make_output(
    store: Store,
    stop: StopFlag,
    stage: str,
    key: str,
    metadata: dict[str, Any],
    write_output: Callable[[Path, Path], None],
) -> Path:
    """Return the finished output of `key`; all processes of the stage compute it together if it is missing.

    The first process claims the key and publishes the output. The others call `write_output` as well, so that it can
    use collective operations, but what they write to their output folder is discarded.

    Args:
        store: The store of the output.
        stop: The stop flag, and the processes of the stage.
        stage: Name of the stage, the first level of the store.
        key: The output's key.
        metadata: Entries of the manifest; `write_output` may add some.
        write_output: Called with the work folder and the output folder, see `Store.make`.

    Raises:
        Interrupted: A signal arrived; what is in the work folder is kept.
        UserError: The output of another node does not become visible.
    """
    is_computed = False

    def write_with_others(work: Path, output: Path) -> None:
        nonlocal is_computed
        is_computed = bool(stop.process_group.all_reduce_max(COMPUTE_OUTPUT))
        write_output(work, output)

    folder = store.output_folder(stage, key)
    if stop.process_group.is_first:
        try:
            store.make(stage, key, metadata, write_with_others, stop.raise_if_set)
        except FileNotFoundError:  # after this process lost its lease, another one published and removed the work
            # With several processes, the others may wait for this one in a collective operation: all must end.
            if stop.process_group.world_size > 1 or not store.find(stage, key):
                raise
        if not is_computed:
            stop.process_group.all_reduce_max(OUTPUT_EXISTS)
    else:
        _help_first_process(store.work_folder(key), write_output, stop)
    stop.process_group.all_reduce_max(0)  # a barrier: the output is published
    _wait_until_visible(folder)
    return folder


def run_batches(stop: StopFlag, work: Path, batches: Sequence[NumberedBatch], display: Step) -> list[Row]:
    """Return the rows of all batches, in order. Each batch is saved in `work` when it is done, and not computed again.

    Raises:
        Interrupted: A signal arrived; the finished batches are kept.
    """
    world_size, local_rows = stop.process_group.world_size, dict[int, list[Row]]()
    for start in range(0, len(batches), world_size):
        number = start + stop.process_group.rank
        if number < len(batches):
            local_rows[number] = load_or_compute_rows(work / f"batch-{number:04d}.jsonl", batches[number].run)
        finished = batches[start : start + world_size]
        display.advance(sum(batch.size for batch in finished), finished[0].about)
        stop.raise_if_set()
    rows = stop.process_group.all_gather(local_rows)
    return [row for number in range(len(batches)) for row in rows[number]]


def load_or_compute_rows(path: Path, compute: Callable[[], list[Row]]) -> list[Row]:
    """Return the rows in `path`; if the file is missing, compute and save them."""
    if path.exists():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = compute()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, text.encode())
    return rows


def _help_first_process(work: Path, write_output: Callable[[Path, Path], None], stop: StopFlag) -> None:
    """Wait until the first process claims the output, then compute it with the others; return if it exists."""
    decision = 0
    while decision == 0:
        decision = stop.process_group.all_reduce_max(stop.signal)
    if decision == COMPUTE_OUTPUT:
        with tempfile.TemporaryDirectory() as output:
            write_output(work, Path(output))
    elif decision != OUTPUT_EXISTS:
        raise Interrupted(signal.Signals(decision).name)


def _wait_until_visible(folder: Path) -> None:
    """Wait until the file system shows the output that another node published."""
    start = time.monotonic()
    while not (folder / "manifest.json").exists():
        if time.monotonic() - start > PUBLISH_DELAY_SECONDS:
            raise UserError(
                f"{folder} was published by another process but is not visible on this node; "
                "put paths.store on a file system that all nodes share."
            )
        time.sleep(0.1)
