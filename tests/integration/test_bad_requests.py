"""What can be wrong with a request: a clear error for its sender, over HTTP and gRPC, and no harm to anybody else."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import Answer, post, stream, text_request, token_request, wait_until_idle

pytestmark = pytest.mark.server

TOO_LONG = "word " * 9000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text_input": TOO_LONG, "max_tokens": 5}, "tokens; this engine takes at most 8192"),
        ({"text_input": "hi", "max_tokens": 8192}, "together"),
        ({"text_input": "hi", "max_tokens": 0}, "is 0; ask for at least 1"),
        ({"text_input": "hi", "max_tokens": -1}, "is -1; ask for at least 1"),
        ({"text_input": "", "max_tokens": 5}, "the prompt is empty"),
        ({"text_input": "hi", "max_tokens": 5, "top_k": 5000}, "top_k (runtime_top_k) is 5000; it must lie between"),
        ({"text_input": "hi", "max_tokens": 5, "beam_width": 2}, "beam_width = 2 is not available on the CPU engine"),
        ({"text_input": "hi", "max_tokens": 5, "priority": 7.0}, "priority is 7; it lies between 0 and 1"),
        (
            {"text_input": "hi", "max_tokens": 5, "temprature": 0.5},
            'ensemble has no input "temprature"; did you mean "temperature"?',
        ),
        ({"text_input": "hi", "max_tokens": 5, "frobnicate": 1}, 'no input "frobnicate"; leave it out'),
        ({"max_tokens": 5}, "text_input"),
        ({"text_input": "hi"}, "max_tokens"),
        ({"text_input": ["hi"] * 65, "max_tokens": [5] * 65}, "64"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_over_http(demo_server: TritonServer, body: dict[str, Any], message: str) -> None:
    response = post(demo_server, "ensemble/generate", body)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]
    assert "Traceback" not in response.text


def test_unknown_keys_at_the_engine_door_over_http(demo_server: TritonServer) -> None:
    body = {"input_ids": [5], "input_lengths": 1, "request_output_len": 2, "stream": True, "id": "known"}
    response = post(demo_server, "tensorrt_llm/generate", body)
    assert response.status_code == 400
    assert 'tensorrt_llm has no input "stream"; did you mean "streaming"?' in response.json()["error"]


@pytest.mark.parametrize(
    ("model", "arrays", "message"),
    [
        ("ensemble", text_request(b"ab\xff\xfe", 5), "not valid UTF-8: invalid start byte at byte 2 of 4"),
        ("ensemble", text_request("", 5), "the prompt is empty"),
        ("ensemble", text_request(TOO_LONG, 5), "this engine takes at most 8192"),
        ("ensemble", {"max_tokens": np.array([[5]], np.int32)}, "text_input"),
        ("ensemble", text_request("hi") | {"max_tokens": np.array([[5]], np.int64)}, "max_tokens"),
        ("ensemble", text_request("hi") | {"max_tokens": np.array([[5, 6]], np.int32)}, "max_tokens"),
        ("tensorrt_llm", token_request([]), "the prompt is empty"),
        ("tensorrt_llm", token_request([5, 49152]), "token id 49152 is not in the vocabulary"),
        ("tensorrt_llm", token_request([5, -1]), "token id -1 is not in the vocabulary"),
        ("tensorrt_llm", token_request([5], 0), "ask for at least 1"),
        ("tensorrt_llm", token_request([5], draft_input_ids=np.int32(7)), "draft_input_ids = 7 is not available"),
        (
            "tensorrt_llm",
            token_request([5]) | {"input_lengths": np.array([[3]], np.int32)},
            "input_lengths is 3, but input_ids holds 1",
        ),
        ("tensorrt_llm", token_request([5], stop=True), "request ID is not provided"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_over_grpc(demo_server: TritonServer, model: str, arrays: dict[str, Any], message: str) -> None:
    answer = stream(demo_server, model, arrays)
    assert answer.responses == []
    assert answer.error is not None
    assert message in answer.error
    assert "Traceback" not in answer.error


def test_bad_requests_do_not_change_the_answers_of_good_ones(exact_server: TritonServer) -> None:
    good = text_request("The three primary colours are", 24, stream=True)
    alone = stream(exact_server, "ensemble", good)
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(stream(exact_server, "ensemble", good))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for i in range(40):
        bad = [text_request(b"\xff", 5), text_request("hi", 0), text_request("hi", 5, beam_width=np.int32(9))][i % 3]
        assert stream(exact_server, "ensemble", bad).error
    for thread in threads:
        thread.join()
    assert [answer.text for answer in answers] == [alone.text] * 8
    wait_until_idle(exact_server)


def test_one_bad_row_of_a_batch_refuses_the_request_and_leaves_nothing_running(demo_server: TritonServer) -> None:
    batch = {"text_input": np.array([[b"good"], [b"bad"]], np.object_), "max_tokens": np.array([[5], [0]], np.int32)}
    answer = stream(demo_server, "ensemble", batch)
    assert answer.error is not None
    assert "ask for at least 1" in answer.error
    wait_until_idle(demo_server)
