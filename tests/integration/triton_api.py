"""Plain ways to ask a server, below the level of our own client: tritonclient and HTTP as anybody would use them."""

from __future__ import annotations

import json
import queue
import re
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from python_backend.launcher.server import TritonServer

Tensors = dict[str, Any]
NO_TLS = False  # reading the certificates would take longer than most requests


@dataclass(slots=True)
class Answer:
    """All responses of one stream, and the error that ended it, if any."""

    responses: list[Tensors] = field(default_factory=list)
    error: str | None = None

    @property
    def text(self) -> str:
        return b"".join(response["text_output"].item() for response in self.responses).decode()

    @property
    def ids(self) -> list[int]:
        return [int(token) for response in self.responses for token in response["output_ids"].reshape(-1)]

    @property
    def finish_reason(self) -> str:
        return str(self.responses[-1]["finish_reason"].item().decode())


def infer_inputs(arrays: Tensors) -> list[triton.InferInput]:
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def text_request(text: str | bytes, max_tokens: int = 16, **extra: Any) -> Tensors:
    """Inputs of `ensemble`, one row."""
    raw = text.encode() if isinstance(text, str) else text
    arrays = {"text_input": np.array([[raw]], np.object_), "max_tokens": np.array([[max_tokens]], np.int32)}
    return arrays | {name: np.array([[value]]) for name, value in extra.items()}


def token_request(ids: list[int], max_tokens: int = 16, **extra: Any) -> Tensors:
    """Inputs of `tensorrt_llm`, one row."""
    arrays = {
        "input_ids": np.array([ids], np.int32).reshape(1, len(ids)),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[max_tokens]], np.int32),
    }
    return arrays | {name: np.array([[value]]) for name, value in extra.items()}


def stream(
    server: TritonServer,
    model: str,
    arrays: Tensors,
    request_id: str = "",
    timeout_s: float = 120,
    timeout_us: int | None = None,
) -> Answer:
    """Ask over a gRPC stream and read it to its end. ``timeout_us`` is what the server gets to know of time."""
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    answer = Answer()
    with triton.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        client.async_stream_infer(
            model,
            infer_inputs(arrays),
            request_id=request_id,
            timeout=timeout_us,
            enable_empty_final_response=True,
        )
        deadline_s = time.monotonic() + timeout_s
        while True:
            result, error = arrived.get(timeout=max(0.0, deadline_s - time.monotonic()))
            if error is not None:
                assert isinstance(error, InferenceServerException)
                answer.error = error.message()
                return answer
            response = result.get_response()
            if response.outputs:
                answer.responses.append({output.name: result.as_numpy(output.name) for output in response.outputs})
            if response.parameters["triton_final_response"].bool_param:
                return answer


def post(server: TritonServer, path: str, body: Any, timeout_s: float = 120) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    url = f"{server.http_url}/v2/models/{path}"
    return httpx.post(url, content=content, headers=headers, timeout=timeout_s, verify=NO_TLS)


def server_sent_events(server: TritonServer, model: str, body: Any) -> list[dict[str, Any]]:
    response = post(server, f"{model}/generate_stream", body)
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n") if line.strip()]


def metric(server: TritonServer, name: str, **labels: str) -> float:
    """The value of one series on /metrics."""
    for line in httpx.get(server.metrics_url, verify=NO_TLS).text.splitlines():
        series = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if series and series[1] == name:
            found = dict(re.findall(r'(\w+)="([^"]*)"', series[2] or ""))
            if labels.items() <= found.items():
                return float(series[3])
    raise AssertionError(f"/metrics has no {name} {labels}")


def wait_for_metric(server: TritonServer, value: float, name: str, **labels: str) -> None:
    """Until a series has that value: counters are published a moment after what they count."""
    deadline_s = time.monotonic() + 60
    while (found := metric(server, name, **labels)) != value:
        assert time.monotonic() < deadline_s, f"{name} {labels} is {found}, not {value}"
        time.sleep(0.05)


def settle(server: TritonServer) -> None:
    """Until no counter moves: a test that counts what it adds must not count what came late from those before it."""

    def counters() -> list[str]:
        lines = httpx.get(server.metrics_url, verify=NO_TLS).text.splitlines()
        return [line for line in lines if line.startswith("slipstream_") and "_total{" in line]

    found = counters()
    while True:
        time.sleep(0.5)
        before, found = found, counters()
        if found == before:
            return


def wait_until_idle(server: TritonServer) -> None:
    """Until no request is active and no block is in use."""
    wait_for_metric(server, 0, "nv_trt_llm_request_metrics", request_type="active")
    wait_for_metric(server, 0, "nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="used")
