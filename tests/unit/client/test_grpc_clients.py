"""Both gRPC clients against a real gRPC server that answers with the messages Triton is known to send."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from client import (
    AsyncGrpcClient,
    Chunk,
    GenerateRequest,
    GrpcClient,
    RequestRefused,
    ServerUnavailable,
    SlipstreamClientError,
    StreamBroken,
    Timeout,
)

REQUEST = GenerateRequest("hi", max_tokens=3, timeout_s=10.0, request_id="r1")


def response(text: str | bytes | None, final: bool = False, **outputs: Any) -> Any:
    """One response of a decoupled model; no outputs at all when ``text`` is None."""
    infer = service_pb2.ModelInferResponse(model_name="ensemble", model_version="1")
    infer.parameters["triton_final_response"].bool_param = final
    named = {"text_output": text, **outputs} if text is not None else outputs
    for name, value in named.items():
        if isinstance(value, int):
            infer.outputs.add(name=name, datatype="INT32", shape=[1, 1])
            infer.raw_output_contents.append(struct.pack("<i", value))
        else:
            raw = value.encode() if isinstance(value, str) else value
            infer.outputs.add(name=name, datatype="BYTES", shape=[1, 1])
            infer.raw_output_contents.append(struct.pack("<I", len(raw)) + raw)
    return service_pb2.ModelStreamInferResponse(infer_response=infer)


def error_in_band(message: str) -> Any:
    return service_pb2.ModelStreamInferResponse(error_message=message)


class ScriptedGrpcServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc, unused-ignore]
    """Answers each request with ``script``, then ends the stream; raises what is an exception."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.cancelled = threading.Event()
        self.url = ""
        self._ended = False

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        context.add_callback(lambda: None if self._ended else self.cancelled.set())
        self.requests.append(next(requests))
        for step in self.script:
            if isinstance(step, grpc.StatusCode):
                self._ended = True
                context.abort(step, "the reason")
            elif callable(step):
                step()
            else:
                yield step
        self._ended = True


@pytest.fixture
def server() -> Iterator[ScriptedGrpcServer]:
    servicer = ScriptedGrpcServer()
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    servicer.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(grace=None).wait()


Take = Callable[[str, GenerateRequest, int], list[Chunk]]


def take(url: str, request: GenerateRequest, limit: int) -> list[Chunk]:
    taken: list[Chunk] = []
    with GrpcClient(url) as client, client.stream(request) as chunks:
        for chunk in chunks:
            taken.append(chunk)
            if len(taken) == limit:
                break
    return taken


def take_async(url: str, request: GenerateRequest, limit: int) -> list[Chunk]:
    async def run() -> list[Chunk]:
        taken: list[Chunk] = []
        async with AsyncGrpcClient(url) as client, client.stream(request) as chunks:
            async for chunk in chunks:
                taken.append(chunk)
                if len(taken) == limit:
                    break
        return taken

    return asyncio.run(run())


@pytest.fixture(params=[take, take_async])
def taking(request: pytest.FixtureRequest) -> Take:
    chosen: Take = request.param
    return chosen


def test_chunks_come_in_order(server: ScriptedGrpcServer, taking: Take) -> None:
    server.script = [response("Hé "), response("日本"), response("🙂", final=True)]
    chunks = taking(server.url, REQUEST, 99)
    assert [(chunk.index, chunk.text) for chunk in chunks] == [(0, "Hé "), (1, "日本"), (2, "🙂")]
    assert [chunk.received_s for chunk in chunks] == sorted(chunk.received_s for chunk in chunks)
    assert (server.requests[0].model_name, server.requests[0].id) == ("ensemble", "r1")


def test_an_empty_final_response_is_no_chunk(server: ScriptedGrpcServer, taking: Take) -> None:
    server.script = [response("a"), response(None, final=True)]
    assert [chunk.text for chunk in taking(server.url, REQUEST, 99)] == ["a"]


