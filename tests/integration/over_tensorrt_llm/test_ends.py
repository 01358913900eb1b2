"""Clients that leave, time that is up, and many at once: engines work for nobody who is not there."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton

from python_backend.launcher.server import TritonServer
from tests.integration.over_tensorrt_llm.doors import DOORS, DRAFT, ENGINE_OF, PLAIN, PROMPTS, SCRIPTS, ask
from tests.integration.triton_api import infer_inputs, metric, stream, text_request, wait_for_metric

pytestmark = pytest.mark.server

LONG = 4000  # tokens; many seconds


def leave_grpc(server: TritonServer, model: str) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        arrived: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: arrived.put(result))
        client.async_stream_infer(model, infer_inputs(text_request(PROMPTS["long"], LONG, stream=True)))
        for _ in range(20):
            assert arrived.get(timeout=60) is not None
        client.stop_stream(cancel_requests=True)


def leave_http(server: TritonServer, model: str) -> None:
    body = {"text_input": PROMPTS["long"], "max_tokens": LONG, "stream": True}
    url = f"{server.http_url}/v2/models/{model}/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = (line for line in response.iter_lines() if line)
        for _ in range(20):
            assert next(lines)


def wait_until_quiet(server: TritonServer, engine: str) -> None:
    """Until no call runs, and no further one begins."""
    calls, quiet_since_s = -1.0, time.monotonic()
    while time.monotonic() - quiet_since_s < 0.25:
        found = metric(server, "stand_in_calls", model=engine)
        if found != calls or metric(server, "stand_in_running", model=engine):
            calls, quiet_since_s = found, time.monotonic()
        time.sleep(0.02)


@pytest.mark.parametrize("leave", [leave_grpc, leave_http])
@pytest.mark.parametrize("model", DOORS)
def test_a_client_that_leaves_stops_the_engine(server: TritonServer, model: str, leave: Any) -> None:
    before = metric(server, "stand_in_tokens", model=ENGINE_OF[model])
    leave(server, model)
    wait_until_quiet(server, ENGINE_OF[model])
    assert metric(server, "stand_in_tokens", model=ENGINE_OF[model]) - before < LONG / 4


@pytest.mark.parametrize("model", DOORS)
def test_when_time_is_up_the_client_keeps_what_there_is(server: TritonServer, model: str) -> None:
    for streams in (True, False):
        request = text_request(PROMPTS["long"], LONG, stream=streams)
        answer = stream(server, model, request, timeout_us=700_000)
        assert answer.error is None
        assert SCRIPTS["long"].startswith(answer.text)
        assert 10 < len(answer.text) < len(SCRIPTS["long"]) / 2
    wait_for_metric(server, 0, "stand_in_running", model=ENGINE_OF[model])


def test_without_a_token_in_time_it_is_an_error(server: TritonServer) -> None:
    # Of a door whose engine no other test counts on: the call may still be stopped when the answer is there.
    answer = stream(server, "bls_undrafted", text_request(PROMPTS["long"], LONG), timeout_us=1)
    assert answer.error is not None
    assert "timeout 0 ms passed" in answer.error


def test_an_answer_that_ends_by_itself_needs_no_stop(server: TritonServer) -> None:
    def stopped() -> list[float]:
        return [metric(server, "stand_in_stopped", model=engine) for engine in ("quick", "tensorrt_llm")]

    before = stopped()
    for model in DOORS:
        ask(server, model, "copy", stream=True)
        ask(server, model, "copy", 20, stream=True)
    assert stopped() == before


def test_32_requests_at_once_in_one_instance(server: TritonServer) -> None:
    texts: dict[int, str] = {}
    expected = {index: ask(server, PLAIN, "tale", 20 + index).text for index in (0, 31)}
    most = 0.0

    def run(index: int) -> None:
        texts[index] = ask(server, DRAFT, "tale", 20 + index, stream=bool(index % 2)).text

    threads = [threading.Thread(target=run, args=(index,)) for index in range(32)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, metric(server, "stand_in_running", model="tensorrt_llm"))
    for thread in threads:
        thread.join()
    assert most > 8, "requests waited for each other"
    assert {index: texts[index] for index in expected} == expected
    assert all(SCRIPTS["tale"].startswith(text.rstrip("\ufffd")) for text in texts.values())
