"""The watchdog's rounds, in a thread of their own: a request may take long, and the supervisor must stay awake."""

from __future__ import annotations

import threading

from python_backend.launcher.probe import Health, Probe, Verdict
from python_backend.launcher.watchdog import Watchdog


class Patrol:
    """Probes a server at once, and then every ``interval_s`` until it is stopped or the server must be replaced."""

    def __init__(self, probe: Probe, watchdog: Watchdog, interval_s: float) -> None:
        self.first: Verdict | None = None  # the first answer, once it is there
        self.reason: str | None = None  # why the server should be replaced, once it should
        self._probe = probe
        self._watchdog = watchdog
        self._interval_s = interval_s
        self._done = threading.Event()
        # A request may still hang in a dead server when the launcher ends: nobody waits for it.
        self._thread = threading.Thread(target=self._walk, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins the rounds."""
        self._thread.start()

    def stop(self) -> None:
        """Ends them after the request under way."""
        self._done.set()

    def _walk(self) -> None:
        verdict = self.first = self._probe.ask()
        # A full queue answers at once: a long step deserves as much time then as a request that waits for it gets.
        while not self._done.wait(self._probe.timeout_s if verdict.health is Health.BUSY else self._interval_s):
            verdict = self._probe.ask()
            steps = self._probe.engine_steps() if verdict.health in (Health.BUSY, Health.LATE) else None
            self.reason = self._watchdog.judge(verdict, steps)
            if self.reason is not None:
                return
