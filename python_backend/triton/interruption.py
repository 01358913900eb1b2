"""What ends a request of the front door before its answer is whole: its client left, or its time is up.

Triton tells only the model that the client called. What that model called in turn has to be cancelled by it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from python_backend.scheduling.sequence import FinishReason
from python_backend.triton.other_model import Call

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The request is not to go on; ``Interruption.reason`` says why."""


@dataclass(eq=False, slots=True, kw_only=True)
class Interruption:
    """One request's: ``reason`` is set once and for all; looked at by whoever works for the request."""

    is_abandoned: Callable[[], bool]
    """Whether the client has left. Asks the server."""
    deadline_s: float | None = None
    """On time.monotonic's clock. None: none that has to be enforced here."""
    reason: FinishReason | None = field(default=None, init=False)
    _calls: set[Call] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def over(self, start: Callable[[], Call]) -> Iterator[Call]:
        """Inside, a call runs, which is cancelled when the request is; afterwards it has ended.

        Raises Interrupted when the request is not to go on, before the call begins or at its end.
        """
        self.check()
        call = start()
        with self._lock:
            self._calls.add(call)
        try:
            yield call
        finally:
            call.close()
            with self._lock:
                self._calls.discard(call)
        self.check()

    def check(self) -> None:
        """Raises Interrupted when the request is not to go on."""
        self._look_at_the_clock()
        if self.reason is not None:
            raise Interrupted

    def look(self) -> None:
        """Find out, and cancel what runs for the request if so."""
        if self.reason is None and self.is_abandoned():
            self.reason = FinishReason.CANCELLED
        self._look_at_the_clock()
        if self.reason is not None:
            with self._lock:
                calls = list(self._calls)
            for call in calls:
                call.cancel()

    def _look_at_the_clock(self) -> None:
        if self.reason is None and self.deadline_s is not None and time.monotonic() >= self.deadline_s:
            self.reason = FinishReason.TIMED_OUT


class Watcher:
    """The thread that looks after open requests."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._open: set[Interruption] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def open(self, interruption: Interruption) -> None:
        """Watch a request from now on."""
        with self._changed:
            self._open.add(interruption)
            self._changed.notify()

    def close(self, interruption: Interruption) -> None:
        """The request has ended."""
        with self._changed:
            self._open.discard(interruption)

    def end(self) -> None:
        """Stop watching."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._open and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                watched = list(self._open)
            for interruption in watched:
                self._look(interruption)
            time.sleep(self._period_s)

    def _look(self, interruption: Interruption) -> None:
        try:
            interruption.look()
        except Exception:
            # The next look may succeed, and other requests are watched meanwhile.
            log.exception("could not look after a request")
