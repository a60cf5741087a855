"""The stop flag that signal handlers set and that work checks."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from selfspec.errors import Interrupted
from selfspec.runtime.distributed import SINGLE_PROCESS


class StopFlag:
    """A flag that signal handlers set. Work checks it after each batch or optimizer step.

    Attributes:
        signal: Number of the signal that arrived, or 0.
        process_group: The processes that stop together.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self) -> None:
        self.signal, self.process_group = 0, SINGLE_PROCESS

    def raise_if_set(self, save: Callable[[], None] = lambda: None) -> None:
        """Call `save` and raise, if a signal reached any process of the stage.

        Raises:
            Interrupted: A signal arrived; the work so far is saved.
        """
        if number := self.process_group.all_reduce_max(self.signal):
            save()
            raise Interrupted(signal.Signals(number).name)

    def install_handlers(self) -> None:
        """Let signals set the flag. A second signal of the same kind has its default effect."""
        for number in self.SIGNALS:
            signal.signal(number, self._set)

    @contextmanager
    def installed(self) -> Iterator[StopFlag]:
        """Install the handlers for the block, then restore the earlier ones."""
        earlier_handlers = {number: signal.getsignal(number) for number in self.SIGNALS}
        self.install_handlers()
        try:
            yield self
        finally:
            for number, handler in earlier_handlers.items():
                signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        print("Stopping after the current batch or step; a second signal stops at once.", file=sys.stderr)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
