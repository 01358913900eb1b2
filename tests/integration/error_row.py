"""One row of the table of everything that can be wrong with a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

Tensors = dict[str, np.ndarray[Any, Any]]
Door = Literal["stream", "generate", "unary", "infer"]
Server = Literal["plain", "narrow", "odd"]

#: What each class of errors comes with: the code of gRPC, and the status of HTTP /generate and /infer.
STATUS: Final[Mapping[str, tuple[str, int, int]]] = {
    "InvalidRequest": ("INVALID_ARGUMENT", 400, 400),
    "Unsupported": ("UNIMPLEMENTED", 400, 501),
    "Overloaded": ("UNAVAILABLE", 400, 503),
    "Cancelled": ("CANCELLED", 400, 400),
    "EngineFault": ("INTERNAL", 400, 500),
    "Triton": ("INVALID_ARGUMENT", 400, 400),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A request that is refused, and how. ``…`` in the message stands for any text."""

    did: str
    message: str
    error: str = "InvalidRequest"
    todo: str = ""  # where the message does not say it
    model: str = "ensemble"
    tensors: Tensors = field(default_factory=dict)
    body: bytes | None = None  # of /generate, where tensors cannot say it
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_us: int | None = None
    version: str = ""
    server: Server = "plain"
    busy: tuple[str, ...] = ()  # tenants of long requests that are there before: one runs, the others wait
    stopped: bool = False  # somebody sends `stop` with the request's id
    code: str | None = None  # where they are not those of the class
    generate: int | None = None
    infer: int | None = None
    doors: tuple[Door, ...] = ("stream", "generate", "unary", "infer")

    @property
    def status(self) -> tuple[str, int, int]:
        """gRPC, /generate, /infer."""
        code, generate, infer = STATUS[self.error]
        return self.code or code, self.generate or generate, self.infer or infer


def tensor_of(value: Any) -> np.ndarray[Any, Any]:
    """[1, n] of the type that the contract has for such a value."""
    if isinstance(value, np.ndarray):
        return value
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], (str, bytes)):
        return np.array([[text.encode() if isinstance(text, str) else text for text in values]], np.object_)
    if isinstance(values[0], np.generic):
        return np.array([values])
    kinds = {bool: np.bool_, int: np.int32, float: np.float32}
    return np.array([values], kinds[type(values[0])])


def text_tensors(text: str | bytes = "hi", max_tokens: int = 5, **more: Any) -> Tensors:
    """Of `ensemble`."""
    return {name: tensor_of(value) for name, value in {"text_input": text, "max_tokens": max_tokens, **more}.items()}


def id_tensors(*ids: int, **more: Any) -> Tensors:
    """Of `tensorrt_llm`."""
    tensors = {"input_ids": list(ids or (5, 6)), "input_lengths": len(ids or (5, 6)), "request_output_len": 5, **more}
    return {name: tensor_of(value) for name, value in tensors.items()}


def id_row(did: str, message: str, *ids: int, error: str = "InvalidRequest", **more: Any) -> Row:
    return Row(did=did, message=message, error=error, model="tensorrt_llm", tensors=id_tensors(*ids, **more))


def text_row(did: str, message: str, error: str = "InvalidRequest", **more: Any) -> Row:
    return Row(did=did, message=message, error=error, tensors=text_tensors(**more))
