"""One prompt's share of a Triton request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.errors import InvalidRequest

Tensors = Mapping[str, npt.NDArray[Any]]


class Row:
    """One row of the batch, read by the contract's names. A tensor that is absent or empty asks for nothing: None."""

    def __init__(self, tensors: Tensors, index: int) -> None:
        self._tensors = tensors
        self._index = index

    def matrix(self, name: str) -> npt.NDArray[Any] | None:
        """The row of a tensor, in its own shape."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.size == 0:
            return None
        return np.asarray(tensor[self._index])

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """The row of a tensor, flat."""
        # With reshape { shape: [ ] } scalars arrive as [batch].
        values = self.matrix(name)
        return None if values is None else values.reshape(-1)

    def scalar(self, name: str) -> Any:
        """The first value of the row."""
        values = self.array(name)
        return None if values is None else values[0]

    def integer(self, name: str) -> int | None:
        value = self.scalar(name)
        return None if value is None else int(value)

    def integers(self, name: str) -> list[int] | None:
        values = self.array(name)
        return None if values is None else [int(value) for value in values]

    def number(self, name: str) -> float | None:
        value = self.scalar(name)
        return None if value is None else float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.scalar(name)
        return default if value is None else bool(value)

    def text(self, name: str) -> str | None:
        """A string. Raises InvalidRequest when it is not UTF-8."""
        value = self.scalar(name)
        try:
            return None if value is None else bytes(value).decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{name} is not valid UTF-8: {error.reason} at byte {error.start}.") from error
