"""Triton's generate endpoints over HTTP: server-sent events for streams, one JSON object otherwise.

Triton sends no end marker: a stream is complete when its body is. An error may come with any status, 200
included, as ``{"error": ...}`` in place of an answer. `httpx` carries the bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from client import tensors
from client.completion import Chunk, Completion
from client.errors import RequestRefused, ServerUnavailable, SlipstreamClientError, StreamBroken, Timeout
from client.request import GenerateRequest
from client.server_sent_events import EventParser

DEFAULT_URL = "http://127.0.0.1:8000"


class HttpClient:
    """Sends requests to one server; may be shared by threads. Close it, or use it in a ``with`` block."""

    def __init__(self, url: str = DEFAULT_URL, *, connect_timeout_s: float = 5.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f'the URL is "{url}"; it must begin with http:// or https://.')
        self._url = url.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        # Each stream holds a connection for its whole life, so a limit on them would be a hidden queue.
        self._http = httpx.Client(limits=httpx.Limits(max_connections=None))

    def generate(self, request: GenerateRequest) -> Completion:
        """The whole answer. Raises what ``stream`` raises."""
        started_s = time.perf_counter()
        with self.stream(request) as chunks:
            return Completion.of(chunks, started_s)

    @contextmanager
    def stream(self, request: GenerateRequest) -> Iterator[Iterator[Chunk]]:
        """The chunks as they arrive; leaving the block early cancels the request.

        Raises a SlipstreamClientError, on entry or while iterating.
        """
        deadline_s = time.perf_counter() + request.timeout_s
        endpoint = "generate_stream" if request.stream else "generate"
        timeout = httpx.Timeout(request.timeout_s, connect=min(self._connect_timeout_s, request.timeout_s))
        answer = self._http.stream(
            "POST",
            f"{self._url}/v2/models/{quote(request.model, safe='')}/{endpoint}",
            content=body_of(request),
            headers={"Content-Type": "application/json"},
            timeout=timeout,
        )
        with ExitStack() as stack:
            with self._errors(request):  # not around the yield: errors of the caller's block are not ours
                response = stack.enter_context(answer)
            yield self._chunks(response, request, deadline_s)

    def close(self) -> None:
        """Closes the connections; running streams break."""
        self._http.close()

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunks(self, response: httpx.Response, request: GenerateRequest, deadline_s: float) -> Iterator[Chunk]:
        answers = _streamed_answers(response) if _is_event_stream(response) else _whole_answer(response)
        with self._errors(request):
            for index, answer in enumerate(answers):
                received_s = time.perf_counter()
                if received_s > deadline_s:
                    raise Timeout(_late(request))
                if "error" in answer or response.is_error:
                    raise _refusal(answer, response.status_code, begun=index > 0)
                yield chunk_of(answer, index, received_s)

    @contextmanager
    def _errors(self, request: GenerateRequest) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise ServerUnavailable(f"{self._url} did not answer within {self._connect_timeout_s:g} s.") from error
        except httpx.TimeoutException as error:
            raise Timeout(_late(request)) from error
        except httpx.ConnectError as error:
            raise ServerUnavailable(f"no server answers at {self._url}: {error}") from error
        except (httpx.TransportError, ValueError) as error:  # ValueError: bytes that are no UTF-8 or no JSON
            raise StreamBroken(f"the answer from {self._url} broke off: {error}") from error


def body_of(request: GenerateRequest) -> bytes:
    """The JSON object that Triton's generate extension takes: a key for each tensor."""
    body: dict[str, Any] = {tensor.name: value for tensor, value in request.tensors()}
    if request.request_id:
        body["id"] = request.request_id
    return json.dumps(body, ensure_ascii=False).encode()


def chunk_of(answer: dict[str, Any], index: int, received_s: float) -> Chunk:
    """One JSON object of an answer, read by the contract; StreamBroken when it holds no text."""
    text = answer.get(tensors.TEXT_OUTPUT)
    if isinstance(text, list):  # Triton writes a one-element tensor as a scalar, a longer one as a list
        text = text[0] if text else None
    if not isinstance(text, str):
        raise StreamBroken(f"a response holds no {tensors.TEXT_OUTPUT}: {json.dumps(answer)[:200]}")
    return Chunk(
        text=text,
        index=index,
        received_s=received_s,
        finish_reason=answer.get(tensors.FINISH_REASON) or None,
        num_input_tokens=answer.get(tensors.NUM_INPUT_TOKENS),
        num_output_tokens=answer.get(tensors.NUM_OUTPUT_TOKENS),
    )


def _is_event_stream(response: httpx.Response) -> bool:
    content_type: str = response.headers.get("Content-Type", "")
    return content_type.startswith("text/event-stream")


def _streamed_answers(response: httpx.Response) -> Iterator[dict[str, Any]]:
    parser = EventParser()
    for part in response.iter_bytes():
        yield from map(_object, parser.feed(part))
    if parser.unfinished:
        raise StreamBroken("the stream ended inside an event.")


def _whole_answer(response: httpx.Response) -> Iterator[dict[str, Any]]:
    text = response.read().decode()
    # What is not Triton (a proxy, another service) answers an error in its own words.
    yield ({"error": text[:200] or response.reason_phrase} if response.is_error and text[:1] != "{" else _object(text))


def _object(text: str) -> dict[str, Any]:
    answer = json.loads(text)
    if not isinstance(answer, dict):
        raise ValueError(f"{text[:200]!r} is no JSON object")
    return answer


def _refusal(answer: dict[str, Any], status: int, begun: bool) -> SlipstreamClientError:
    message = str(answer.get("error", answer))
    if begun:
        return StreamBroken(message)
    return ServerUnavailable(message) if status in (502, 503, 504) else RequestRefused(message, str(status))


def _late(request: GenerateRequest) -> str:
    return f"the answer was not complete within {request.timeout_s:g} s."