def test_counts_and_finish_reason_are_read(server: ScriptedGrpcServer, taking: Take) -> None:
    server.script = [
        response("a", finish_reason="", num_output_tokens=1),
        response("b", final=True, finish_reason="stop", num_output_tokens=2, num_input_tokens=4),
    ]
    first, last = taking(server.url, REQUEST, 99)
    assert (first.finish_reason, first.num_output_tokens, first.num_input_tokens) == (None, 1, None)
    assert (last.finish_reason, last.num_output_tokens, last.num_input_tokens) == ("stop", 2, 4)


def test_leaving_early_cancels(server: ScriptedGrpcServer, taking: Take) -> None:
    server.script = [response("a"), lambda: server.cancelled.wait(10), response("b", final=True)]
    assert len(taking(server.url, REQUEST, 1)) == 1
    assert server.cancelled.wait(10)


def test_a_completed_stream_is_not_cancelled(server: ScriptedGrpcServer) -> None:
    server.script = [response("a", final=True), lambda: server.cancelled.wait(0.1)]
    assert len(take(server.url, REQUEST, 99)) == 1
    assert not server.cancelled.is_set()


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (error_in_band("prompt has 9 tokens"), RequestRefused, "prompt has 9 tokens"),
        (grpc.StatusCode.INVALID_ARGUMENT, RequestRefused, "the reason"),
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailable, "the reason"),
        (grpc.StatusCode.CANCELLED, RequestRefused, r"the reason|the server cancelled"),
        (response(None), StreamBroken, "holds no text_output"),
        (response(b"\xff"), StreamBroken, "not UTF-8"),
    ],
)
def test_failures_before_the_first_chunk(
    server: ScriptedGrpcServer, taking: Take, failure: Any, kind: type[Exception], message: str
) -> None:
    server.script = [failure]
    with pytest.raises(kind, match=message):
        taking(server.url, REQUEST, 99)


@pytest.mark.parametrize(
    "failure", [error_in_band("the reason"), grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE]
)
def test_failures_after_it_break_the_stream(server: ScriptedGrpcServer, taking: Take, failure: Any) -> None:
    server.script = [response("begun"), failure]
    with pytest.raises(StreamBroken, match="the reason"):
        taking(server.url, REQUEST, 99)


def test_a_refusal_has_the_server_s_code(server: ScriptedGrpcServer, taking: Take) -> None:
    server.script = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(RequestRefused) as refusal:
        taking(server.url, REQUEST, 99)
    assert refusal.value.code == "INVALID_ARGUMENT"
    assert "triton_grpc_error" not in server.metadata  # Triton 2.51 crashes with it


def test_a_silent_server_is_given_up(server: ScriptedGrpcServer, taking: Take) -> None:
    server.script = [lambda: server.cancelled.wait(10)]
    with pytest.raises(Timeout, match=r"within 0\.2 s"):
        taking(server.url, GenerateRequest("hi", timeout_s=0.2), 99)


def test_nobody_there(taking: Take) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port}"):
        taking(f"127.0.0.1:{port}", REQUEST, 99)


def test_the_whole_answer_at_once(server: ScriptedGrpcServer) -> None:
    async def generate() -> str:
        async with AsyncGrpcClient(server.url) as client:
            return (await client.generate(REQUEST)).text

    server.script = [response("a"), response("b", final=True)]
    with GrpcClient(server.url) as client:
        assert client.generate(REQUEST).text == "ab"
    assert asyncio.run(generate()) == "ab"


def test_the_caller_s_own_errors_pass_unchanged(server: ScriptedGrpcServer) -> None:
    server.script = [response("a", final=True)]
    with (
        GrpcClient(server.url) as client,
        pytest.raises(ValueError, match="mine") as raised,
        client.stream(REQUEST),
    ):
        raise ValueError("mine")
    assert not isinstance(raised.value, SlipstreamClientError)


@pytest.mark.parametrize("client", [GrpcClient, AsyncGrpcClient])
def test_an_http_address_is_refused(client: type[GrpcClient] | type[AsyncGrpcClient]) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        client("http://127.0.0.1:8000")
