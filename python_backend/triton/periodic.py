"""Something that is done again and again while a model is served."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Periodic:
    """Calls ``do`` every ``period_s`` on a thread of its own from ``start`` on, and once more at the end."""

    def __init__(self, do: Callable[[], None], *, period_s: float, name: str) -> None:
        self._do, self._period_s = do, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Returns after the last call."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            goes_on = not self._ended.wait(self._period_s)
            self._do()
