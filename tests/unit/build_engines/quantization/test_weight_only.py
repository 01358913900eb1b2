"""INT8 weights follow TensorRT-LLM's rule, value by value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from build_engines.quantization.weight_only import quantize_int8

float16_weights = arrays.arrays(
    np.float16,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-60_000, 60_000, width=16),
)


def slow_integer(value: float, scale: float) -> int:
    """C's ``round``, then a clamp to a signed byte."""
    scaled = 0.0 if scale == 0 else float(np.float32(value) / np.float32(scale))
    rounded = math.floor(abs(scaled) + 0.5)
    return max(-128, min(127, rounded if scaled >= 0 else -rounded))


@given(float16_weights)
def test_integers_and_scales_equal_the_rule(weight: npt.NDArray[np.float16]) -> None:
    quantized = quantize_int8(weight)
    for channel, row in enumerate(weight):
        scale = float(np.float32(max(abs(float(value)) for value in row)) / np.float32(128))
        assert quantized.scales[channel] == np.float32(np.float16(scale))
        assert quantized.integers[channel].tolist() == [slow_integer(float(value), scale) for value in row]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_error_is_half_a_step_and_one_step_where_it_saturates(dtype: Any) -> None:
    weight = np.random.default_rng(0).normal(0, 0.05, (64, 256)).astype(dtype)
    quantized = quantize_int8(weight)
    steps = np.abs(quantized.dequantize() - weight) / (np.abs(weight).max(axis=1, keepdims=True) / 128)
    assert steps[quantized.integers < 127].max() < 0.57  # 128 steps of a scale that float16 rounds by 2^-11 at most.
    assert steps.max() < 1.07


def test_a_channel_of_zeros_stays_zero() -> None:
    assert not quantize_int8(np.zeros((2, 4), np.float16)).dequantize().any()
