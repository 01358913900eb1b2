"""The storm's own HTTP client, against a server that writes bytes as given and reports how its client left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from perf.storm.sse_transport import SseTransport
from perf.storm.transport import StreamFailed

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


def event(**outputs: object) -> bytes:
    return b"data: " + json.dumps(outputs).encode() + b"\n\n"


def read_from(answer: bytes) -> list[Mapping[str, Any]]:
    """All responses in ``answer``, after which the server closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def run() -> list[Mapping[str, Any]]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            transport = SseTransport(*server.sockets[0].getsockname())
            await transport.send("ensemble", {"text_input": "hello"})
            try:
                return [response async for response in transport.responses()]
            finally:
                await transport.close()

    return asyncio.run(run())


def test_events_of_any_chunking_are_read() -> None:
    body = event(text_output="a", n=1) + event(text_output="b", n=2)
    for cut in range(1, len(body)):
        answer = HEAD + chunk(body[:cut]) + chunk(body[cut:]) + chunk(b"")
        assert read_from(answer) == [{"text_output": "a", "n": 1}, {"text_output": "b", "n": 2}]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        HEAD,
        HEAD + chunk(event(text_output="a")),  # no last chunk
        HEAD + chunk(event(text_output="a"))[:-4],
        HEAD + chunk(event(text_output="a")) + chunk(event(error="engine failed")) + chunk(b""),
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 17\r\n\r\n" + b'{"error":"wrong"}',
    ],
    ids=["nothing", "no event", "no end", "half a chunk", "error event", "status 400"],
)
def test_an_answer_that_is_not_complete_fails(answer: bytes) -> None:
    with pytest.raises(StreamFailed):
        read_from(answer)


@pytest.mark.parametrize(("farewell", "seen"), [("reset", ConnectionResetError), ("close", None)])
def test_the_server_sees_the_farewell(farewell: str, seen: type[Exception] | None) -> None:
    async def run() -> BaseException | None:
        left: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.read()
                left.set_result(None)
            except ConnectionError as error:
                left.set_result(error)
            finally:
                writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            transport = SseTransport(*server.sockets[0].getsockname())
            await transport.send("ensemble", {"text_input": "hello"})
            await transport.leave(farewell)
            return await asyncio.wait_for(left, 5.0)

    error = asyncio.run(run())
    assert (error is None) if seen is None else isinstance(error, seen)
