"""One tritonserver process: started, waited for, stopped, and nothing of it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from types import TracebackType

from python_backend.errors import SetupError
from python_backend.launcher.command import ServerOptions, rank_prefix, server_command, server_environment
from python_backend.launcher.installation import ServerInstallation, find_installation
from python_backend.launcher.model_repository import with_models
from python_backend.launcher.own_http import open_url
from python_backend.launcher.parent_death import die_with_parent
from python_backend.launcher.process import command_lines
from python_backend.launcher.run import Run
from python_backend.launcher.server_log import failure_reason

POLL_S = 0.05
KILL_MARGIN_S = 5.0  # beyond the server's own exit timeout


class TritonServer:
    """A real tritonserver with a model repository. As a context manager it is ready inside and gone after.

    The server dies with the thread that started it, so start it from one that stays, usually the main thread.

    >>> with TritonServer(ServerOptions(model_repository=repository, ports=Ports.free())) as server:  # doctest: +SKIP
    ...     urllib.request.urlopen(f"{server.http_url}/v2/health/ready")
    """

    def __init__(self, options: ServerOptions, installation: ServerInstallation | None = None) -> None:
        self.options = options
        self.installation = installation or find_installation()
        self.run = Run.new()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TritonServer:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        """Such as ``http://127.0.0.1:8000``."""
        return f"http://{self.options.reachable_host}:{self.options.ports.http}"

    @property
    def grpc_url(self) -> str:
        """Such as ``127.0.0.1:8001``: gRPC clients want no scheme."""
        return f"{self.options.reachable_host}:{self.options.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """Such as ``http://127.0.0.1:8002/metrics``."""
        return f"http://{self.options.reachable_host}:{self.options.ports.metrics}/metrics"

    @property
    def log_path(self) -> Path:
        """The complete log of the server; it stays after the end."""
        return self.run.log_path

    @property
    def pid(self) -> int:
        """The process id of the server, or of mpirun; and the id of its process group, which holds the stubs too."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def start(self) -> None:
        """Starts the process; it becomes ready later. SetupError when a port is taken or the process cannot begin."""
        assert self._process is None, "a TritonServer starts once"
        self.options = with_models(self.options)
        # Else another server on the same port would look like this one, ready at once.
        if taken := list(self.options.ports.taken(self.options.host)):
            raise SetupError("; ".join(taken) + ". Stop what holds it, or choose other ports.")
        try:
            self.run.create()
            self.installation.prepare(self.run.directory)
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    server_command(self.installation, self.options, self.run),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=server_environment(self.installation, self.options, os.environ),
                    cwd=self.run.directory,  # stubs import from where they start; there is nothing to import here
                    start_new_session=True,  # Ctrl-C is for the launcher, which drains streams first
                    preexec_fn=die_with_parent(),
                )
        except OSError as error:
            self.run.remove()
            raise SetupError(f"the server cannot be started: {error}.") from error

    def wait_ready(self, timeout_s: float = 120.0, waiting: Callable[[float], None] | None = None) -> float:
        """Seconds until every model is ready.

        ``waiting`` is called many times a second with the seconds spent; what it raises ends the waiting.
        SetupError with the reason when the server ends meanwhile, or is not ready in time.
        """
        started = time.monotonic()
        while True:
            spent_s = time.monotonic() - started
            if self.is_ready():
                return spent_s
            if self.exit_code() is not None:
                raise SetupError(self.end_reason())
            if spent_s > timeout_s:
                raise SetupError(
                    f"the server is not ready after {timeout_s:g} s. Large models need longer: raise "
                    f"--startup-timeout. If a model hangs, the log says which: {self.log_path}"
                )
            if waiting is not None:
                waiting(spent_s)
            time.sleep(POLL_S)

    def is_ready(self) -> bool:
        """What ``/v2/health/ready`` says: models are loaded. A model whose process died later still counts as ready."""
        try:
            with open_url(f"{self.http_url}/v2/health/ready", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (OSError, HTTPException):
            return False

    def exit_code(self) -> int | None:
        """The exit code once the process has ended; negative is the signal that ended it."""
        assert self._process is not None, "start() comes first"
        return self._process.poll()

    def end_reason(self) -> str:
        """Why the ended process ended, for a person to read."""
        code = self.exit_code()
        assert code is not None, "the server still runs"
        if code < 0:
            return f"tritonserver was killed by {signal.Signals(-code).name}. Its log: {self.log_path}"
        reason = failure_reason(self.log_path.read_text(errors="replace")) if self.log_path.exists() else None
        return reason or f"tritonserver ended with exit code {code}. Its log: {self.log_path}"

    def terminate(self) -> None:
        """Asks the server to drain: it refuses new requests, finishes running ones, and ends in its exit timeout."""
        if self.exit_code() is None:
            for pid in self._leader_pids():
                _signal(pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends server and stubs at once, and removes what they leave."""
        self.stop(drain_timeout_s=0.0)

    def stop(self, drain_timeout_s: float | None = None) -> None:
        """Drains for at most the exit timeout and a margin, then kills; removes all that belongs to the run."""
        if self._process is None:
            return
        if drain_timeout_s is None:
            drain_timeout_s = self.options.exit_timeout_s + KILL_MARGIN_S
        if drain_timeout_s > 0.0:
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(drain_timeout_s)
        self._kill_group()
        self._process.wait()
        self.run.remove()

    def _kill_group(self) -> None:
        """Stubs may outlive the server for seconds, so the whole group goes; ranks have groups of their own."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.options.world_size > 1:
            for pid, arguments in command_lines():
                if any(self.run.name in argument for argument in arguments):
                    _signal(pid, signal.SIGKILL)

    def _leader_pids(self) -> list[int]:
        """Who drains when asked. With several ranks that is rank 0: mpirun would end all of them at once."""
        if self.options.world_size == 1:
            return [self.pid]
        mark = f"={rank_prefix(self.run, 0)}"
        leaders = [
            pid
            for pid, arguments in command_lines()
            if pid != self.pid and any(argument.endswith(mark) for argument in arguments)
        ]
        return leaders or [self.pid]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
