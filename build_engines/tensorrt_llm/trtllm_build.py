"""Running ``trtllm-build``: its output goes to a log file, its progress to whoever watches."""

from __future__ import annotations

import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from build_engines.progress import Report
from build_engines.tensorrt_llm.flags import PROGRAM
from python_backend.errors import SetupError

_TAIL_LINES = 15
_SHOWN = 80
_GRACE_S = 30.0
_NO_SPACE = "No space left on device"


def run_trtllm_build(command: Sequence[str], output_dir: Path, ranks: int, log_file: Path, report: Report) -> None:
    """Run ``command`` to its end; every rank whose file is in ``output_dir`` counts as progress.

    The process is ended with us when we are interrupted. Raises SetupError with the end of the log when it fails.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise SetupError(f"{command[0]} cannot be started ({error.strerror}).") from error
    try:
        assert process.stdout is not None
        with log_file.open("w", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if line.strip():
                    tail.append(line.rstrip())
                    report(len(list(output_dir.glob("rank*.engine"))), ranks, line.strip()[-_SHOWN:])
        code = process.wait()
    finally:
        _end(process)
    if code:
        raise SetupError(_reason(code, list(tail), log_file))


def _end(process: subprocess.Popen[str]) -> None:
    """SIGTERM goes through docker run into the container."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _reason(code: int, tail: list[str], log_file: Path) -> str:
    if any(_NO_SPACE in line for line in tail):
        return f"{PROGRAM}: no space is left on {log_file.parent}. Make room and try again. Its log: {log_file}"
    number = -code if code < 0 else code - 128
    if code < 0 or number == signal.SIGKILL:  # A shell, and Docker, add 128 to the signal.
        said = f"{PROGRAM} was killed by {signal.Signals(number).name}"
        said += ", perhaps for want of memory" if number == signal.SIGKILL else ""
    else:
        said = f"{PROGRAM} failed with exit code {code}"
    return "\n  ".join([f"{said}. Its log, {log_file}, ends with:", *tail])
