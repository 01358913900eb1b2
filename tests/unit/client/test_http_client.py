"""The HTTP client against the bytes that Triton's generate endpoints send."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from client import (
    GenerateRequest,
    HttpClient,
    RequestRefused,
    ServerUnavailable,
    SlipstreamClientError,
    StreamBroken,
    Timeout,
)

if TYPE_CHECKING:
    from tests.unit.client.conftest import ScriptedHttpServer

REQUEST = GenerateRequest("hi", max_tokens=3, timeout_s=10.0)
EVENT = 'data: {"model_name":"ensemble","model_version":"1","text_output":"%s"}\n\n'


def event(text: str) -> bytes:
    return (EVENT % text).encode()


def texts(server: ScriptedHttpServer, request: GenerateRequest = REQUEST) -> list[str]:
    with HttpClient(server.url) as client, client.stream(request) as chunks:
        return [chunk.text for chunk in chunks]


def test_chunks_come_in_order(server: ScriptedHttpServer) -> None:
    server.parts = [event("Hé "), event("日本") + event("🙂")]
    assert texts(server) == ["Hé ", "日本", "🙂"]
    path, content_type, body = server.requests[0]
    assert (path, content_type) == ("/v2/models/ensemble/generate_stream", "application/json")
    assert json.loads(body)["text_input"] == "hi"


def test_characters_and_events_may_be_cut(server: ScriptedHttpServer) -> None:
    raw = event("日本🙂") * 2
    server.parts = [raw[i : i + 1] for i in range(len(raw))]
    assert texts(server) == ["日本🙂"] * 2


def test_counts_and_finish_reason_are_read(server: ScriptedHttpServer) -> None:
    running = {"text_output": "a", "finish_reason": "", "num_output_tokens": 1, "num_input_tokens": 4}
    last = {"text_output": "b", "finish_reason": "length", "num_output_tokens": 2, "num_input_tokens": 4}
    server.parts = [f"data: {json.dumps(answer)}\n\n".encode() for answer in (running, last)]
    with HttpClient(server.url) as client:
        completion = client.generate(REQUEST)
    assert (completion.text, completion.chunks, completion.finish_reason) == ("ab", 2, "length")
    assert (completion.num_input_tokens, completion.num_output_tokens) == (4, 3)


def test_an_answer_in_one_piece(server: ScriptedHttpServer) -> None:
    server.content_type, server.parts = "application/json", [b'{"text_output":', b'"all"}']
    assert texts(server, GenerateRequest("hi", stream=False)) == ["all"]
    assert server.requests[0][0] == "/v2/models/ensemble/generate"


def test_several_beams_give_the_first(server: ScriptedHttpServer) -> None:
    server.parts = [b'data: {"text_output":["best","second"]}\n\n']
    assert texts(server) == ["best"]


def test_a_chunk_is_there_before_the_next_is_made(server: ScriptedHttpServer) -> None:
    seen = threading.Event()
    server.parts = [event("first")]
    server.before_end = lambda: seen.wait(10)
    with HttpClient(server.url) as client, client.stream(REQUEST) as chunks:
        assert next(chunks).text == "first"
        seen.set()
        assert list(chunks) == []


def test_leaving_early_hangs_up(server: ScriptedHttpServer) -> None:
    server.parts = [event("first")]
    server.waits_for_hang_up = True
    with HttpClient(server.url) as client:
        with client.stream(REQUEST) as chunks:
            next(chunks)
        assert server.hung_up.wait(10)


@pytest.mark.parametrize(
    ("status", "content_type", "body", "message"),
    [
        (400, "text/event-stream", b'data: {"error":"prompt has 9 tokens"}\n\n', "prompt has 9 tokens"),
        (200, "application/json", b'{"error":"generate expects exactly 1 response"}', "exactly 1 response"),
        (404, "application/json", b'{"error":"unknown model"}', "unknown model"),
        (403, "text/html", b"<h1>Forbidden</h1>", "Forbidden"),
        (500, "text/plain", b"", "Internal Server Error"),
    ],
)
def test_a_refusal_carries_message_and_status(
    server: ScriptedHttpServer, status: int, content_type: str, body: bytes, message: str
) -> None:
    server.status, server.content_type, server.parts = status, content_type, [body] if body else []
    with pytest.raises(RequestRefused, match=message) as refusal:
        texts(server)
    assert refusal.value.code == str(status)


def test_a_busy_server_is_unavailable(server: ScriptedHttpServer) -> None:
    server.status, server.content_type = 503, "application/json"
    server.parts = [b'{"error":"Exceeds maximum queue size"}']
    with pytest.raises(ServerUnavailable, match="maximum queue size"):
        texts(server)


@pytest.mark.parametrize(
    ("tail", "complete", "message"),
    [
        (b'data: {"error":"the engine broke"}\n\n', True, "the engine broke"),
        (b"", False, "broke off"),
        (b'data: {"text_outp', True, "inside an event"),
        (b"data: no json\n\n", True, "broke off"),
        (b"data: \xff\n\n", True, "broke off"),
        (b"data: 7\n\n", True, "no JSON object"),
        (b'data: {"other":1}\n\n', True, "holds no text_output"),
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(
    server: ScriptedHttpServer, tail: bytes, complete: bool, message: str
) -> None:
    server.parts, server.complete = [event("begun"), *([tail] if tail else [])], complete
    with HttpClient(server.url) as client, client.stream(REQUEST) as chunks:
        assert next(chunks).text == "begun"
        with pytest.raises(StreamBroken, match=message):
            list(chunks)


def test_a_silent_server_is_given_up(server: ScriptedHttpServer) -> None:
    done = threading.Event()
    server.before_end = lambda: done.wait(10)
    try:
        with pytest.raises(Timeout, match=r"within 0\.2 s"):
            texts(server, GenerateRequest("hi", timeout_s=0.2))
    finally:
        done.set()


def test_a_trickle_does_not_outlive_the_deadline(server: ScriptedHttpServer) -> None:
    pause = threading.Event()
    server.parts = [event("x")] * 3
    with (
        HttpClient(server.url) as client,
        client.stream(GenerateRequest("hi", timeout_s=0.3)) as chunks,
    ):
        next(chunks)
        pause.wait(0.35)
        with pytest.raises(Timeout):
            list(chunks)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}")
    with client, pytest.raises(ServerUnavailable, match=f"no server answers at http://127.0.0.1:{port}"):
        client.generate(REQUEST)


def test_the_caller_s_own_errors_pass_unchanged(server: ScriptedHttpServer) -> None:
    server.parts = [event("x")]
    with (
        HttpClient(server.url) as client,
        pytest.raises(ValueError, match="mine") as raised,
        client.stream(REQUEST),
    ):
        raise ValueError("mine")
    assert not isinstance(raised.value, SlipstreamClientError)


def test_an_address_without_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must begin with http://"):
        HttpClient("127.0.0.1:8000")
