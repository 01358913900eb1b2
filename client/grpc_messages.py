"""Between our values and those of `tritonclient.grpc`: what both gRPC clients share."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferResult
from tritonclient.utils import triton_to_np_dtype

from client import tensors
from client.completion import Chunk
from client.errors import RequestRefused, ServerUnavailable, SlipstreamClientError, StreamBroken, Timeout
from client.request import GenerateRequest
from python_backend.contract import Tensor

DEFAULT_URL = "127.0.0.1:8001"


def infer_inputs(request: GenerateRequest) -> list[InferInput]:
    """The tensors of a batch of one."""
    return [_infer_input(tensor, value) for tensor, value in request.tensors()]


def _infer_input(tensor: Tensor, value: tensors.Value) -> InferInput:
    row = value if isinstance(value, tuple) else (value,)
    encoded = [item.encode() if isinstance(item, str) else item for item in row]
    array = np.array([encoded], dtype=triton_to_np_dtype(tensor.dtype.value))
    infer_input = InferInput(tensor.name, list(array.shape), tensor.dtype.value)
    infer_input.set_data_from_numpy(array)
    return infer_input


def is_final(result: InferResult) -> bool:
    """Whether no response follows."""
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def chunk_of(result: InferResult, index: int, received_s: float) -> Chunk | None:
    """The response read by the contract; None for one that only marks the end."""
    text = _first(result, tensors.TEXT_OUTPUT)
    if text is None:
        if is_final(result):
            return None
        raise StreamBroken(f"a response holds no {tensors.TEXT_OUTPUT}.")
    try:
        return Chunk(
            text=text.decode(),
            index=index,
            received_s=received_s,
            finish_reason=(_first(result, tensors.FINISH_REASON) or b"").decode() or None,
            num_input_tokens=_first(result, tensors.NUM_INPUT_TOKENS),
            num_output_tokens=_first(result, tensors.NUM_OUTPUT_TOKENS),
        )
    except UnicodeDecodeError as error:
        raise StreamBroken(f"the text of a response is not UTF-8: {error}") from error


def _first(result: InferResult, name: str) -> Any:
    array = result.as_numpy(name)
    return None if array is None or not array.size else array.reshape(-1)[:1].tolist()[0]


def error_of(code: str | None, message: str, *, url: str, begun: bool, timeout_s: float) -> SlipstreamClientError:
    """Our error for a gRPC status (its bare name; None for an error that came in band).

    Triton reports what a model refuses in band. With the header triton_grpc_error it would send a status, but refusals
    then crash Triton 2.51 sooner or later.
    """
    if code == "DEADLINE_EXCEEDED":
        return Timeout(f"the answer was not complete within {timeout_s:g} s.")
    if begun:
        return StreamBroken(message)
    if code == "UNAVAILABLE":
        return ServerUnavailable(f"{url}: {message}")
    return RequestRefused(message, code or "UNKNOWN")
