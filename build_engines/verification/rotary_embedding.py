"""Rotary position embeddings (Su et al., 2021) as Llama rotates: the first half of a head with its second."""

from __future__ import annotations

import math

import torch

from build_engines.checkpoint.config import CheckpointConfig, LinearScaling, Llama3Scaling


def rotate(x: torch.Tensor, config: CheckpointConfig) -> torch.Tensor:
    """Rotate heads [..., tokens, head_size], the first token at position 0."""
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float32), frequencies(config))
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def frequencies(config: CheckpointConfig) -> torch.Tensor:
    """Radians a position, [head_size / 2]."""
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
    plain = 1 / config.rotary_base**exponents
    match config.rotary_scaling:
        case None:
            return plain
        case LinearScaling(factor=factor):
            return plain / factor
        case Llama3Scaling() as scaling:
            return _llama3(plain, scaling)


def _llama3(plain: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Llama 3.1's rule; what lies between its two wavelengths is interpolated."""
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * plain + (1 - kept) * plain / scaling.factor
