"""Many streams at once, clients that leave, and the block accounting afterwards."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import (
    Answer,
    infer_inputs,
    metric,
    stream,
    text_request,
    token_request,
    wait_for_metric,
    wait_until_idle,
)

pytestmark = pytest.mark.server

Serve = Callable[..., AbstractContextManager[TritonServer]]


def ask_all(server: TritonServer, requests: list[dict[str, Any]]) -> list[Answer]:
    answers: list[Answer | None] = [None] * len(requests)

    def ask(index: int) -> None:
        answers[index] = stream(server, "tensorrt_llm", requests[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for answer in answers if answer is not None]


@pytest.mark.parametrize("policy", ["guaranteed_no_evict", "max_utilization"])
def test_64_streams_of_mixed_lengths_all_finish_with_the_tokens_they_get_alone(
    serve: Serve, tiny_engine: Path, policy: str
) -> None:
    random = np.random.default_rng(0)
    shared = random.integers(3, 250, 70).tolist()
    requests = [
        token_request(
            [*(shared if i % 3 == 0 else []), *random.integers(3, 250, int(random.integers(1, 120))).tolist()],
            int(random.integers(1, 90)),
            streaming=bool(i % 2),
        )
        for i in range(64)
    ]
    # 28 blocks of 32 tokens for 64 sequences of up to 9 blocks: most must wait, or be paused and resumed.
    settings = {"batch_scheduler_policy": policy, "max_tokens_in_paged_kv_cache": "900", "max_num_tokens": "96"}
    with serve(tiny_engine, execution_mode="exact", **settings) as server:
        answers = ask_all(server, requests)
        assert [answer.error for answer in answers] == [None] * 64
        wait_until_idle(server)
        alone = [stream(server, "tensorrt_llm", request).ids for request in requests]
        assert [answer.ids for answer in answers] == alone
        wait_until_idle(server)
        wait_for_metric(server, 128, "slipstream_requests_total", finish_reason="length")


def test_a_full_queue_refuses_at_once_and_says_why(serve: Serve, tiny_engine: Path) -> None:
    with serve(tiny_engine, max_queue_size="4", max_running_sequences="1") as server:
        answers = ask_all(server, [token_request([5, 6, 7], 120)] * 24)
        refused = [answer for answer in answers if answer.error]
        assert refused
        expected = (
            "4 requests are waiting; max_queue_size is 4. Try again later, add instances, or raise max_queue_size."
        )
        assert {answer.error for answer in refused} == {expected}
        assert all(len(answer.ids) == 120 for answer in answers if not answer.error)
        wait_until_idle(server)


def test_an_urgent_request_overtakes_those_that_wait(serve: Serve, tiny_engine: Path) -> None:
    scheduled_ns: dict[str, int] = {}

    def ask(server: TritonServer, name: str, max_tokens: int, priority: float) -> threading.Thread:
        def run() -> None:
            request = token_request([5, 6, 7], max_tokens, priority=np.float32(priority), return_perf_metrics=True)
            (response,) = stream(server, "tensorrt_llm", request).responses
            scheduled_ns[name] = response["first_scheduled_time_ns"].item()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def wait_for(server: TritonServer, request_type: str, count: int) -> None:
        while metric(server, "nv_trt_llm_request_metrics", request_type=request_type) < count:
            assert not scheduled_ns, "the first request ended before the others were there"

    with serve(tiny_engine, max_running_sequences="1", stats_check_period_ms="10") as server:
        threads = [ask(server, "first", 1000, 0.5)]
        wait_for(server, "scheduled", 1)
        threads += [ask(server, f"patient {i}", 5, 0.1) for i in range(3)]
        wait_for(server, "waiting", 3)
        threads.append(ask(server, "urgent", 5, 1.0))
        for thread in threads:
            thread.join()
    assert sorted(scheduled_ns, key=scheduled_ns.__getitem__)[:2] == ["first", "urgent"]


def test_a_client_that_leaves_while_it_waits_is_taken_out_of_the_queue(serve: Serve, tiny_engine: Path) -> None:
    answers: list[Answer] = []

    def ask(server: TritonServer) -> None:
        answers.append(stream(server, "tensorrt_llm", token_request([5, 6, 7], 1000)))

    with serve(tiny_engine, max_running_sequences="1", stats_check_period_ms="10") as server:
        first = threading.Thread(target=ask, args=(server,))
        first.start()
        with triton.InferenceServerClient(server.grpc_url) as client:
            client.start_stream(lambda result, error: None)
            while metric(server, "nv_trt_llm_request_metrics", request_type="scheduled") < 1:
                assert not answers
            client.async_stream_infer("tensorrt_llm", infer_inputs(token_request([8, 9], 1000, streaming=True)))
            while metric(server, "nv_trt_llm_request_metrics", request_type="waiting") < 1:
                assert not answers, "the first request ended before the other was there"
            client.stop_stream(cancel_requests=True)
        first.join()
        wait_until_idle(server)
        wait_for_metric(server, 1, "slipstream_requests_total", finish_reason="cancelled")
        assert metric(server, "slipstream_tokens_total", type="generated") == 1000
        assert metric(server, "slipstream_tokens_total", type="prompt") == 3


LONG = 4000
A_FEW_STEPS = 100  # the check for clients that left comes every 100 ms; a step of the demo model takes about 10


def leave_grpc(server: TritonServer) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        arrived: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: arrived.put(result))
        client.async_stream_infer("tensorrt_llm", infer_inputs(token_request([5, 6, 7], LONG, streaming=True)))
        for _ in range(3):
            assert arrived.get(timeout=60) is not None
        client.stop_stream(cancel_requests=True)


def leave_http(server: TritonServer) -> None:
    body = {"input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": LONG, "streaming": True}
    url = f"{server.http_url}/v2/models/tensorrt_llm/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(3):
            assert next(lines) is not None


@pytest.mark.parametrize("leave", [leave_grpc, leave_http])
def test_a_client_that_leaves_frees_its_blocks_long_before_its_limit(
    demo_server: TritonServer, leave: Callable[[TritonServer], None]
) -> None:
    before = metric(demo_server, "slipstream_tokens_total", type="generated")
    cancelled = metric(demo_server, "slipstream_requests_total", finish_reason="cancelled")
    leave(demo_server)
    wait_until_idle(demo_server)
    wait_for_metric(demo_server, cancelled + 1, "slipstream_requests_total", finish_reason="cancelled")
    assert metric(demo_server, "slipstream_tokens_total", type="generated") - before < A_FEW_STEPS


def test_stop_ends_the_request_of_the_same_id_and_no_other(demo_server: TritonServer) -> None:
    answers: dict[str, Answer] = {}

    def ask(request_id: str) -> None:
        request = token_request([5, 6, 7], 300, streaming=True)
        answers[request_id] = stream(demo_server, "tensorrt_llm", request, request_id)

    threads = [threading.Thread(target=ask, args=(request_id,)) for request_id in ("stopped", "kept")]
    for thread in threads:
        thread.start()
    while metric(demo_server, "nv_trt_llm_request_metrics", request_type="active") < 2:
        pass
    stop = stream(demo_server, "tensorrt_llm", token_request([5], 1, stop=True), "stopped")
    assert (stop.error, stop.responses) == (None, [])
    for thread in threads:
        thread.join()
    assert len(answers["stopped"].ids) < 300
    assert len(answers["kept"].ids) == 300
    wait_until_idle(demo_server)


def test_leaving_the_ensemble_leaks_nothing(demo_server: TritonServer) -> None:
    """Triton passes no cancellation into an ensemble: the answer is generated to its limit, then all is free."""
    with triton.InferenceServerClient(demo_server.grpc_url) as client:
        arrived: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: arrived.put(result))
        client.async_stream_infer("ensemble", infer_inputs(text_request("Once", 100, stream=True)))
        assert arrived.get(timeout=60) is not None
        client.stop_stream(cancel_requests=True)
    wait_until_idle(demo_server)
