"""Servers that die, hang or never start, and what the supervisor makes of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from python_backend.launcher.command import ServerOptions
from python_backend.launcher.model_repository import ModelRepository
from python_backend.launcher.ports import Ports
from python_backend.launcher.probe import Probe
from python_backend.launcher.server import TritonServer
from python_backend.launcher.supervisor import State, Supervisor
from python_backend.launcher.watchdog import RestartBudget
from tests.unit.launcher.running import ask, ask_in_vain, stubs_of
from tests.unit.launcher.tiny_repository import write_tiny_repository

pytestmark = pytest.mark.server

Act = Callable[[TritonServer], None]


class ScriptedReport:
    """Notes what happens, and does the next thing of a script each time the server serves; then it asks to stop."""

    def __init__(self, *script: Act) -> None:
        self.events: list[str] = []
        self.reasons: list[str] = []
        self.supervisor: Supervisor
        self._script = list(script)

    def starting(self, server: TritonServer) -> None:
        self.events.append("starting")

    def waiting(self, state: State, spent_s: float) -> None: ...

    def serving(self, server: TritonServer, spent_s: float, watched: bool) -> None:
        self.events.append("serving")
        if self._script:
            self._script.pop(0)(server)
        else:
            self.supervisor.signals.request()

    def draining(self) -> None:
        self.events.append("draining")

    def restarting(self, reason: str, pause_s: float) -> None:
        self.events.append("restarting")
        self.reasons.append(reason)

    def stopped(self) -> None:
        self.events.append("stopped")

    def failed(self, reason: str, log_path: Path) -> None:
        self.events.append("failed")
        self.reasons.append(reason)

    def log(self, lines: list[str]) -> None: ...


def supervise(directory: Path, report: ScriptedReport, restarts: int = 3, initialize: str = "pass") -> State:
    options = ServerOptions(
        model_repository=write_tiny_repository(directory / "models", initialize),
        ports=Ports.free(),
        exit_timeout_s=2,
    )
    repository = ModelRepository.load(options.model_repository, "cpu")

    def probe(server: TritonServer) -> Probe:
        found = Probe.of(repository, server.http_url, server.metrics_url)
        assert found is not None
        return Probe(found.http_url, found.metrics_url, found.bodies, timeout_s=2)

    report.supervisor = Supervisor(
        new_server=lambda: TritonServer(options),
        new_probe=probe,
        report=report,
        watchdog_interval_s=0.2,
        budget=RestartBudget(restarts, window_s=600, first_pause_s=0.1),
    )
    return report.supervisor.run()


def kill_stub(server: TritonServer) -> None:
    [stub] = stubs_of(server)
    os.kill(stub, signal.SIGKILL)


def kill_server(server: TritonServer) -> None:
    os.kill(server.pid, signal.SIGKILL)


def hang(server: TritonServer) -> None:
    threading.Thread(target=ask_in_vain, args=(server.http_url, "hang")).start()


def test_dead_stub_is_noticed_and_the_server_serves_again(tmp_path: Path) -> None:
    answers: list[str] = []

    def ask_and_kill(server: TritonServer) -> None:
        answers.append(ask(server.http_url))
        kill_stub(server)

    report = ScriptedReport(kill_stub, ask_and_kill)
    assert supervise(tmp_path, report) is State.STOPPED
    assert answers == ["HI"]
    assert report.events == [*(["starting", "serving", "restarting"] * 2), "starting", "serving", "draining", "stopped"]
    assert report.reasons == ["Stub process 'ensemble_0_0' is not healthy"] * 2


def test_hanging_model_is_noticed(tmp_path: Path) -> None:
    report = ScriptedReport(hang)
    assert supervise(tmp_path, report) is State.STOPPED
    assert report.reasons == ["ensemble did not answer within 2 s (3 times in a row)"]


def test_gives_up_when_restarts_do_not_help(tmp_path: Path) -> None:
    report = ScriptedReport(*[kill_server] * 3)
    assert supervise(tmp_path, report, restarts=2) is State.FAILED
    assert report.events.count("restarting") == 2
    assert "killed by SIGKILL" in report.reasons[-1]
    assert report.reasons[-1].endswith("Given up after 2 restarts within 10 minutes.")


def test_first_start_that_fails_is_not_repeated(tmp_path: Path) -> None:
    report = ScriptedReport()
    assert supervise(tmp_path, report, initialize='raise SetupError("no engine")') is State.FAILED
    assert report.events == ["starting", "failed"]
    assert report.reasons == ["no engine"]


def test_server_that_cannot_answer_is_not_ready(tmp_path: Path) -> None:
    report = ScriptedReport()
    assert supervise(tmp_path, report, initialize="self.answer = None") is State.FAILED
    [reason] = report.reasons
    assert reason.startswith("the server started, but the first request failed: ensemble")
