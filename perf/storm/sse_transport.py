"""HTTP server-sent events over a raw socket: HTTP libraries do not let us reset a connection before its first byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

from client.server_sent_events import EventParser
from perf.storm.door import Inputs
from perf.storm.transport import StreamFailed, Transport

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close() sends RST and drops what is unsent


class SseTransport(Transport):
    """``POST /v2/models/<model>/generate_stream``."""

    name = "sse"
    farewells = ("close", "reset")

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, model: str, inputs: Inputs) -> None:
        body = json.dumps(inputs).encode()
        head = (
            f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nHost: {self._address[0]}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(head.encode() + body)
        await self._writer.drain()

    async def responses(self) -> AsyncIterator[Mapping[str, Any]]:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            status = head.split(b" ", 2)[1].decode()
            events = EventParser()
            if status != "200":
                raise StreamFailed(f"status {status}: {(await self._reader.read(300)).decode(errors='replace')}")
            async for part in self._chunks():
                for event in events.feed(part):
                    yield _outputs(event)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise StreamFailed("the connection broke before the end of the stream.") from error

    async def leave(self, farewell: str) -> None:
        assert self._writer is not None, "send() comes first"
        assert farewell in self.farewells, farewell
        if farewell == "reset":
            raw: socket.socket = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._writer.transport.abort()
        await self.close()

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Chunked transfer coding (RFC 9112, 7.1), the only one that Triton's event streams have."""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)


def _outputs(event: str) -> Mapping[str, Any]:
    outputs: dict[str, Any] = json.loads(event)
    if "error" in outputs:
        raise StreamFailed(str(outputs["error"]))
    return outputs
