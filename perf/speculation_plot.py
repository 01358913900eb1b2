"""The picture of what drafts gain: by concurrency, and by how much of an answer repeats what stood before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perf.bench import Run
from perf.plot import COLOURS, panel
from perf.repetition import RUN_WORDS, Pair, bins

_PANELS = (
    ("request_latency", "avg", "response time, mean"),
    ("output_token_throughput", "avg", "output tokens per second"),
)


def save(
    runs: Mapping[str, Sequence[Run]], alone: Sequence[Pair], sides: Sequence[str], path: Path, subtitle: str
) -> None:
    """Writes the picture, in the format that ``path`` ends with.

    A row a workload, a panel a figure: bars are medians, whiskers the range over rounds. Below, a dot for each pair of
    ``alone``, if there are any.
    """
    with matplotlib.rc_context({"font.size": 9, "font.family": "sans-serif"}):
        rows = len(runs) + bool(alone)
        figure = Figure(figsize=(8.5, 3.2 * rows), layout="constrained")
        grid = figure.add_gridspec(rows, len(_PANELS))
        for number, (workload, measured) in enumerate(runs.items()):
            row = [figure.add_subplot(grid[number, column]) for column in range(len(_PANELS))]
            for axes, (tag, statistic, title) in zip(row, _PANELS, strict=True):
                panel(axes, measured, sides, tag, statistic, f"{workload}: {title}")
        if alone:
            _dots(figure.add_subplot(grid[-1, :]), alone)
        figure.suptitle(subtitle, fontsize=8, color="#555555", y=-0.01, va="top", wrap=True)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(sides), frameon=False)
        figure.savefig(path, dpi=160, bbox_inches="tight")


def _dots(axes: Axes, alone: Sequence[Pair]) -> None:
    axes.scatter(
        [pair.repeated * 100 for pair in alone], [pair.ratio for pair in alone], s=14, color=COLOURS[0], alpha=0.6
    )
    for each in bins(alone):
        axes.hlines(each.median, each.least * 100, each.most * 100, color="#333333", linewidth=1.2)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_title("one stream: response time with drafts over without (dots: answers, lines: medians)", fontsize=9)
    axes.set_xlabel(f"% of the answer's words in runs of {RUN_WORDS} or more that stood in prompt or answer before")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
