"""``python -m python_backend`` as an operator runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from python_backend.launcher.ports import Ports
from python_backend.launcher.process import start_ticks
from tests.unit.launcher.running import ask, ask_in_vain, wait_until
from tests.unit.launcher.tiny_repository import write_tiny_repository

LAUNCHER = [sys.executable, "-m", "python_backend"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCHER, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


class Serving:
    """A launcher that serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output: list[str] = []

    def read_until(self, pattern: str) -> str:
        """Reads its output to the first line that matches; the match's first group."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if match := re.search(pattern, line):
                return match[1]
        raise AssertionError(f"it ended without {pattern!r}:\n{''.join(self.output)}")

    def end(self) -> int:
        """Reads the rest, and the exit code."""
        assert self.process.stdout is not None
        self.output.extend(self.process.stdout)
        return self.process.wait(60)


def flags(directory: Path, initialize: str = "pass") -> list[str]:
    ports = Ports.free()
    return [
        f"--model-repository={write_tiny_repository(directory / 'models', initialize)}",
        *(f"--{service}-port={getattr(ports, service)}" for service in ("http", "grpc", "metrics")),
        "--exit-timeout=2",
    ]


@contextmanager
def serving(directory: Path) -> Iterator[Serving]:
    with subprocess.Popen(
        [*LAUNCHER, "serve", *flags(directory), "--watchdog-interval=0.2"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        launcher = Serving(process)
        try:
            yield launcher
        finally:
            process.kill()


@pytest.mark.server
def test_serves_until_it_is_terminated(tmp_path: Path, cache: Path) -> None:
    with serving(tmp_path) as launcher:
        url = launcher.read_until(r"ready in .*HTTP (http://\S+),")
        launcher.read_until(r"(curl -N .*/v2/models/ensemble/generate_stream -H 'Content-Type: application/json')")
        assert ask(url) == "HI"
        launcher.process.terminate()
        assert launcher.end() == 0
    assert launcher.output[-1] == "stopped\n"
    assert not re.search("CUDA|NVML|DCGM|Cuda", "".join(launcher.output))
    assert not list(cache.glob("run/*"))


@pytest.mark.server
def test_second_signal_ends_running_requests(tmp_path: Path) -> None:
    with serving(tmp_path) as launcher:
        url = launcher.read_until(r"ready in .*HTTP (http://\S+),")
        asking = threading.Thread(target=ask_in_vain, args=(url, "hang"))
        asking.start()
        launcher.process.send_signal(signal.SIGINT)
        launcher.read_until("(a second signal ends them at once)")
        launcher.process.send_signal(signal.SIGINT)
        assert launcher.end() == 0
        asking.join()


@pytest.mark.server
def test_killed_launcher_takes_the_server_along_and_clean_removes_the_rest(tmp_path: Path, cache: Path) -> None:
    with serving(tmp_path) as launcher:
        server_pid = int(launcher.read_until(r"pid (\d+)"))
        launcher.read_until("(ready)")
        launcher.process.kill()
        launcher.end()
    wait_until(lambda: start_ticks(server_pid) is None)
    assert list(cache.glob("run/*"))
    cleaned = run("clean")
    assert cleaned.returncode == 0
    assert "run directory" in cleaned.stdout
    assert not list(cache.glob("run/*"))


@pytest.mark.server
def test_error_of_a_model_is_all_that_is_said(tmp_path: Path) -> None:
    done = run("serve", *flags(tmp_path, 'raise SetupError("engines/x has no manifest.json. Run `make demo`.")'))
    assert done.returncode == 1
    started, reason, log = done.stdout.splitlines()
    assert started.startswith("starting nvidia-pytriton")
    assert reason == "engines/x has no manifest.json. Run `make demo`."
    assert Path(log.removeprefix("complete log: ")).exists()


@pytest.mark.server
def test_exec_runs_a_command_beside_the_server_and_returns_its_exit_code(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'import sys; print(sys.argv[1:]); sys.exit(7)' --stats"
    done = run("serve", *flags(tmp_path), "--exec", command, "Why is the sky blue?")
    assert done.returncode == 7
    assert "['--stats', 'Why is the sky blue?']" in done.stdout


def test_dry_run_shows_command_and_environment_and_starts_nothing(tmp_path: Path, cache: Path) -> None:
    done = run(
        "serve", "--dry-run", "--engine-dir=engines/mine", SLIPSTREAM_HTTP_PORT="1234", SLIPSTREAM_PROFILE="fast"
    )
    assert done.returncode == 0
    assert "--http-port=1234" in done.stdout
    assert "--model-config-name=fast" in done.stdout
    assert f"SLIPSTREAM_ENGINE_DIR={Path('engines/mine').absolute()}" in done.stdout
    assert not cache.exists()


def test_every_flag_has_its_environment_variable_in_the_help() -> None:
    text = run("serve", "--help").stdout
    for flag in re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE):
        if flag != "--exec":
            assert "SLIPSTREAM_" + flag[2:].upper().replace("-", "_") in text, flag


def test_preflight_refuses_with_one_line_a_problem(tmp_path: Path) -> None:
    done = run("serve", *flags(tmp_path), "--profile=cpv")
    assert done.returncode == 3
    [line] = done.stdout.splitlines()
    assert line.startswith("models: the profiles of ")
    assert "not 'cpv'; did you mean \"cpu\"?" in line


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    wanted = flags(tmp_path)
    healthy = run("doctor", *wanted)
    assert healthy.returncode == 0, healthy.stdout
    broken = run("doctor", *wanted, "--models=ensembel")
    assert broken.returncode == 3
    assert 'did you mean "ensemble"?' in " ".join(broken.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--http-port=70000"], {}, "--http-port is '70000'"),
        ([], {"SLIPSTREAM_HTTP_PORT": "x"}, "SLIPSTREAM_HTTP_PORT is 'x'"),
        ([], {"SLIPSTREAM_HTTP_PROT": "1"}, 'did you mean "SLIPSTREAM_HTTP_PORT"?'),
        (["--http-prot=1"], {}, "--http-prot"),
        (["--exec"], {}, "--exec needs a command"),
        (["--exec", "client 'x"], {}, "No closing quotation"),
    ],
)
def test_bad_usage_names_its_source(arguments: list[str], environment: dict[str, str], said: str) -> None:
    done = run("serve", *arguments, **environment)
    assert done.returncode == 2
    assert said in done.stdout
