"""Rounding in torch, against numpy's and ml_dtypes' own types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from build_engines.quantization.weights import Floats
from build_engines.verification.runtime_quantization import to_float8, to_int8, to_int8_per_token, to_nvfp4


@pytest.fixture
def activations() -> Floats:
    """[tokens, inputs]: of all sizes, with a token of zeros and outliers beyond every range."""
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (9, 64)) * 10.0 ** random.integers(-3, 3, (9, 64))
    values[4] = 0
    return values.astype(np.float32)


def test_float8(activations: Floats) -> None:
    expected = np.clip(activations / np.float32(0.25), -448, 448).astype(ml_dtypes.float8_e4m3fn)
    assert np.array_equal(to_float8(torch.from_numpy(activations), 0.25), expected.astype(np.float32) * 0.25)


def test_int8(activations: Floats) -> None:
    expected = np.clip(np.rint(activations / np.float32(0.25)), -128, 127) * np.float32(0.25)
    assert np.array_equal(to_int8(torch.from_numpy(activations), 0.25), expected)


def test_int8_per_token(activations: Floats) -> None:
    found = to_int8_per_token(torch.from_numpy(activations)).numpy()
    for token, rounded in zip(activations, found, strict=True):
        step = np.abs(token).max() / 127
        assert np.abs(rounded - token).max() <= step / 2 * 1.001
        steps = rounded / step if step else rounded
        assert np.allclose(steps, np.rint(steps), atol=1e-4)


def test_nvfp4(activations: Floats) -> None:
    scale = np.abs(activations).max() / np.float32(6 * 448)
    found = to_nvfp4(torch.from_numpy(activations), float(scale)).numpy()
    for token, rounded in zip(activations, found, strict=True):
        for block, result in zip(token.reshape(-1, 16), rounded.reshape(-1, 16), strict=True):
            stored = (np.abs(block).max() / 6 / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
            expected = [nearest_e2m1(value / stored) * stored if stored else 0 for value in block]
            assert np.allclose(result, expected, rtol=1e-6)


def test_nvfp4_rounds_halves_to_even() -> None:
    halves = [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -6.0, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5.0]
    found = to_nvfp4(torch.tensor(halves), 1 / 448)
    assert found.tolist() == pytest.approx([nearest_e2m1(value) for value in halves])
    assert found[1:8].tolist() == pytest.approx([0, 1, 1, 2, 2, 4, 4])


def nearest_e2m1(value: float) -> float:
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    code = min(range(8), key=lambda code: (abs(abs(value) - magnitudes[code]), code % 2))
    return float(np.copysign(magnitudes[code], value))
