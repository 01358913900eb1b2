"""Libraries that print and warn, kept from the user's terminal until something goes wrong."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

_LAST_LINES = 10


class CapturedOutput(io.StringIO):
    """What was printed. rich's consoles look through it, so that a progress display goes on."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        #: Where rich writes instead, when it finds this attribute on ``sys.stdout`` or ``sys.stderr``.
        self.rich_proxied_file = getattr(terminal, "rich_proxied_file", terminal)

    def last_lines(self) -> str:
        return "\n".join(self.getvalue().splitlines()[-_LAST_LINES:])


@contextmanager
def captured_output() -> Iterator[CapturedOutput]:
    """While the block runs, what Python code prints or warns of is collected and not shown."""
    output = CapturedOutput(sys.stdout)
    with redirect_stdout(output), redirect_stderr(CapturedOutput(sys.stderr)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield output
