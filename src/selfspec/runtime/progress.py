"""What a user sees while a run goes: a rich bar with counts, rate and time left; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 15.0  # between two plain lines of one step


class _Bars(RichProgress):
    """rich's bars, below a table if there is one."""

    board: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn anew several times a second."""
        return [*([self.board] if self.board else []), *super().get_renderables()]


class Progress:
    """The display of one run. What is said beside it stays above the table and the bars."""

    def __init__(self, console: Console | None = None, board: RenderableType | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:  # a log file is as wide as its tables
            self.console.width = max(self.console.width, 120)
        self._rich = _Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>16}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._rich.board = board

    def __enter__(self) -> Progress:
        self._rich.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rich.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text)

    @contextmanager
    def step(self, name: str, total: int | None, unit: str, done: int = 0) -> Iterator[Step]:
        """A counted step: `total` units, of which `done` were done before."""
        task = self._rich.add_task(name, total=total, completed=done, rate="", note="")
        step = Step(self, task, name, total, unit, done)
        try:
            yield step
        finally:
            self._rich.remove_task(task)


class Step:
    """One bar."""

    def __init__(self, display: Progress, task: TaskID, name: str, total: int | None, unit: str, done: int) -> None:
        self._display, self._task, self._name, self._total, self._unit = display, task, name, total, unit
        self._done = self._before = done
        self._started = self._spoke = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done."""
        self._done += count
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._started, 1e-6)
        speed = f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{1 / max(rate, 1e-6):.1f} s/{self._unit}"
        rich = self._display._rich
        rich.update(self._task, completed=self._done, rate=speed, note=note)
        if rich.disable and now - self._spoke >= PLAIN_SECONDS:
            self._spoke = now
            left = ""
            if self._total and rate:
                left = f", about {max(self._total - self._done, 0) / rate:.0f} s left"
            total = f"/{self._total}" if self._total else ""
            self._display.say(f"  {self._name}: {self._done}{total}, {speed}{left}{', ' + note if note else ''}")
