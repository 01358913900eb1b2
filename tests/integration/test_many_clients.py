"""Many streams at once, clients that leave, and the block accounting afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import (
    Answer,
    infer_inputs,
    metric,
    stream,
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
