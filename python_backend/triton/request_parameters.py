"""What comes beside the tensors of a request: over HTTP every JSON key that is no input, typing errors mostly."""

from __future__ import annotations

import json
from typing import Any

from python_backend.contract import Model
from python_backend.errors import InvalidRequest, did_you_mean

#: Triton's own, and TensorRT-LLM's request_type. The rest of Triton's begin with "triton_".
_KNOWN = frozenset(
    {"id", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "binary_data_output", "request_type"}
)


def refuse_unknown(request: Any, model: Model) -> None:
    """InvalidRequest when the client of ``model`` sent something that nothing reads."""
    for name in json.loads(request.parameters() or "{}"):
        if name not in _KNOWN and not name.startswith("triton_"):
            inputs = [tensor.name for tensor in model.inputs]
            raise InvalidRequest(f'{model.name} has no input "{name}"{did_you_mean(name, inputs) or "; leave it out."}')


def timeout_s(request: Any) -> float | None:
    """The time that the client gives its request; None: any. On the wire it is Triton's `timeout`, in microseconds.

    Raises InvalidRequest when it is no whole number of microseconds.
    """
    timeout_us = json.loads(request.parameters() or "{}").get("timeout", request.timeout())
    if not isinstance(timeout_us, int) or isinstance(timeout_us, bool) or timeout_us < 0:
        raise InvalidRequest(f"timeout is {timeout_us!r}; it is a whole number of microseconds, 0 for none.")
    return timeout_us / 1e6 or None
