"""The forms in which a linear layer's weight is kept: as it was, or as integers or small floats with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.dtypes import Array

Floats = npt.NDArray[np.float32]

#: The magnitudes of a 4-bit float, E2M1, by its lower three bits; the fourth is the sign (OCP Microscaling Formats).
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


@dataclass(frozen=True, slots=True)
class PlainWeight:
    """A weight [out, in] as the checkpoint has it, of any floating type."""

    values: npt.NDArray[Any]

    def dequantize(self) -> Floats:
        return self.values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight [out, in] as ``integers[o, i] * scales[o]``."""

    integers: npt.NDArray[np.int8]
    scales: Floats

    def dequantize(self) -> Floats:
        return self.integers.astype(np.float32) * self.scales[:, None]


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """A weight [out, in] as ``integers[o, i] * scales[o, i // group]``; integers, -8 to 7, are one a byte here.

    One group means one scale an output channel.
    """

    integers: npt.NDArray[np.int8]
    scales: Floats

    def dequantize(self) -> Floats:
        out, groups = self.scales.shape
        grouped = self.integers.astype(np.float32).reshape(out, groups, -1) * self.scales[:, :, None]
        return grouped.reshape(self.integers.shape)


@dataclass(frozen=True, slots=True)
class Float8Weight:
    """A weight [out, in] as ``values * scale``, values of type float8_e4m3fn."""

    values: Array
    scale: np.float32

    def dequantize(self) -> Floats:
        return self.values.astype(np.float32) * self.scale


@dataclass(frozen=True, slots=True)
class NvFp4Weight:
    """NVIDIA's FP4: 4-bit floats [out, in], a float8 scale for every 16 inputs, and one float32 scale for all.

    ``codes`` uint8 [out, in / 2] hold two each, the even input in the lower half.
    """

    codes: npt.NDArray[np.uint8]
    block_scales: Array
    scale: np.float32

    def dequantize(self) -> Floats:
        out, blocks = self.block_scales.shape
        nibbles = np.stack([self.codes & 15, self.codes >> 4], axis=-1).reshape(out, blocks, -1)
        values = np.where(nibbles & 8, -1, 1).astype(np.float32) * _E2M1[nibbles & 7]
        scales = self.block_scales.astype(np.float32) * self.scale
        dequantized: Floats = (values * scales[:, :, None]).reshape(out, -1)
        return dequantized


Weight = PlainWeight | Int8Weight | Int4Weight | Float8Weight | NvFp4Weight
