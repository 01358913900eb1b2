"""The gRPC client for asyncio: many streams over one connection and one thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tritonclient.grpc.aio import InferenceServerClient

from client.completion import Chunk, Completion
from client.grpc_messages import DEFAULT_URL, chunk_of, error_of, infer_inputs
from client.request import GenerateRequest


class AsyncGrpcClient:
    """Sends requests to one server from one event loop. Use it in an ``async with`` block."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        if "://" in url:
            raise ValueError(f'the gRPC address is "{url}"; it must be host:port, such as {DEFAULT_URL}.')
        self._url = url
        self._triton = InferenceServerClient(url)

    async def generate(self, request: GenerateRequest) -> Completion:
        """The whole answer. Raises what ``stream`` raises."""
        started_s = time.perf_counter()
        async with self.stream(request) as chunks:
            return Completion.of([chunk async for chunk in chunks], started_s)

    @asynccontextmanager
    async def stream(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Chunk]]:
        """The chunks as they arrive; leaving the block early cancels the request.

        Raises a SlipstreamClientError while iterating.
        """
        responses = self._triton.stream_infer(_one(request), stream_timeout=request.timeout_s)
        try:
            yield self._chunks(responses, request)
        finally:
            responses.cancel()  # without effect on a stream that is over

    async def close(self) -> None:
        """Closes the connection; running streams break."""
        await self._triton.close()

    async def __aenter__(self) -> AsyncGrpcClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _chunks(self, responses: Any, request: GenerateRequest) -> AsyncIterator[Chunk]:
        index, refusal = 0, None
        try:
            async for result, error in responses:
                received_s = time.perf_counter()
                if error is not None:
                    # Read on to the end: Triton 2.51 never unloads a model when a stream is cancelled just then.
                    refusal = refusal or self._error(None, error.message(), request, index)
                    continue
                chunk = chunk_of(result, index, received_s)
                if chunk is not None:
                    yield chunk
                    index += 1
        except grpc.aio.AioRpcError as error:
            raise self._error(error.code().name, error.details() or "", request, index) from error
        except asyncio.CancelledError as error:
            # grpc.aio raises this also when the server ends the call with CANCELLED; then nobody cancelled this task.
            if not responses.cancelled() or _being_cancelled():
                raise
            raise self._error("CANCELLED", "the server cancelled the request.", request, index) from error
        if refusal is not None:
            raise refusal

    def _error(self, code: str | None, message: str, request: GenerateRequest, index: int) -> Exception:
        return error_of(code, message, url=self._url, begun=index > 0, timeout_s=request.timeout_s)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _one(request: GenerateRequest) -> AsyncIterator[dict[str, Any]]:
    # Nothing follows, so the server ends the stream after the last response: no final marker is needed.
    yield {
        "model_name": request.model,
        "inputs": infer_inputs(request),
        "request_id": request.request_id,
    }
