"""Weight-only INT8 and INT4: the rules that turn a weight into integers and scales without looking at data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.quantization.weights import Int4Weight, Int8Weight

#: float32 copies of a whole lm_head would take several times the memory of the engine's.
_BLOCK_ELEMENTS = 2**22


def quantize_int8(weight: npt.NDArray[Any]) -> Int8Weight:
    """Quantize ``weight`` [out, in] symmetrically, one scale an output channel: TensorRT-LLM's W8A16.

    The rule is that of its ``symmetric_quantize_last_axis_of_batched_matrix``, which ``trtllm-build`` applies while
    it loads: with s = max|w| / 128 in float32, integers are w / s rounded half away from zero and clamped to
    [-128, 127] (so that the largest positive value saturates at 127), and the scale that dequantizes is s rounded to
    the weight's own type. A channel of zeros gets scale 0.
    """
    integers, scales = _quantize(weight, steps=128)
    return Int8Weight(integers, scales)


def quantize_int4(weight: npt.NDArray[Any]) -> Int4Weight:
    """The same in INT4, s = max|w| / 8, clamped to [-8, 7]: TensorRT-LLM's W4A16."""
    integers, scales = _quantize(weight, steps=8)
    return Int4Weight(integers, scales[:, None])


def quantize_int4_groups(weight: npt.NDArray[Any], group_size: int) -> Int4Weight:
    """INT4 with a scale for every ``group_size`` inputs, which must divide them.

    The rule is that of ModelOpt's INT4_BLOCKWISE_WEIGHT_ONLY: s = max|w| / 7, rounded half to even.
    """
    grouped = weight.astype(np.float32).reshape(weight.shape[0], -1, group_size)
    scales = np.abs(grouped).max(axis=2) / np.float32(7)
    divisors = np.where(scales == 0, np.float32(1), scales)
    integers = np.clip(np.rint(grouped / divisors[:, :, None]), -8, 7).astype(np.int8)
    return Int4Weight(integers.reshape(weight.shape), scales)


def _quantize(weight: npt.NDArray[Any], *, steps: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    integers, scales = np.empty(weight.shape, np.int8), np.empty(len(weight), np.float32)
    rows = max(1, _BLOCK_ELEMENTS // weight.shape[1])
    for begin in range(0, len(weight), rows):
        block = slice(begin, begin + rows)
        integers[block], scales[block] = _quantize_rows(weight[block], steps)
    return integers, scales


def _quantize_rows(weight: npt.NDArray[Any], steps: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    exact = weight.astype(np.float32)
    scales = np.abs(exact).max(axis=1) / np.float32(steps)
    divisors = np.where(scales == 0, np.float32(1), scales)
    scaled = exact / divisors[:, None]
    rounded = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)
    integers = np.clip(rounded, -steps, steps - 1).astype(np.int8)
    return integers, scales.astype(weight.dtype).astype(np.float32)
