"""safetensors files of any size: read through a memory map, written tensor by tensor.

The library's own functions hold a file's tensors in memory at once, and know neither bfloat16 nor 8-bit floats in
numpy. Its reader checks every file that is opened here.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from build_engines.checkpoint.dtypes import BY_SAFETENSORS_NAME, SAFETENSORS_NAMES, Array
from python_backend.errors import SetupError

_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class TensorType:
    """What a tensor is made of."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{SAFETENSORS_NAMES[self.dtype]} {list(self.shape)}"

    @property
    def size_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


class SafetensorsFile:
    """One file, opened for reading. Its tensors are views of the memory map: read when touched, never written."""

    def __init__(self, path: Path) -> None:
        """Raises SetupError when the file is missing, cut short, damaged or of a type that is not supported."""
        self.path = path
        try:
            with safe_open(path, framework="numpy"), path.open("rb") as file:
                length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
                header: dict[str, Any] = json.loads(file.read(length))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, SafetensorError) as error:
            raise SetupError(f"{path} cannot be read ({error}). Copy or make it again.") from error
        header.pop("__metadata__", None)
        self.tensors: dict[str, TensorType] = {}
        self._begins: dict[str, int] = {}
        for name, entry in header.items():
            if entry["dtype"] not in BY_SAFETENSORS_NAME:
                raise SetupError(f'{path}: tensor "{name}" is {entry["dtype"]}, which is not supported.')
            self.tensors[name] = TensorType(BY_SAFETENSORS_NAME[entry["dtype"]], tuple(entry["shape"]))
            self._begins[name] = _LENGTH_BYTES + length + entry["data_offsets"][0]

    def tensor(self, name: str) -> Array:
        """Raises KeyError when there is none of that name."""
        kind = self.tensors[name]
        count = int(np.prod(kind.shape, dtype=np.int64))
        return np.frombuffer(self._map, kind.dtype, count, self._begins[name]).reshape(kind.shape)


class SafetensorsWriter:
    """One file, written tensor by tensor in any order, so that memory holds one at a time."""

    def __init__(self, path: Path, tensors: Mapping[str, TensorType]) -> None:
        """Raises OSError when the file cannot be written."""
        self._missing = dict(tensors)
        header: dict[str, Any] = {}
        end = 0
        # Wide types first, as the library does it: torch reads only what begins at a multiple of its own size.
        for name, kind in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
            begin, end = end, end + kind.size_bytes
            dtype = SAFETENSORS_NAMES[kind.dtype]
            header[name] = {"dtype": dtype, "shape": list(kind.shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT_BYTES)
        data = _LENGTH_BYTES + len(text)
        self._begins = {name: data + entry["data_offsets"][0] for name, entry in header.items()}
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)

    def write(self, name: str, tensor: Array) -> None:
        """A tensor of the type announced. Raises OSError when the disk is full."""
        kind = self._missing.pop(name)
        assert (tensor.dtype, tensor.shape) == (kind.dtype, kind.shape), name
        self._file.seek(self._begins[name])
        self._file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        assert error or not self._missing, f"not written: {list(self._missing)}"
