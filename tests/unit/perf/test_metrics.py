"""The formulas of the metrics, against slow and obvious computations on timelines of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.metrics import (
    InterChunkLatency,
    InterTokenLatency,
    OutputTokenThroughput,
    RequestLatency,
    Summary,
    TimeToFirstToken,
    summarize,
)
from perf.record import Arrival, RequestRecord

#: sent at 10 s; 1 token at 10.5 s, 3 tokens at 10.8 s, 1 token at 10.9 s
RECORD = RequestRecord(10.0, 7, (Arrival(10.5, 1), Arrival(10.8, 3), Arrival(10.9, 1)))


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    now_s = sent_s = draw(st.floats(0, 1000))
    arrivals = []
    for gap_s, tokens in draw(st.lists(st.tuples(st.floats(0.001, 5), st.integers(1, 9)), min_size=1, max_size=20)):
        now_s += gap_s
        arrivals.append(Arrival(now_s, tokens))
    return RequestRecord(sent_s, draw(st.integers(1, 100)), tuple(arrivals))


def test_time_to_first_token_ends_with_the_first_response() -> None:
    assert list(TimeToFirstToken().samples([RECORD])) == pytest.approx([500.0])


def test_tokens_of_one_response_share_its_gap() -> None:
    assert list(InterTokenLatency().samples([RECORD])) == pytest.approx([100.0, 100.0, 100.0, 100.0])


def test_tokens_that_come_with_the_first_have_waited_nothing() -> None:
    together = RequestRecord(0.0, 1, (Arrival(1.0, 3), Arrival(1.2, 1)))
    assert list(InterTokenLatency().samples([together])) == pytest.approx([0.0, 0.0, 200.0])


def test_chunk_gaps_are_not_shared() -> None:
    assert list(InterChunkLatency().samples([RECORD])) == pytest.approx([300.0, 100.0])


def test_request_latency_ends_with_the_last_response() -> None:
    assert list(RequestLatency().samples([RECORD])) == pytest.approx([900.0])


def test_throughput_counts_all_requests_from_the_first_to_the_last() -> None:
    later = RequestRecord(10.4, 7, (Arrival(12.0, 5),))
    assert list(OutputTokenThroughput().samples([RECORD, later])) == pytest.approx([10 / 2.0])


def test_a_coalesced_stream_has_the_mean_of_an_uncoalesced_one() -> None:
    single = RequestRecord(0.0, 1, tuple(Arrival(1.0 + 0.1 * n, 1) for n in range(9)))
    coalesced = RequestRecord(0.0, 1, (Arrival(1.0, 1), Arrival(1.4, 4), Arrival(1.8, 4)))
    means = [summarize([record])["inter_token_latency"].avg for record in (single, coalesced)]
    assert means == pytest.approx([100.0, 100.0])


@given(records())
def test_mean_inter_token_latency_is_aiperfs(record: RequestRecord) -> None:
    samples = list(InterTokenLatency().samples([record]))
    assert len(samples) == record.output_tokens - 1
    if samples:
        latency_ms = (record.arrivals[-1].received_s - record.sent_s) * 1e3
        ttft_ms = (record.arrivals[0].received_s - record.sent_s) * 1e3
        assert sum(samples) / len(samples) == pytest.approx((latency_ms - ttft_ms) / (record.output_tokens - 1))


@given(st.lists(records(), min_size=1, max_size=8))
def test_latency_is_the_first_token_and_all_chunk_gaps(many: list[RequestRecord]) -> None:
    for record in many:
        (ttft,), (latency,) = TimeToFirstToken().samples([record]), RequestLatency().samples([record])
        assert ttft + sum(InterChunkLatency().samples([record])) == pytest.approx(latency)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_a_summary_is_ordered_and_within_its_samples(samples: list[float]) -> None:
    summary = Summary.of(samples)
    ordered = [summary.min, summary.p50, summary.p90, summary.p99, summary.max]
    assert ordered == sorted(ordered)
    assert (summary.min, summary.max, summary.count) == (min(samples), max(samples), len(samples))


def test_percentiles_are_interpolated() -> None:
    summary = Summary.of([float(n) for n in range(101)])
    assert (summary.p50, summary.p90, summary.p99) == pytest.approx((50.0, 90.0, 99.0))


def test_one_token_answers_have_no_inter_token_latency() -> None:
    assert "inter_token_latency" not in summarize([RequestRecord(0.0, 1, (Arrival(1.0, 1),))])


@pytest.mark.parametrize("arrivals", [(), (Arrival(1.0, 0),)])
def test_a_record_without_tokens_is_refused(arrivals: tuple[Arrival, ...]) -> None:
    with pytest.raises(ValueError, match="at least one response"):
        RequestRecord(0.0, 1, arrivals)
