"""Keeps a server serving: starts it, watches it, replaces it when it fails, ends it when asked.

STARTING ──ready──► SERVING ──signal──► DRAINING ──► stopped (0)
   │  ▲                │ ended, or the watchdog gave it up
   │  └────pause───────┤
   ▼                   ▼ restarts used up
failed (1)          failed (1)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from python_backend.errors import SetupError
from python_backend.launcher.companion import Companion
from python_backend.launcher.patrol import Patrol
from python_backend.launcher.probe import Health, Probe
from python_backend.launcher.server import KILL_MARGIN_S, POLL_S, TritonServer
from python_backend.launcher.server_log import LogFollower
from python_backend.launcher.stop_signals import StopSignals
from python_backend.launcher.watchdog import RestartBudget, Watchdog

TICK_S = 0.2


class State(Enum):
    """What the supervisor is doing."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Report(Protocol):
    """Who is told what happens."""

    def starting(self, server: TritonServer) -> None:
        """A server process exists."""

    def waiting(self, state: State, spent_s: float) -> None:
        """Still starting or draining; called many times a second."""

    def serving(self, server: TritonServer, spent_s: float, watched: bool) -> None:
        """The server answers."""

    def draining(self) -> None:
        """A signal arrived; running requests are finished."""

    def restarting(self, reason: str, pause_s: float) -> None:
        """The server is replaced after a pause."""

    def stopped(self) -> None:
        """Everything has ended as asked."""

    def failed(self, reason: str, log_path: Path) -> None:
        """The supervisor gives up."""

    def log(self, lines: list[str]) -> None:
        """New lines in the server's log."""


class _StopAskedError(Exception):
    """A signal arrived while something was waited for."""


@dataclass(slots=True)
class Supervisor:
    """Runs servers, one after the other, until asked to stop. Use from the main thread."""

    new_server: Callable[[], TritonServer]
    new_probe: Callable[[TritonServer], Probe | None]  # None: nothing to ask, so only the process is watched
    report: Report
    startup_timeout_s: float = 120.0
    watchdog_interval_s: float = 5.0  # 0: no watchdog
    companion: Companion | None = None
    budget: RestartBudget = field(default_factory=RestartBudget)
    signals: StopSignals = field(default_factory=StopSignals)

    def run(self) -> State:
        """STOPPED after a signal or the end of the companion, FAILED when a server cannot be started or kept."""
        with self.signals:
            try:
                return self._run()
            finally:
                if self.companion is not None:
                    self.companion.stop()

    def _run(self) -> State:
        served = False
        while True:
            server = self.new_server()
            try:
                served, reason = self._live(server, served)
            finally:
                server.kill()
            if reason is None:
                self.report.stopped()
                return State.STOPPED
            pause_s = self.budget.take(time.monotonic()) if served else None
            if pause_s is None:
                gave_up = f" Given up after {self.budget}." if served else ""
                self.report.failed(reason + gave_up, server.log_path)
                return State.FAILED
            self.report.restarting(reason, pause_s)
            if self.signals.wait(pause_s):
                self.report.stopped()
                return State.STOPPED

    def _live(self, server: TritonServer, served: bool) -> tuple[bool, str | None]:
        """One server's life: whether any has served by now, and why it must be replaced, None when asked to stop."""
        patrol: Patrol | None = None
        log: LogFollower | None = None
        try:
            server.start()
            log = LogFollower(server.log_path)
            self.report.starting(server)
            patrol = self._until_serving(server, log)
            served = True
            return served, self._until_end(server, patrol, log)
        except SetupError as error:
            return served, str(error)
        except _StopAskedError:
            assert log is not None, "only what follows the start raises it"
            self._drain(server, log)
            return served, None
        finally:
            if patrol is not None:
                patrol.stop()
            if log is not None:
                self.report.log(log.new_lines())

    def _until_serving(self, server: TritonServer, log: LogFollower) -> Patrol | None:
        started = time.monotonic()

        def waiting(spent_s: float) -> None:
            self.report.log(log.new_lines())
            self.report.waiting(State.STARTING, spent_s)
            if self.signals.count:
                raise _StopAskedError

        server.wait_ready(self.startup_timeout_s, waiting)
        probe = self.new_probe(server) if self.watchdog_interval_s > 0 else None
        patrol = None
        if probe is not None:
            patrol = Patrol(probe, Watchdog(), self.watchdog_interval_s)
            patrol.start()
            while patrol.first is None:
                time.sleep(POLL_S)
                waiting(time.monotonic() - started)
            if patrol.first.health not in (Health.SERVING, Health.BUSY):
                patrol.stop()
                raise SetupError(f"the server started, but the first request failed: {patrol.first.detail}")
        self.report.serving(server, time.monotonic() - started, watched=patrol is not None)
        if self.companion is not None:
            self.companion.start()
        return patrol

    def _until_end(self, server: TritonServer, patrol: Patrol | None, log: LogFollower) -> str:
        while True:
            if self.signals.wait(TICK_S) or (self.companion and self.companion.has_ended):
                raise _StopAskedError
            self.report.log(log.new_lines())
            if server.exit_code() is not None:
                return server.end_reason()
            if patrol is not None and patrol.reason is not None:
                return patrol.reason

    def _drain(self, server: TritonServer, log: LogFollower) -> None:
        """Lets running requests finish; a second signal, or the exit timeout, ends that."""
        self.report.draining()
        server.terminate()
        started, asked = time.monotonic(), self.signals.count
        while server.exit_code() is None:
            spent_s = time.monotonic() - started
            if self.signals.count > asked or spent_s > server.options.exit_timeout_s + KILL_MARGIN_S:
                return
            self.report.log(log.new_lines())
            self.report.waiting(State.DRAINING, spent_s)
            self.signals.wait(TICK_S)
