"""Triton's bidirectional gRPC stream, one stream for each request so that each can be cancelled by itself."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tritonclient.grpc import InferenceServerClient, InferResult
from tritonclient.utils import InferenceServerException

from client.completion import Chunk, Completion
from client.errors import SlipstreamClientError, Timeout
from client.grpc_messages import DEFAULT_URL, chunk_of, error_of, infer_inputs, is_final
from client.request import GenerateRequest

#: how much later than gRPC itself we give up: its own deadline should be the one that fires
_GRACE_S = 2.0


class GrpcClient:
    """Sends requests to one server; may be shared by threads. Close it, or use it in a ``with`` block."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        if "://" in url:
            raise ValueError(f'the gRPC address is "{url}"; it must be host:port, such as {DEFAULT_URL}.')
        self._url = url

    def generate(self, request: GenerateRequest) -> Completion:
        """The whole answer. Raises what ``stream`` raises."""
        started_s = time.perf_counter()
        with self.stream(request) as chunks:
            return Completion.of(chunks, started_s)

    @contextmanager
    def stream(self, request: GenerateRequest) -> Iterator[Iterator[Chunk]]:
        """The chunks as they arrive; leaving the block early cancels the request.

        Raises a SlipstreamClientError while iterating.
        """
        # A tritonclient runs one stream at a time; the connection below is shared by all of them.
        with InferenceServerClient(self._url) as triton:
            stream = _Stream(request, self._url)
            triton.start_stream(stream.receive, stream_timeout=request.timeout_s)
            try:
                # A stream may fail before it is written to; it then reports why as its first item.
                with suppress(InferenceServerException):
                    triton.async_stream_infer(
                        request.model,
                        infer_inputs(request),
                        request_id=request.request_id,
                        enable_empty_final_response=True,
                    )
                yield stream.chunks()
            finally:
                triton.stop_stream(cancel_requests=not stream.ended)

    def close(self) -> None:
        """Nothing is held between streams; here so that both clients are used alike."""

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Stream:
    """What one stream has received; filled by tritonclient's thread, emptied by ours."""

    request: GenerateRequest
    url: str
    ended: bool = False
    _arrived: queue.SimpleQueue[tuple[float, InferResult | None, InferenceServerException | None]] = field(
        default_factory=queue.SimpleQueue
    )

    def receive(self, result: InferResult | None, error: InferenceServerException | None) -> None:
        self._arrived.put((time.perf_counter(), result, error))

    def chunks(self) -> Iterator[Chunk]:
        deadline_s = time.perf_counter() + self.request.timeout_s + _GRACE_S
        index = 0
        while not self.ended:
            try:
                received_s, result, error = self._arrived.get(timeout=max(0.0, deadline_s - time.perf_counter()))
            except queue.Empty:
                raise Timeout(f"the answer was not complete within {self.request.timeout_s:g} s.") from None
            if error is not None or result is None:
                self.ended = True
                raise self._failure(error, begun=index > 0)
            self.ended = is_final(result)
            chunk = chunk_of(result, index, received_s)
            if chunk is not None:
                yield chunk
                index += 1

    def _failure(self, error: InferenceServerException | None, begun: bool) -> SlipstreamClientError:
        status = error.status() if error else None
        return error_of(
            status.removeprefix("StatusCode.") if status else None,
            error.message() if error else "the stream ended without an answer.",
            url=self.url,
            begun=begun,
            timeout_s=self.request.timeout_s,
        )
