"""Progress display: rich bars with counts, rate and time left on a terminal; plain lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, RenderableType
from rich.markup import escape
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

PLAIN_LINE_SECONDS = 15.0  # minimum time between two plain lines of one step
MIN_LOG_WIDTH = 120  # columns of a log file


class _Bars(RichProgress):
    """rich's progress bars, below a table if there is one."""

    board: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is redrawn several times a second."""
        return [*([self.board] if self.board else []), *super().get_renderables()]


class Progress:
    """The display of one run. Printed lines stay above the table and the bars."""

    def __init__(self, console: Console | None = None, board: RenderableType | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, MIN_LOG_WIDTH)
        self._bars = _Bars(
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
        self._bars.board = board

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print one line that stays."""
        self.console.print(text)

    @contextmanager
    def step(self, name: str, total: int | None, unit: str, done: int = 0) -> Iterator[Step]:
        """Show a bar during the block.

        Args:
            name: Name of the step.
            total: Number of units, if it is known.
            unit: Name of one unit.
            done: Number of units that were finished earlier.
        """
        task = self._bars.add_task(escape(name), total=total, completed=done, rate="", note="")
        step = Step(self, task, name, total, unit, done)
        try:
            yield step
        finally:
            self._bars.remove_task(task)


class Step:
    """One bar, or the plain lines of one step."""

    def __init__(self, display: Progress, task: TaskID, name: str, total: int | None, unit: str, done: int) -> None:
        self._display, self._task, self._name, self._total, self._unit = display, task, name, total, unit
        self._done = self._done_at_start = done
        self._start = self._last_line = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done, and show `note` beside the bar."""
        self._done += count
        now = time.monotonic()
        rate = (self._done - self._done_at_start) / max(now - self._start, 1e-6)
        rate_text = f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{1 / max(rate, 1e-6):.1f} s/{self._unit}"
        bars = self._display._bars
        bars.update(self._task, completed=self._done, rate=rate_text, note=escape(note))
        if bars.disable and now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            self._display.say(escape(self._plain_line(rate, rate_text, note)))

    def _plain_line(self, rate: float, rate_text: str, note: str) -> str:
        total = f"/{self._total}" if self._total else ""
        remaining = ""
        if self._total and rate:
            remaining = f", about {max(self._total - self._done, 0) / rate:.0f} s left"
        return f"  {self._name}: {self._done}{total}, {rate_text}{remaining}{', ' + note if note else ''}"
