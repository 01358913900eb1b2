"""What /metrics says about the engine: names, labels, buckets, and what was observed since the last publication.

NVIDIA's gauges keep their names and labels, so that dashboards made for TensorRT-LLM work. The histograms and counters
are what operators of text generation ask for and the C++ backend does not have. The module knows no metrics library.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``label`` tells its members apart; families without label have one member."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    description: str
    label: str | None = None
    members: tuple[str, ...] = ("",)
    buckets: tuple[float, ...] = ()


REQUESTS = Metric(
    "nv_trt_llm_request_metrics", "gauge", "TRT LLM request metrics", "request_type",
    ("active", "max", "scheduled", "context", "waiting"),
)  # fmt: skip
MEMORY = Metric(
    "nv_trt_llm_runtime_memory_metrics", "gauge", "TRT LLM runtime memory metrics", "memory_type",
    ("cpu", "gpu", "pinned"),
)  # fmt: skip
KV_CACHE = Metric(
    "nv_trt_llm_kv_cache_block_metrics", "gauge", "TRT LLM KV cache block metrics", "kv_cache_block_type",
    ("max", "free", "used", "tokens_per", "reused", "fraction"),
)  # fmt: skip
BATCHER = Metric(
    "nv_trt_llm_inflight_batcher_metrics", "gauge", "TRT LLM inflight batcher metrics",
    "inflight_batcher_specific_metric",
    ("total_context_tokens", "generation_requests", "micro_batch_id", "paused_requests"),
)  # fmt: skip
GENERAL = Metric(
    "nv_trt_llm_general_metrics",
    "gauge",
    "General TRT LLM metrics",
    "general_type",
    ("timestamp", "iteration_counter"),
)
INPUT_LENGTH = Metric(
    "nv_llm_input_token_len", "histogram", "Prompt tokens of each request", "response_metric_type",
    ("total_input_tokens",), (10, 50, 100, 500, 1000),
)  # fmt: skip
OUTPUT_LENGTH = Metric(
    "nv_llm_output_token_len", "histogram", "Generated tokens of each request", "response_metric_type",
    ("total_output_tokens",), (10, 50, 100, 500, 1000),
)  # fmt: skip

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0)
TTFT = Metric(
    "slipstream_time_to_first_token_seconds", "histogram",
    "From the arrival of a request at the engine to its first token", buckets=_SECONDS,
)  # fmt: skip
ITL = Metric(
    "slipstream_inter_token_latency_seconds", "histogram",
    "Between two tokens of one sequence, waiting for paused ones included", buckets=_SECONDS,
)  # fmt: skip
QUEUE_TIME = Metric(
    "slipstream_queue_time_seconds", "histogram",
    "From the arrival of a request at the engine to the first step it is part of", buckets=_SECONDS,
)  # fmt: skip
TOKENS = Metric(
    "slipstream_tokens_total",
    "counter",
    "Prompt tokens, those of them that the KV cache had already, and generated tokens",
    "type",
    ("prompt", "generated", "reused"),
)
FINISHED = Metric(
    "slipstream_requests_total", "counter", "Requests that ended, by how", "finish_reason",
    ("stop", "length", "cancelled", "timed_out", "error", "rejected"),
)  # fmt: skip
DRAFT_TOKENS = Metric(
    "slipstream_draft_tokens_total", "counter",
    "Draft tokens that the target has verified, by where they came from", "drafter",
    ("ngram", "draft_model"),
)  # fmt: skip
ACCEPTED_DRAFT_TOKENS = Metric(
    "slipstream_accepted_draft_tokens_total", "counter",
    "Draft tokens that the target has accepted, by where they came from", "drafter",
    ("ngram", "draft_model"),
)  # fmt: skip
DRAFTING = Metric(
    "slipstream_drafting_metrics", "gauge",
    "Drafting over the latest steps of an engine, or rounds of a front door: accepted share, draft tokens a sequence, "
    "estimated tokens per second over those without drafts",
    "drafting_metric", ("acceptance_rate", "draft_length", "speedup"),
)  # fmt: skip

HISTOGRAMS = (TTFT, ITL, QUEUE_TIME, INPUT_LENGTH, OUTPUT_LENGTH)
COUNTERS = (TOKENS, FINISHED, DRAFT_TOKENS, ACCEPTED_DRAFT_TOKENS)
GAUGES = (REQUESTS, MEMORY, KV_CACHE, BATCHER, GENERAL, DRAFTING)


@dataclass(slots=True)
class Observations:
    """Values of histograms and increments of counters, between two publications."""

    values: dict[Metric, list[float]] = field(default_factory=dict)
    increments: dict[tuple[Metric, str], int] = field(default_factory=dict)


class Recorder:
    """Collects observations cheaply on the hot path. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending = Observations()

    def observe(self, metric: Metric, value: float) -> None:
        with self._lock:
            self._pending.values.setdefault(metric, []).append(value)

    def count(self, metric: Metric, member: str, amount: int = 1) -> None:
        with self._lock:
            key = (metric, member)
            self._pending.increments[key] = self._pending.increments.get(key, 0) + amount

    def take(self) -> Observations:
        """Everything since the last call."""
        with self._lock:
            taken, self._pending = self._pending, Observations()
            return taken
