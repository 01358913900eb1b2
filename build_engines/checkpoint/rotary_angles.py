"""The angles of rotary position embeddings (Su et al., 2021, RoFormer), which every engine has to compute alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.config import Llama3Scaling, RotaryScaling

Angles = npt.NDArray[np.float32]


def rotary_angles(frequencies: Angles, max_positions: int) -> Angles:
    """Angles [max_positions, head_size / 2] in radians: position * frequency, in float32."""
    return np.outer(np.arange(max_positions, dtype=np.float32), frequencies)


def rotary_frequencies(head_size: int, base: float, scaling: RotaryScaling | None = None) -> Angles:
    """Radians a position [head_size / 2]: 1 / base^(2i / head_size), scaled as Hugging Face does, in float32."""
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    frequencies = np.float32(1) / np.float32(base) ** exponents
    if scaling is None:
        return frequencies
    if isinstance(scaling, Llama3Scaling):
        return _llama3(frequencies, scaling)
    return frequencies / np.float32(scaling.factor)


def _llama3(frequencies: Angles, scaling: Llama3Scaling) -> Angles:
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    trained = np.float32(scaling.original_max_position_embeddings)
    wavelengths = np.float32(2 * np.pi) / frequencies
    divided = frequencies / np.float32(scaling.factor)
    smooth = (trained / wavelengths - low) / (high - low)
    between = (1 - smooth) * divided + smooth * frequencies
    scaled = np.where(wavelengths > trained / low, divided, between)
    return np.where(wavelengths < trained / high, frequencies, scaled)
