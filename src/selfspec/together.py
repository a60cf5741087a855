"""What several processes make together: an output that one of them publishes, and its numbered batches, of which each
does its share. Alone, a process does everything.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec.errors import Interrupted, UserError
from selfspec.store import Store, remembered

if TYPE_CHECKING:
    from selfspec.reporting.progress import Step
    from selfspec.stage import Stop

GO, FOUND = 1000, 1001  # what the first process tells the others of an output; less is a signal's number
LATE_SECONDS = 120.0  # after which a file system should show on one node what was written on another
Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """One numbered batch of an output: a function of its key and its number alone, whoever runs it."""

    run: Callable[[], list[Row]]
    size: int  # for the display
    about: str = ""


def make(
    store: Store, stop: Stop, stage: str, key: str, facts: dict[str, Any], fill: Callable[[Path, Path], None]
) -> Path:
    """The finished output of `key`, found or made, as `Store.make` does it.

    Of several processes the first claims and publishes it. The others run `fill`, too, and what they write is thrown
    away; so a `fill` may meet the others wherever it asks for that.
    """
    made = False

    def claimed(work: Path, output: Path) -> None:
        nonlocal made
        made = bool(stop.ranks.agree(GO))
        fill(work, output)

    if stop.ranks.first:
        folder = store.make(stage, key, facts, claimed, stop.check)
        if not made:
            stop.ranks.agree(FOUND)
    else:
        folder = store.root / stage / key
        _help(store.root / "work" / key, fill, stop)
    stop.ranks.agree(0)  # nobody looks for it before it is published
    _see(folder)
    return folder


def rows(stop: Stop, work: Path, batches: Sequence[Batch], display: Step) -> list[Row]:
    """The rows of all batches, in order. Each is kept in `work` as soon as it is done, and not done again.

    Raises:
        Interrupted: a signal came; the batches so far are kept.
    """
    world, mine = stop.ranks.world, dict[int, list[Row]]()
    for start in range(0, len(batches), world):
        number = start + stop.ranks.rank
        if number < len(batches):
            mine[number] = remembered(work / f"batch-{number:04d}.jsonl", batches[number].run)
        done = batches[start : start + world]
        display.advance(sum(batch.size for batch in done), done[0].about)
        stop.check()
    every = stop.ranks.gather(mine)
    return [row for number in range(len(batches)) for row in every[number]]


def _help(work: Path, fill: Callable[[Path, Path], None], stop: Stop) -> None:
    """Wait for the first process to claim the output, or to find it."""
    told = 0
    while told == 0:
        told = stop.ranks.agree(stop.signal)
    if told == GO:
        with tempfile.TemporaryDirectory() as output:
            fill(work, Path(output))
    elif told != FOUND:
        raise Interrupted(signal.Signals(told).name)


def _see(folder: Path) -> None:
    """Wait until the file system shows what another node has published."""
    begun = time.monotonic()
    while not (folder / "manifest.json").exists():
        if time.monotonic() - begun > LATE_SECONDS:
            raise UserError(f"{folder} was published by another process and can't be seen here; is the store shared?")
        time.sleep(0.1)
