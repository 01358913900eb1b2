"""Triton's request objects to plain arrays."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt


def read_inputs(request: Any) -> dict[str, npt.NDArray[Any]]:
    """The input tensors of a request, by name. Strings are arrays of bytes objects."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
