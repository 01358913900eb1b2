"""The command beside the server: how it ends, and that it ends."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from python_backend.launcher.companion import Companion
from tests.unit.launcher.running import wait_until


def companion(code: str, *words: str) -> Companion:
    return Companion([shlex.join([sys.executable, "-c", code]), *words])


def test_exit_status_is_that_of_a_shell() -> None:
    assert companion("").exit_status == 1  # never started
    for code, status in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 15)", 128 + 15)):
        command = companion(code)
        command.start()
        assert command.exit_status == status


def test_command_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w'); time.sleep(3600)"
    command = companion(code, str(tmp_path / "started"))
    command.start()
    wait_until((tmp_path / "started").exists)
    command.stop()
    assert command.exit_status == 128 + 9
