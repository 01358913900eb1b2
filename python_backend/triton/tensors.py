"""Triton's request objects to plain arrays, and what limits the way back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy.typing as npt

from python_backend.contract import Model
from python_backend.errors import InvalidRequest, Overloaded

SHARED_MEMORY: Final = "/dev/shm"  # where Triton's Python backend passes tensors to the server
_ALWAYS_THERE_BYTES: Final = 1 << 20  # of the pool that it begins with


def read_inputs(request: Any) -> dict[str, npt.NDArray[Any]]:
    """The input tensors of a request, by name. Strings are arrays of bytes objects."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def check_required(inputs: Mapping[str, object], model: Model) -> None:
    """Raises InvalidRequest when an input of the model is missing that it cannot do without.

    Triton only counts: with an optional input in its place, a missing one goes unnoticed.
    """
    missing = [
        f"{tensor.name} ({other} of the ensemble)"
        if (other := tensor.ensemble_name) not in ("", tensor.name)
        else tensor.name
        for tensor in model.inputs
        if tensor.required and tensor.name not in inputs
    ]
    if missing:
        raise InvalidRequest(f"{model.name} needs {' and '.join(missing)}, which the request does not hold.")


def check_shared_memory(arrays: Mapping[str, npt.NDArray[Any]], folder: str = SHARED_MEMORY) -> None:
    """Raises Overloaded when a response does not fit the shared memory that is free.

    Triton would raise too, but only after it has closed the way to the client, who would then wait for ever.
    """
    size_bytes = sum(array.nbytes for array in arrays.values())
    if size_bytes <= _ALWAYS_THERE_BYTES:
        return
    filesystem = os.statvfs(folder)
    free_bytes = filesystem.f_bavail * filesystem.f_frsize
    if size_bytes > free_bytes:
        raise Overloaded(
            f"a response of {size_bytes >> 20} MiB does not fit the {free_bytes >> 20} MiB of shared memory that are "
            f"free. Ask for less in one response, or give the server more {folder} (docker: --shm-size)."
        )
