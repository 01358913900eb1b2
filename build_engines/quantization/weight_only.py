"""Weight-only INT8 (TensorRT-LLM's W8A16): the rule that turns a linear layer's weight into integers and scales.

A W8A16 checkpoint stores plain weights and names the algorithm, since the integer layout that a GPU wants depends on
its architecture. ``trtllm-build`` quantizes while it loads; the CPU compile applies the same rule here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PlainWeight:
    """A weight [out, in] as the checkpoint has it, float16 or float32."""

    values: npt.NDArray[np.floating[Any]]

    def dequantize(self) -> npt.NDArray[np.float32]:
        return self.values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight [out, in] as ``integers[o, i] * scales[o]``."""

    integers: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]

    def dequantize(self) -> npt.NDArray[np.float32]:
        return self.integers.astype(np.float32) * self.scales[:, None]


Weight = PlainWeight | Int8Weight


def quantize_int8(weight: npt.NDArray[np.floating[Any]]) -> Int8Weight:
    """Quantize ``weight`` [out, in] symmetrically, one scale an output channel.

    The rule is that of TensorRT-LLM's ``symmetric_quantize_last_axis_of_batched_matrix``: with
    s = max|w| / 128 in float32, integers are w / s rounded half away from zero and clamped to [-128, 127]
    (so that the largest positive value saturates at 127), and the scale that dequantizes is s rounded to the
    weight's own type. A channel of zeros gets scale 0.
    """
    exact = weight.astype(np.float32)
    scales = np.abs(exact).max(axis=1) / np.float32(128)
    divisors = np.where(scales == 0, np.float32(1), scales)
    scaled = exact / divisors[:, None]
    rounded = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)
    integers = np.clip(rounded, -128, 127).astype(np.int8)
    return Int8Weight(integers, scales.astype(weight.dtype).astype(np.float32))
