"""What a benchmark found, as a table and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from inspect import getdoc
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from perf.bench import BenchPlan, Run, ratios, values
from perf.metrics import METRICS, Metric

#: the figures of the table: metric and statistic
FIGURES = (
    ("output_token_throughput", "avg"),
    ("time_to_first_token", "p50"),
    ("time_to_first_token", "p90"),
    ("time_to_first_token", "p99"),
    ("inter_token_latency", "avg"),
    ("inter_token_latency", "p99"),
    ("inter_chunk_latency", "p99"),
)
_PACKAGES = ("slipstream", "openvino", "openvino-genai", "nvidia-pytriton")


def table(runs: Sequence[Run], sides: Sequence[str]) -> Table:
    """Medians over the rounds; with two sides, the ratio of the first to the second, each round for itself."""
    title = "median over rounds (ratio: smallest-largest)"
    result = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("workers", "figure", *sides, *(["ratio"] if len(sides) == 2 else [])):
        result.add_column(header, justify="left" if header == "figure" else "right", no_wrap=True)
    for concurrency in dict.fromkeys(run.concurrency for run in runs):
        for number, (tag, statistic) in enumerate(FIGURES):
            row = [_median(values(runs, side, concurrency, tag, statistic)) for side in sides]
            if len(sides) == 2:
                row.append(_spread(ratios(runs, sides[0], sides[1], concurrency, tag, statistic)))
            result.add_row(str(concurrency) if number == 0 else "", _label(METRICS[tag], statistic), *row)
        result.add_section()
    return result


def document(plan: BenchPlan, runs: Sequence[Run], sides: Sequence[str], load_average: float) -> dict[str, Any]:
    """Everything as JSON values: where, what, each run, and the ratios round by round."""
    return {
        "environment": environment() | {"load_average_before": load_average},
        "plan": asdict(plan),
        "metrics": {tag: {"unit": metric.unit, "definition": getdoc(metric)} for tag, metric in METRICS.items()},
        "runs": [asdict(run) for run in runs],
        "ratios": _all_ratios(runs, sides) if len(sides) == 2 else [],
    }


def environment() -> dict[str, Any]:
    """The machine and the versions that were measured."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def _all_ratios(runs: Sequence[Run], sides: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "concurrency": concurrency,
            "metric": tag,
            "statistic": statistic,
            "rounds": ratios(runs, sides[0], sides[1], concurrency, tag, statistic),
        }
        for concurrency in dict.fromkeys(run.concurrency for run in runs)
        for tag, statistic in FIGURES
    ]


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _label(metric: Metric, statistic: str) -> str:
    name = metric.header if statistic == "avg" else f"{metric.header} {statistic}"
    return f"{name} ({metric.unit})"


def _median(figures: Sequence[float]) -> str:
    return f"{median(figures):.1f}" if figures else "-"


def _spread(figures: Sequence[float]) -> str:
    return f"{median(figures):.2f} ({min(figures):.2f}-{max(figures):.2f})" if figures else "-"
