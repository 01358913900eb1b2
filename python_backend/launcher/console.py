"""What a person at the terminal (or in ``docker logs``) sees of the supervisor."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.status import Status

from python_backend.launcher.ports import Ports
from python_backend.launcher.server import TritonServer
from python_backend.launcher.server_log import is_worth_showing
from python_backend.launcher.supervisor import State

DOORS = ("tensorrt_llm_bls", "ensemble")  # the first one served is the one to recommend
QUESTION = "What is a KV cache?"
PLAIN_INTERVAL_S = 10.0  # between progress lines where no line can be redrawn


def _interpreter() -> str:
    """How to call this Python from where the launcher was started: another one would lack our packages."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class ConsoleReport:
    """Prints the supervisor's states; a redrawn line on a terminal, now and then a new one elsewhere."""

    def __init__(self, console: Console, models: Collection[str], everything: bool = False) -> None:
        self._console = console
        self._models = models  # what can be asked
        self._everything = everything  # of the server's log
        self._status: Status | None = None
        self._next_line_s = 0.0

    def starting(self, server: TritonServer) -> None:
        """A server process exists."""
        self._say(f"starting {server.installation.name}, pid {server.pid}; complete log: {server.log_path}")

    def waiting(self, state: State, spent_s: float) -> None:
        """Still starting or draining; called many times a second."""
        if self._console.is_terminal:
            if self._status is None:
                self._status = self._console.status("")
                self._status.start()
            self._status.update(f"{state.value} {spent_s:.1f} s")
        elif spent_s >= self._next_line_s + PLAIN_INTERVAL_S:
            self._next_line_s += PLAIN_INTERVAL_S
            self._say(f"still {state.value} after {spent_s:.0f} s")

    def serving(self, server: TritonServer, spent_s: float, watched: bool) -> None:
        """The server answers."""
        self._settle()
        self._say(
            f"ready in {spent_s:.1f} s: HTTP {server.http_url}, gRPC {server.grpc_url}, metrics {server.metrics_url}"
        )
        if not watched:
            self._say("watchdog off: only the end of the server process will be noticed")
        door = next((model for model in DOORS if model in self._models), None)
        if door is not None:
            body = json.dumps({"text_input": QUESTION, "max_tokens": 64, "stream": True})
            self._say("ask it something:")
            self._say(
                f"  curl -N {server.http_url}/v2/models/{door}/generate_stream"
                f" -H 'Content-Type: application/json' -d '{body}'"
            )
            url = "" if server.options.ports == Ports() else f" --url {server.grpc_url}"
            self._say(f'  {_interpreter()} -m client{url} "{QUESTION}"')

    def draining(self) -> None:
        """A signal arrived; running requests are finished."""
        self._settle()
        self._say("stopping: running requests are finished first; a second signal ends them at once")

    def restarting(self, reason: str, pause_s: float) -> None:
        """The server is replaced after a pause."""
        self._settle()
        self._say(f"{reason}\nrestarting in {pause_s:g} s")

    def stopped(self) -> None:
        """Everything has ended as asked."""
        self._settle()
        self._say("stopped")

    def failed(self, reason: str, log_path: Path) -> None:
        """The supervisor gives up."""
        self._settle()
        self._say(reason)
        if log_path.exists() and str(log_path) not in reason:
            self._say(f"complete log: {log_path}")

    def log(self, lines: list[str]) -> None:
        """New lines in the server's log; shows those that matter."""
        for line in lines:
            if self._everything or is_worth_showing(line):
                self._say(line)

    def _settle(self) -> None:
        self._next_line_s = 0.0
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
