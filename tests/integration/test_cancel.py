"""Ways to give a request up, and what the engine still does for it: a few steps, where Triton tells it."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from python_backend.launcher.server import TritonServer
from tests.integration.conftest import ROOT
from tests.integration.triton_api import (
    Answer,
    infer_inputs,
    metric,
    post,
    settle,
    stream,
    text_request,
    token_request,
    wait_for_metric,
    wait_until_idle,
)

pytestmark = pytest.mark.server

LONG = 4000
SHORT = 100
A_FEW_STEPS = 100  # the check for clients that left comes every 100 ms; a step of the demo model takes about 10


def steps(server: TritonServer) -> float:
    return metric(server, "nv_trt_llm_general_metrics", general_type="iteration_counter")


def wait_until_running(server: TritonServer) -> None:
    deadline_s = time.monotonic() + 60
    while metric(server, "nv_trt_llm_request_metrics", request_type="scheduled") < 1:
        assert time.monotonic() < deadline_s, "nothing runs"


def cancel_over_grpc(server: TritonServer) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        arrived: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: arrived.put(result))
        client.async_stream_infer("tensorrt_llm", infer_inputs(token_request([5, 6, 7], LONG, streaming=True)))
        for _ in range(3):
            assert arrived.get(timeout=60) is not None
        client.stop_stream(cancel_requests=True)


_KILLED = """
import os, signal, sys
import tritonclient.grpc as triton
from tests.integration.triton_api import infer_inputs, token_request

seen = 0

def arrive(result, error):
    global seen
    seen += 1
    if seen == 3:
        os.kill(os.getpid(), signal.SIGKILL)

client = triton.InferenceServerClient(sys.argv[1])
client.start_stream(arrive)
client.async_stream_infer("tensorrt_llm", infer_inputs(token_request([5, 6, 7], int(sys.argv[2]), streaming=True)))
client.stop_stream()
"""


def die_over_grpc(server: TritonServer) -> None:
    command = [sys.executable, "-c", _KILLED, server.grpc_url, str(LONG)]
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == -9


def leave_generate_stream(server: TritonServer) -> None:
    body = {"input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": LONG, "streaming": True}
    url = f"{server.http_url}/v2/models/tensorrt_llm/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(3):
            assert next(lines) is not None


def stop_by_id(server: TritonServer) -> None:
    answers: list[Answer] = []
    request = token_request([5, 6, 7], LONG, streaming=True)
    thread = threading.Thread(target=lambda: answers.append(stream(server, "tensorrt_llm", request, "to stop")))
    thread.start()
    wait_until_running(server)
    stop(server, "to stop")
    thread.join()
    assert answers[0].error is None
    assert len(answers[0].ids) < LONG


def stop(server: TritonServer, request_id: str) -> None:
    said = stream(server, "tensorrt_llm", token_request([5], 1, stop=True), request_id)
    assert (said.error, said.responses) == (None, [])


@pytest.mark.parametrize("leave", [cancel_over_grpc, die_over_grpc, leave_generate_stream, stop_by_id])
def test_a_request_that_is_given_up_frees_its_blocks_within_a_few_steps(
    demo_server: TritonServer, leave: Callable[[TritonServer], None]
) -> None:
    wait_until_idle(demo_server)
    before = steps(demo_server)
    settle(demo_server)
    cancelled = metric(demo_server, "slipstream_requests_total", finish_reason="cancelled")
    leave(demo_server)
    wait_until_idle(demo_server)
    wait_for_metric(demo_server, cancelled + 1, "slipstream_requests_total", finish_reason="cancelled")
    assert steps(demo_server) - before < A_FEW_STEPS


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
    stop(demo_server, "stopped")
    for thread in threads:
        thread.join()
    assert len(answers["stopped"].ids) < 300
    assert len(answers["kept"].ids) == 300
    wait_until_idle(demo_server)


def test_a_timeout_ends_a_request_with_what_it_has(demo_server: TritonServer) -> None:
    settle(demo_server)
    timed_out = metric(demo_server, "slipstream_requests_total", finish_reason="timed_out")
    for model, request in (
        ("tensorrt_llm", token_request([5, 6, 7], LONG)),
        ("ensemble", text_request("Once", LONG, end_id=np.int32(-1))),
    ):
        attempts_us = [500_000 * 4**attempt for attempt in range(4)]  # on a busy machine the first token takes long
        for timeout_us in attempts_us:
            timed_out += 1
            answer = stream(demo_server, model, request, timeout_us=timeout_us)
            if answer.error is None:
                break
            assert "before the first token" in answer.error or "waited to be scheduled" in answer.error
        assert answer.finish_reason == "cancelled"
        assert answer.text
    wait_until_idle(demo_server)
    wait_for_metric(demo_server, timed_out, "slipstream_requests_total", finish_reason="timed_out")


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
@pytest.mark.parametrize("streaming", [True, False])
def test_stop_at_the_engine_ends_the_request_of_a_front_door(
    demo_server: TritonServer, streaming: bool, model: str
) -> None:
    """Triton hands an ensemble's request id to the models it is made of; `tensorrt_llm_bls` makes its own from it."""
    wait_until_idle(demo_server)
    before = steps(demo_server)
    answers: list[Answer] = []
    request = text_request("Once", LONG, end_id=np.int32(-1), stream=streaming)
    thread = threading.Thread(target=lambda: answers.append(stream(demo_server, model, request, "at the door")))
    thread.start()
    wait_until_running(demo_server)
    stop(demo_server, "at the door")
    thread.join()
    wait_until_idle(demo_server)
    assert answers[0].error is None
    assert steps(demo_server) - before < A_FEW_STEPS


