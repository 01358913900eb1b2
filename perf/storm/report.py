"""What the storm left behind, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from perf.storm.storm import Outcome

_SHOWN_FAILURES = 10


def show(outcomes: Mapping[str, Outcome], console: Console) -> None:
    """Two rows a door and the longest wait for an idle engine after a wave; then what went wrong."""
    table = Table(title="disconnect storm", title_justify="left", box=SIMPLE_HEAD)
    for header in ("door", "streams", "complete", "left", "failed"):
        table.add_column(header, justify="left" if header in ("door", "streams") else "right")
    table.add_column("idle after", justify="right")
    table.add_column("verdict")
    for door, outcome in outcomes.items():
        drain = f"{max(outcome.drains_s):.1f} s" if outcome.drains_s else "-"
        verdict = "[red]failed" if outcome.failures else "[green]passed"
        for transport, cells in (("sse", (door, drain, verdict)), ("grpc", ("", "", ""))):
            counts = [str(outcome.streams[transport, ending]) for ending in ("complete", "left", "failed")]
            table.add_row(cells[0], transport, *counts, *cells[1:])
    console.print(table)
    for door, outcome in outcomes.items():
        for failure, count in outcome.failures.most_common(_SHOWN_FAILURES):
            console.print(f"{door}: {failure} ({count} times)", markup=False, highlight=False)
