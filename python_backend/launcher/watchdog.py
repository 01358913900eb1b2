"""When to give a running server up, and how often to try again. Time is passed in; nothing is asked here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from python_backend.launcher.probe import Health, Verdict


@dataclass(slots=True)
class Watchdog:
    """Counts bad answers in a row, and does not take load for a hang.

    A late answer is no evidence while the engine makes steps: then others are served first. A full queue is evidence
    only when the engine is known to make none. An error always counts: the probe itself may have made the steps.
    """

    patience: int = 3
    bad_in_a_row: int = 0
    _steps: float | None = None

    def judge(self, verdict: Verdict, engine_steps: float | None) -> str | None:
        """Why the server should be replaced, or None. ``engine_steps``: the engine's step counter, if known."""
        advanced = None if self._steps is None or engine_steps is None else engine_steps > self._steps
        self._steps = engine_steps
        if verdict.health is Health.DEAD:
            return verdict.detail
        excused = {Health.SERVING: True, Health.BUSY: advanced is not False, Health.LATE: advanced is True}
        if excused.get(verdict.health, False):
            self.bad_in_a_row = 0
            return None
        self.bad_in_a_row += 1
        if self.bad_in_a_row < self.patience:
            return None
        return f"{verdict.detail} ({self.bad_in_a_row} times in a row)"


@dataclass(slots=True)
class RestartBudget:
    """At most ``restarts`` within ``window_s`` seconds, each after twice the pause of the one before."""

    restarts: int = 5
    window_s: float = 600.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    _spent_at_s: deque[float] = field(default_factory=deque)

    def take(self, now_s: float) -> float | None:
        """Seconds to pause before the restart that this takes from the budget; None when nothing is left."""
        while self._spent_at_s and self._spent_at_s[0] <= now_s - self.window_s:
            self._spent_at_s.popleft()
        if len(self._spent_at_s) >= self.restarts:
            return None
        pause_s = self.first_pause_s * 2.0 ** len(self._spent_at_s)
        self._spent_at_s.append(now_s)
        return min(pause_s, self.longest_pause_s)

    def __str__(self) -> str:
        return f"{self.restarts} restarts within {self.window_s / 60:g} minutes"
