from __future__ import annotations

from io import StringIO

from rich.console import Console

from perf.prewarm import FirstToken, table


def test_reductions_are_taken_prompt_by_prompt() -> None:
    found = [FirstToken(1024, 10.0, 100.0), FirstToken(1030, 50.0, 200.0), FirstToken(1026, 40.0, 100.0)]
    console = Console(width=120, record=True, file=StringIO())
    console.print(table(found))
    shown = console.export_text()
    assert "75% (60%-90%)" in shown
    assert "1026" in shown
