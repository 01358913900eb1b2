"""The metrics of a load run: each is declared once, with its formula, header and unit.

Tags are those of NVIDIA's aiperf. Durations are in milliseconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from perf.record import RequestRecord

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The distribution of a metric's samples; a metric with one sample has them all equal."""

    avg: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Percentiles are interpolated linearly. ValueError without samples."""
        if not samples:
            raise ValueError("there is no sample to summarize.")
        p50, p90, p99 = (float(value) for value in np.percentile(samples, PERCENTILES))
        return cls(
            avg=float(np.mean(samples)), min=min(samples), p50=p50, p90=p90, p99=p99, max=max(samples),
            count=len(samples),
        )  # fmt: skip


class Metric(ABC):
    """A quantity computed from the requests of one run."""

    tag: ClassVar[str]
    header: ClassVar[str]
    unit: ClassVar[str]
    larger_is_better: ClassVar[bool] = False

    @abstractmethod
    def samples(self, records: Sequence[RequestRecord]) -> Iterator[float]:
        """All samples of the run."""


class TimeToFirstToken(Metric):
    """One sample a request.

    Formula: time to first token = first response received - request sent
    """

    tag, header, unit = "time_to_first_token", "TTFT", "ms"

    def samples(self, records: Sequence[RequestRecord]) -> Iterator[float]:
        for record in records:
            yield (record.arrivals[0].received_s - record.sent_s) * 1e3


class InterTokenLatency(Metric):
    """One sample for each token after a request's first.

    Tokens that came in one response share the time since the response before it; those that came together with the
    first token have waited 0. So the samples of a request add up to (last response - first response), and their mean
    is aiperf's inter token latency, (request latency - TTFT) / (output tokens - 1).

    Formula: k samples of (response received - previous response received) / k, for a response of k tokens
    """

    tag, header, unit = "inter_token_latency", "ITL", "ms"

    def samples(self, records: Sequence[RequestRecord]) -> Iterator[float]:
        for record in records:
            yield from (0.0 for _ in range(record.arrivals[0].tokens - 1))
            for previous, arrival in pairwise(record.arrivals):
                share_ms = (arrival.received_s - previous.received_s) / arrival.tokens * 1e3
                yield from (share_ms for _ in range(arrival.tokens))


class InterChunkLatency(Metric):
    """One sample for each response after a request's first: the pauses that a reader sees.

    Formula: inter chunk latency = response received - previous response received
    """

    tag, header, unit = "inter_chunk_latency", "chunk gap", "ms"

    def samples(self, records: Sequence[RequestRecord]) -> Iterator[float]:
        for record in records:
            for previous, arrival in pairwise(record.arrivals):
                yield (arrival.received_s - previous.received_s) * 1e3


class RequestLatency(Metric):
    """One sample a request.

    Formula: request latency = last response received - request sent
    """

    tag, header, unit = "request_latency", "E2E", "ms"

    def samples(self, records: Sequence[RequestRecord]) -> Iterator[float]:
        for record in records:
            yield (record.arrivals[-1].received_s - record.sent_s) * 1e3


class OutputTokenThroughput(Metric):
    """One sample a run, all requests together, from the first request to the last response (ramp and tail included).

    Formula: output token throughput = sum of output tokens / (last response received - first request sent)
    """

    tag, header, unit = "output_token_throughput", "output", "tokens/s"
    larger_is_better = True

    def samples(self, records: Sequence[RequestRecord]) -> Iterator[float]:
        if not records:
            return
        tokens = sum(record.output_tokens for record in records)
        first_s = min(record.sent_s for record in records)
        last_s = max(record.arrivals[-1].received_s for record in records)
        yield tokens / (last_s - first_s)


_ALL = (OutputTokenThroughput(), TimeToFirstToken(), InterTokenLatency(), InterChunkLatency(), RequestLatency())
METRICS: dict[str, Metric] = {metric.tag: metric for metric in _ALL}


def summarize(records: Sequence[RequestRecord]) -> dict[str, Summary]:
    """Every metric that the records have samples for, by tag."""
    sampled = {tag: list(metric.samples(records)) for tag, metric in METRICS.items()}
    return {tag: Summary.of(samples) for tag, samples in sampled.items() if samples}
