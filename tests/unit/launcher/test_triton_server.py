"""One real server, from start to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from python_backend.errors import SetupError
from python_backend.launcher.command import ServerOptions
from python_backend.launcher.leftovers import Leftovers
from python_backend.launcher.ports import Ports
from python_backend.launcher.process import start_ticks
from python_backend.launcher.run import SHARED_MEMORY
from python_backend.launcher.server import TritonServer
from tests.unit.launcher.running import ask, stubs_of, wait_until
from tests.unit.launcher.tiny_repository import write_tiny_repository

pytestmark = pytest.mark.server


def options(directory: Path, initialize: str = "pass") -> ServerOptions:
    return ServerOptions(
        model_repository=write_tiny_repository(directory / "models", initialize), ports=Ports.free(), exit_timeout_s=5
    )


def test_serves_and_leaves_only_its_log(tmp_path: Path, cache: Path) -> None:
    with TritonServer(options(tmp_path)) as server:
        assert ask(server.http_url) == "HI"
        with urllib.request.urlopen(server.metrics_url) as metrics:
            assert b"nv_inference_request_success" in metrics.read()
        assert list(server.run.regions())
        pid = server.pid
    assert start_ticks(pid) is None
    assert [path for path in cache.rglob("*") if not path.is_dir()] == [server.log_path]


def test_gives_the_engine_directory_to_the_models(tmp_path: Path) -> None:
    wanted = ServerOptions(
        model_repository=write_tiny_repository(
            tmp_path / "models", "raise SetupError(os.environ['SLIPSTREAM_ENGINE_DIR'])"
        ),
        ports=Ports.free(),
        engine_dir=tmp_path / "engine",
    )
    with pytest.raises(SetupError, match=str(tmp_path / "engine")), TritonServer(wanted):
        pass


def test_error_of_a_model_is_the_reason(tmp_path: Path) -> None:
    message = r'raise SetupError("no engine in \"x\". Run `build`.")'
    with pytest.raises(SetupError) as error, TritonServer(options(tmp_path, message)):
        pass
    assert str(error.value) == 'no engine in "x". Run `build`.'


def test_unexpected_error_of_a_model_names_model_type_and_place(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"model 'ensemble'.*ZeroDivisionError: .*model\.py\(\d+\)"):
        TritonServer(options(tmp_path, "1 / 0")).__enter__()


def test_slow_model_runs_into_the_timeout(tmp_path: Path) -> None:
    server = TritonServer(options(tmp_path, "time.sleep(3600)"))
    server.start()
    with pytest.raises(SetupError, match="not ready after 1 s"):
        server.wait_ready(timeout_s=1)
    server.kill()


def test_taken_port_is_refused_with_its_holder(tmp_path: Path) -> None:
    wanted = options(tmp_path)
    with socket.create_server(("127.0.0.1", wanted.ports.grpc)), pytest.raises(SetupError) as error:
        TritonServer(wanted).start()
    assert f"grpc port {wanted.ports.grpc} is held by" in str(error.value)
    assert f"(pid {os.getpid()})" in str(error.value)


def test_stop_lets_a_running_request_finish(tmp_path: Path) -> None:
    answers: list[str] = []
    with TritonServer(options(tmp_path)) as server:
        asking = threading.Thread(target=lambda: answers.append(ask(server.http_url, max_tokens=20)))
        asking.start()
        time.sleep(0.3)
    asking.join()
    assert answers == ["HI"]


def test_server_with_a_dead_stub_leaves_nothing(tmp_path: Path) -> None:
    with TritonServer(options(tmp_path)) as server:
        [stub] = stubs_of(server)
        os.kill(stub, signal.SIGKILL)
        server.kill()
        assert not list(server.run.regions())


def test_killed_owner_takes_the_server_along(tmp_path: Path, cache: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from python_backend.launcher.command import ServerOptions\n"
        "from python_backend.launcher.ports import Ports\n"
        "from python_backend.launcher.server import TritonServer\n"
        "with TritonServer(ServerOptions(model_repository=Path(sys.argv[1]), ports=Ports.free())) as server:\n"
        "    print(server.pid, flush=True)\n    time.sleep(3600)\n"
    )
    repository = write_tiny_repository(tmp_path / "models")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(repository)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        server_pid = int(owner.stdout.readline())
        assert start_ticks(server_pid) is not None
        owner.kill()
    wait_until(lambda: start_ticks(server_pid) is None)
    left = Leftovers.find()
    assert [directory.parent.parent for directory in left.directories if cache in directory.parents] == [cache]
    left.remove()
    wait_until(lambda: not list(SHARED_MEMORY.glob(f"slipstream_{owner.pid}_*")))