def test_stop_over_http_ends_a_generate_of_an_ensemble(demo_server: TritonServer) -> None:
    wait_until_idle(demo_server)
    before = steps(demo_server)
    said: list[httpx.Response] = []
    body = {"id": "over http", "text_input": "Once", "max_tokens": LONG, "end_id": -1}
    thread = threading.Thread(target=lambda: said.append(post(demo_server, "ensemble/generate", body)))
    thread.start()
    wait_until_running(demo_server)
    stopping = {"id": "over http", "input_ids": [5], "input_lengths": 1, "request_output_len": 1, "stop": True}
    assert post(demo_server, "tensorrt_llm/generate", stopping).status_code == 200
    thread.join()
    wait_until_idle(demo_server)
    assert steps(demo_server) - before < A_FEW_STEPS
    assert said[0].status_code == 200


def leave_ensemble(server: TritonServer) -> None:
    """Triton passes no cancellation into an ensemble."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        arrived: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: arrived.put(result))
        request = text_request("Once", SHORT, end_id=np.int32(-1), stream=True)
        client.async_stream_infer("ensemble", infer_inputs(request))
        assert arrived.get(timeout=60) is not None
        client.stop_stream(cancel_requests=True)


def leave_generate(server: TritonServer) -> None:
    """Triton notices that an HTTP connection is closed when it writes to it, and here it writes at the end only."""
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    body = {"input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": SHORT}
    request = httpx.Request("POST", f"{server.http_url}/v2/models/tensorrt_llm/generate", json=body)
    head = f"POST {request.url.path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(request.content)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + request.content)
        wait_until_running(server)


@pytest.mark.parametrize("leave", [leave_ensemble, leave_generate])
def test_an_answer_whose_client_left_unnoticed_is_computed_to_its_limit_and_leaks_nothing(
    demo_server: TritonServer, leave: Callable[[TritonServer], None]
) -> None:
    settle(demo_server)
    length = metric(demo_server, "slipstream_requests_total", finish_reason="length")
    leave(demo_server)
    wait_until_idle(demo_server)
    wait_for_metric(demo_server, length + 1, "slipstream_requests_total", finish_reason="length")
