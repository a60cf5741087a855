"""The stop flag that signal handlers set and work checks."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from selfspec.errors import Interrupted
from selfspec.runtime.distributed import SINGLE_PROCESS


class StopFlag:
    """The flag that signal handlers set. Work asks it after each batch or optimizer step."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self) -> None:
        self.signal, self.process_group = 0, SINGLE_PROCESS

    def raise_if_set(self, save: Callable[[], None] = lambda: None) -> None:
        """Save and leave, if a signal asked any of the stage's processes for it.

        Raises:
            Interrupted: a signal came; the work so far is kept.
        """
        if number := self.process_group.all_reduce_max(self.signal):
            save()
            raise Interrupted(signal.Signals(number).name)

    def install_handlers(self) -> None:
        """Signals set the flag from now on; a second one acts at once."""
        for number in self.SIGNALS:
            signal.signal(number, self._note)

    @contextmanager
    def installed(self) -> Iterator[StopFlag]:
        """Armed while the block lasts."""
        before = {number: signal.getsignal(number) for number in self.SIGNALS}
        self.install_handlers()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        print("Stopping after the work in hand; a second signal stops at once.", file=sys.stderr)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
