"""What a build shows: every letter of a path or a log, on a terminal and off it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from build_engines.progress import BuildDisplay


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("text", ["[TensorRT-LLM][INFO] done", "[/INFO] done", "models/[old]/x"])
def test_brackets_are_letters(is_terminal: bool, text: str) -> None:
    """rich would take them for markup: leave them out, or raise."""
    output = io.StringIO()
    display = BuildDisplay(Console(file=output, force_terminal=is_terminal, width=120, highlight=False))

    def work(report: object) -> bool:
        assert callable(report)
        report(1, 2, text)
        return True

    display.note(text)
    display.run("compile", text, work)
    shown = output.getvalue()
    assert f"note: {text}" in shown
    assert f"compile: {text}" in shown.splitlines()[-1]
