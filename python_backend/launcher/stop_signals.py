"""SIGTERM and SIGINT as something to ask for, instead of something that happens."""

from __future__ import annotations

import signal
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Counts the signals that arrive inside the ``with`` block. Main thread only."""

    def __init__(self) -> None:
        self.count = 0
        # A signal handler may put into a SimpleQueue at any moment; an Event would deadlock in its own lock.
        self._arrived: SimpleQueue[None] = SimpleQueue()
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, timeout_s: float) -> bool:
        """Sleeps, but not past the next signal. Whether any has arrived so far, which then counts as noticed."""
        with suppress(Empty):
            self._arrived.get(timeout=timeout_s)
        return self.count > 0

    def request(self) -> None:
        """Has the effect of a signal."""
        self.count += 1
        self._arrived.put(None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.request()
