"""Publishes a model's figures on Triton's /metrics.

Each value crosses to the server process, so they go out in bundles, now and then, and never from the engine's loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.engine.drafter import DraftStatistics
from python_backend.engine.engine import EngineStatistics
from python_backend.metrics import (
    BATCHER,
    DRAFTING,
    GENERAL,
    KV_CACHE,
    MEMORY,
    REQUESTS,
    Metric,
    Observations,
)


class MetricsPublisher:
    """Owns the metric families of one model instance."""

    def __init__(self, model: str, version: str, metrics: Iterable[Metric]) -> None:
        self._families: list[Any] = []  # a metric lives no longer than its family
        self._metrics: dict[tuple[Metric, str], Any] = {}
        self._shown: dict[tuple[Metric, str], float] = {}  # of gauges
        for metric in metrics:
            self._register(metric, {"model": model, "version": version})

    def _register(self, metric: Metric, labels: dict[str, str]) -> None:
        kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
        family = pb_utils.MetricFamily(name=metric.name, description=metric.description, kind=kind)
        self._families.append(family)
        options = {"buckets": list(metric.buckets)} if metric.buckets else {}
        for member in metric.members:
            member_labels = labels if metric.label is None else {**labels, metric.label: member}
            self._metrics[metric, member] = family.Metric(labels=member_labels, **options)

    def publish(self, gauges: Mapping[tuple[Metric, str], float], observations: Observations) -> None:
        """Bring /metrics up to date. Call it from one thread only."""
        for (metric, member), amount in observations.increments.items():
            self._metrics[metric, member].increment(amount)
        for metric, values in observations.values.items():
            for value in values:
                self._metrics[metric, metric.members[0]].observe(value)
        for name, value in gauges.items():
            if self._shown.get(name) != value:  # most stay as they are for a while
                self._metrics[name].set(value)
                self._shown[name] = value


def engine_gauges(statistics: EngineStatistics) -> dict[tuple[Metric, str], float]:
    """Of ``GAUGES``."""
    requests, blocks = statistics.requests, statistics.blocks
    return {
        (REQUESTS, "active"): requests.active,
        (REQUESTS, "max"): requests.max,
        (REQUESTS, "scheduled"): requests.scheduled,
        (REQUESTS, "context"): requests.context,
        (REQUESTS, "waiting"): requests.waiting,
        (MEMORY, "cpu"): statistics.kv_cache_bytes,
        (MEMORY, "gpu"): 0,
        (MEMORY, "pinned"): 0,
        (KV_CACHE, "max"): blocks.max,
        (KV_CACHE, "free"): blocks.free,
        (KV_CACHE, "used"): blocks.used,
        (KV_CACHE, "tokens_per"): blocks.tokens_per,
        (KV_CACHE, "reused"): blocks.reused_total,
        (KV_CACHE, "fraction"): blocks.used / blocks.max,
        (BATCHER, "total_context_tokens"): requests.total_context_tokens,
        (BATCHER, "generation_requests"): requests.generation_requests,
        (BATCHER, "micro_batch_id"): 0,
        (BATCHER, "paused_requests"): requests.paused,
        (GENERAL, "timestamp"): time.time(),
        (GENERAL, "iteration_counter"): statistics.iterations,
        **drafting_gauges(statistics.drafts),
    }


def drafting_gauges(drafts: DraftStatistics) -> dict[tuple[Metric, str], float]:
    """Of ``DRAFTING``."""
    return {
        (DRAFTING, "acceptance_rate"): drafts.acceptance_rate,
        (DRAFTING, "draft_length"): drafts.draft_length,
        (DRAFTING, "speedup"): drafts.speedup,
    }
