"""Numbered batches of one output, shared by the processes of a stage and merged in order."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec.errors import Interrupted, UserError
from selfspec.runtime.store import Store, load_or_compute_rows

if TYPE_CHECKING:
    from selfspec.runtime.progress import Step
    from selfspec.runtime.signals import StopFlag

MAKE, ALREADY_MADE = 1000, 1001  # what the first process tells the others of an output; less is a signal's number


LATE_SECONDS = 120.0  # after which a file system should show on one node what was written on another


Row = dict[str, Any]


@dataclass(frozen=True)
class NumberedBatch:
    """One numbered batch of an output: a function of its key and its number alone, whoever runs it."""

    run: Callable[[], list[Row]]
    size: int  # for the display
    about: str = ""


def make_output(
    store: Store, stop: StopFlag, stage: str, key: str, facts: dict[str, Any], fill: Callable[[Path, Path], None]
) -> Path:
    """The finished output of `key`, found or made, as `Store.make` does it.

    Of several processes the first claims and publishes it. The others run `fill`, too, and what they write is thrown
    away; so a `fill` may meet the others wherever it asks for that.
    """
    made = False

    def claimed(work: Path, output: Path) -> None:
        nonlocal made
        made = bool(stop.process_group.all_reduce_max(MAKE))
        fill(work, output)

    if stop.process_group.is_first:
        folder = store.make(stage, key, facts, claimed, stop.raise_if_set)
        if not made:
            stop.process_group.all_reduce_max(ALREADY_MADE)
    else:
        folder = store.root / stage / key
        _help_first_process(store.root / "work" / key, fill, stop)
    stop.process_group.all_reduce_max(0)  # nobody looks for it before it is published
    _wait_until_visible(folder)
    return folder


def run_batches(stop: StopFlag, work: Path, batches: Sequence[NumberedBatch], display: Step) -> list[Row]:
    """The rows of all batches, in order. Each is kept in `work` as soon as it is done, and not done again.

    Raises:
        Interrupted: a signal came; the batches so far are kept.
    """
    world, mine = stop.process_group.world_size, dict[int, list[Row]]()
    for start in range(0, len(batches), world):
        number = start + stop.process_group.rank
        if number < len(batches):
            mine[number] = load_or_compute_rows(work / f"batch-{number:04d}.jsonl", batches[number].run)
        done = batches[start : start + world]
        display.advance(sum(batch.size for batch in done), done[0].about)
        stop.raise_if_set()
    every = stop.process_group.all_gather(mine)
    return [row for number in range(len(batches)) for row in every[number]]


def _help_first_process(work: Path, fill: Callable[[Path, Path], None], stop: StopFlag) -> None:
    """Wait for the first process to claim the output, or to find it."""
    told = 0
    while told == 0:
        told = stop.process_group.all_reduce_max(stop.signal)
    if told == MAKE:
        with tempfile.TemporaryDirectory() as output:
            fill(work, Path(output))
    elif told != ALREADY_MADE:
        raise Interrupted(signal.Signals(told).name)


def _wait_until_visible(folder: Path) -> None:
    """Wait until the file system shows what another node has published."""
    begun = time.monotonic()
    while not (folder / "manifest.json").exists():
        if time.monotonic() - begun > LATE_SECONDS:
            raise UserError(f"{folder} was published by another process and can't be seen here; is the store shared?")
        time.sleep(0.1)
