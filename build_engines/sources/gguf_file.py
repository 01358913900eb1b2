"""Reading GGUF, the file format of llama.cpp: metadata, and tensors as float32 whatever their quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

from python_backend.errors import SetupError

T = TypeVar("T")


class GgufFile:
    """One GGUF file, memory-mapped. Raises SetupError when it is none or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (OSError, ValueError, IndexError) as error:
            raise SetupError(f"{path} cannot be read as GGUF: {error}") from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._values: dict[str, Any] = {}  # Decoding a vocabulary takes a second.

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's; a weight's is [out, in]."""
        return {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}

    @property
    def types(self) -> dict[str, str]:
        """What every tensor is stored as, by llama.cpp's name: "F16", "Q4_K" and such."""
        return {name: tensor.tensor_type.name for name, tensor in self._tensors.items()}

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all metadata."""
        return tuple(self._reader.fields)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor as float32; a weight is [out, in]. Raises SetupError when it is missing or cannot be dequantized."""
        if name not in self._tensors:
            raise SetupError(f'{self.path}: tensor "{name}" is missing.')
        tensor = self._tensors[name]
        try:
            return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            raise SetupError(f'{self.path}: tensor "{name}" cannot be read: {error}.') from error

    def get(self, key: str, kind: type[T]) -> T:
        """The metadata at ``key``. Raises SetupError when it is missing or of another type."""
        value = self.find(key, kind)
        if value is None:
            raise SetupError(f'{self.path}: metadata "{key}" is missing.')
        return value

    def find(self, key: str, kind: type[T]) -> T | None:
        """As ``get``, but None when it is missing."""
        field = self._reader.get_field(key)
        if field is None:
            return None
        if key not in self._values:
            try:
                self._values[key] = field.contents()
            except (ValueError, IndexError) as error:
                raise SetupError(f'{self.path}: metadata "{key}" is damaged ({error}).') from error
        value = self._values[key]
        if kind is float and isinstance(value, float):
            value = _shortest(value)
        if not isinstance(value, kind):
            raise SetupError(f'{self.path}: metadata "{key}" is {value!r}, no {kind.__name__}.')
        return value


def _shortest(value: float) -> float:
    """GGUF keeps floats as float32: the shortest decimal that rounds to it was meant, 1e-5 and not 9.99999975e-06."""
    return float(str(np.float32(value)))
