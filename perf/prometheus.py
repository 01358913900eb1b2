"""Sums of a server's counters, read from its /metrics."""

from __future__ import annotations

import re


def total(text: str, name: str) -> float:
    """The sum over all series of one metric in Prometheus' text format; 0 when there is none."""
    series = re.finditer(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(match[1]) for match in series)
