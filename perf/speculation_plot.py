"""The picture of what drafts gain: a row a workload, a panel a figure, a pair of bars a concurrency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from perf.bench import Run
from perf.plot import panel

_PANELS = (
    ("request_latency", "avg", "response time, mean"),
    ("output_token_throughput", "avg", "output tokens per second"),
)


def save(runs: Mapping[str, Sequence[Run]], sides: Sequence[str], path: Path, subtitle: str) -> None:
    """Writes the picture, in the format that ``path`` ends with. Bars are medians, whiskers the range over rounds."""
    with matplotlib.rc_context({"font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(8.5, 3.2 * len(runs)), layout="constrained")
        grid = figure.subplots(len(runs), len(_PANELS), squeeze=False)
        for row, (workload, measured) in zip(grid, runs.items(), strict=True):
            for axes, (tag, statistic, title) in zip(row, _PANELS, strict=True):
                panel(axes, measured, sides, tag, statistic, f"{workload}: {title}")
        figure.suptitle(subtitle, fontsize=8, color="#555555", y=-0.01, va="top", wrap=True)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(sides), frameon=False)
        figure.savefig(path, dpi=160, bbox_inches="tight")
