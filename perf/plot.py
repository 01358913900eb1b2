"""The picture of a benchmark: one panel a metric, one pair of bars a concurrency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perf.bench import Run, ratios, values
from perf.metrics import METRICS

_PANELS = (
    ("output_token_throughput", "avg", "output tokens per second"),
    ("time_to_first_token", "p50", "time to first token, median"),
    ("inter_token_latency", "avg", "inter-token latency, mean"),
)
COLOURS = ("#0072b2", "#bbbbbb")  # told apart in greyscale and by colour-blind readers
_WIDTH = 0.38


def save(runs: Sequence[Run], sides: Sequence[str], path: Path, subtitle: str) -> None:
    """Writes the picture, in the format that ``path`` ends with. Bars are medians, whiskers the range over rounds."""
    with matplotlib.rc_context({"font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(10.5, 3.9), layout="constrained")
        for axes, (tag, statistic, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
            panel(axes, runs, sides, tag, statistic, title)
        figure.suptitle(subtitle, fontsize=8, color="#555555", y=-0.02, va="top")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(sides), frameon=False)
        figure.savefig(path, dpi=160, bbox_inches="tight")


def panel(axes: Axes, runs: Sequence[Run], sides: Sequence[str], tag: str, statistic: str, title: str) -> None:
    """One figure of each side at each concurrency; of two sides also the ratio."""
    metric = METRICS[tag]
    concurrencies = list(dict.fromkeys(run.concurrency for run in runs))
    tops = [0.0] * len(concurrencies)
    for number, side in enumerate(sides):
        rounds = [values(runs, side, concurrency, tag, statistic) for concurrency in concurrencies]
        middles = [median(figures) for figures in rounds]
        whiskers = [
            [middle - min(figures) for middle, figures in zip(middles, rounds, strict=True)],
            [max(figures) - middle for middle, figures in zip(middles, rounds, strict=True)],
        ]
        places = [group + (number - (len(sides) - 1) / 2) * _WIDTH for group in range(len(concurrencies))]
        axes.bar(
            places, middles, _WIDTH, yerr=whiskers, label=side, color=COLOURS[number], edgecolor="white",
            error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#333333"},
        )  # fmt: skip
        tops = [max(top, *figures) for top, figures in zip(tops, rounds, strict=True)]
    if len(sides) == 2:
        for group, (concurrency, top) in enumerate(zip(concurrencies, tops, strict=True)):
            ratio = median(ratios(runs, sides[0], sides[1], concurrency, tag, statistic))
            label = f"{ratio:.2f}\N{MULTIPLICATION SIGN}"
            axes.annotate(label, (group, top), (0, 5), textcoords="offset points", ha="center", weight="bold")
    better = "higher" if metric.larger_is_better else "lower"
    axes.set_title(f"{title}\n({metric.unit}, {better} is better)", fontsize=9)
    axes.set_xticks(range(len(concurrencies)), [str(concurrency) for concurrency in concurrencies])
    axes.set_xlabel("concurrent requests")
    axes.margins(y=0.14)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
