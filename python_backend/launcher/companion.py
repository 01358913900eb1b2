"""A command that runs beside the server once it serves, and whose end ends the server: ``serve --exec``."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from python_backend.errors import SetupError

STOP_TIMEOUT_S = 5.0


class Companion:
    """The first word is split as a shell would, so it may hold a command with its options; the others are appended.

    SetupError when there is no first word, or no end to a quote in it.
    """

    def __init__(self, words: Sequence[str]) -> None:
        try:
            self._command = [*shlex.split("".join(words[:1])), *words[1:]]
        except ValueError as error:
            raise SetupError(f"--exec is {words[0]!r}: {error}.") from error
        if not self._command:
            raise SetupError("--exec needs a command to run.")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Runs the command, the first time that this is called. SetupError when it cannot be run."""
        if self._process is not None:
            return
        try:
            self._process = subprocess.Popen(self._command)
        except OSError as error:
            raise SetupError(f"--exec: {self._command[0]} cannot be run: {error.strerror}.") from error

    @property
    def has_ended(self) -> bool:
        """Whether it was started and has ended."""
        return self._process is not None and self._process.poll() is not None

    @property
    def exit_status(self) -> int:
        """How it ends, as a shell puts it: its exit code, or 128 and the signal that ended it; 1 if it never began."""
        if self._process is None:
            return 1
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def stop(self) -> None:
        """Ends it if it still runs, by force when it takes longer than ``STOP_TIMEOUT_S``."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
