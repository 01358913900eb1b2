"""The ways in which a refused request can come to a server, and what its client is told: a status and a message."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from python_backend.launcher.server import TritonServer
from tests.integration.error_row import Door, Row
from tests.integration.triton_api import infer_inputs, post

#: The profile in which a door is open to every model.
PROFILES: Final[Mapping[Door, str]] = {
    "stream": "cpu", "generate": "cpu", "unary": "cpu-unary", "infer": "cpu-unary",
}  # fmt: skip

Told = tuple[str | int | None, str]
TIMEOUT_S = 120


def tell(door: Door, server: TritonServer, row: Row, request_id: str) -> Told:
    """Send the row's request. The status is None on a stream, where Triton gives only the message."""
    return _DOORS[door](server, row, request_id)


def _stream(server: TritonServer, row: Row, request_id: str) -> Told:
    arrived: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        client.async_stream_infer(
            row.model,
            infer_inputs(row.tensors),
            model_version=row.version,
            request_id=request_id,
            timeout=row.timeout_us,
            parameters=row.parameters,
        )
        result, error = arrived.get(timeout=TIMEOUT_S)
    assert error is not None, result.get_response()
    return None, error.message()


def _unary(server: TritonServer, row: Row, request_id: str) -> Told:
    with triton.InferenceServerClient(server.grpc_url) as client:
        try:
            result = client.infer(
                row.model,
                infer_inputs(row.tensors),
                model_version=row.version,
                request_id=request_id,
                timeout=row.timeout_us,
                parameters=row.parameters,
                client_timeout=TIMEOUT_S,
            )
        except InferenceServerException as error:
            return error.status(), error.message()
    raise AssertionError(result.get_response())


def _generate(server: TritonServer, row: Row, request_id: str) -> Told:
    body: dict[str, Any] = {name: _values(array) for name, array in row.tensors.items()} | row.parameters
    body = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in body.items()}
    if request_id:
        body["id"] = request_id
    if row.timeout_us is not None:
        body["timeout"] = row.timeout_us
    return _posted(server, row, "generate", body)


def _infer(server: TritonServer, row: Row, request_id: str) -> Told:
    inputs = [
        {
            "name": name,
            "datatype": np_to_triton_dtype(array.dtype),
            "shape": list(array.shape),
            "data": _values(array),
        }
        for name, array in row.tensors.items()
    ]
    timeout = {} if row.timeout_us is None else {"timeout": row.timeout_us}
    return _posted(server, row, "infer", {"id": request_id, "inputs": inputs, "parameters": row.parameters | timeout})


def _posted(server: TritonServer, row: Row, end: str, body: dict[str, Any]) -> Told:
    path = f"{row.model}/versions/{row.version}/{end}" if row.version else f"{row.model}/{end}"
    response = post(server, path, body if row.body is None else row.body, TIMEOUT_S)
    return response.status_code, json.loads(response.text)["error"]


def _values(array: np.ndarray[Any, Any]) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]


_DOORS: Final[Mapping[Door, Callable[[TritonServer, Row, str], Told]]] = {
    "stream": _stream, "generate": _generate, "unary": _unary, "infer": _infer,
}  # fmt: skip
