"""Rotary angles are those of transformers, and stay exact far into the context."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from build_engines.checkpoint.config import LinearScaling, Llama3Scaling, RotaryScaling
from build_engines.checkpoint.rotary_angles import rotary_angles, rotary_frequencies

SCALINGS: list[RotaryScaling] = [
    LinearScaling(factor=4.0),
    Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192),
    Llama3Scaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192),
    Llama3Scaling(factor=3.0, low_freq_factor=2.0, high_freq_factor=5.0, original_max_position_embeddings=100),
]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("head_size", "base"), [(64, 10_000.0), (128, 500_000.0)])
def test_scaled_frequencies_are_those_of_transformers(scaling: RotaryScaling, head_size: int, base: float) -> None:
    config = LlamaConfig(head_dim=head_size, rope_theta=base, rope_scaling=scaling.model_dump())
    expected, factor = ROPE_INIT_FUNCTIONS[scaling.rope_type](config, "cpu")
    found = rotary_frequencies(head_size, base, scaling)
    assert found.dtype == np.float32
    assert factor == 1.0
    # The powers of numpy and torch differ in the last bit.
    np.testing.assert_allclose(found, expected.numpy(), rtol=5e-7)


def test_angles_stay_exact_far_into_the_context() -> None:
    angles = rotary_angles(rotary_frequencies(64, 100_000.0), 8192)
    exact = np.arange(8192)[:, None] * 100_000.0 ** (-np.arange(0, 64, 2) / 64)
    # float32 angles near 8192 are 2^-11 apart, and each factor may be off by another half of that.
    assert np.abs(angles - exact).max() < 2**-10
    assert angles.dtype == np.float32
