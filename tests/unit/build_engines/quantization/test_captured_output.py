"""Libraries are quiet, progress displays are not, and errors get through."""

from __future__ import annotations

import sys
import warnings

import pytest
from rich.console import Console

from build_engines.quantization.captured_output import captured_output


def test_prints_and_warnings_are_kept_and_rich_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(highlight=False)
    with captured_output() as output:
        print("noise")
        print("more noise", file=sys.stderr)
        warnings.warn("noise", stacklevel=1)
        console.print("progress")
    print("after")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("progress\nafter\n", "")
    assert output.last_lines() == "noise"


def test_only_the_last_lines_are_quoted() -> None:
    with captured_output() as output:
        for line in range(100):
            print(line)
    assert output.last_lines().splitlines() == [str(line) for line in range(90, 100)]


def test_errors_get_through_and_restore_the_streams() -> None:
    before = sys.stdout
    with pytest.raises(RuntimeError, match="out of memory"), captured_output():
        raise RuntimeError("out of memory")
    assert sys.stdout is before
