"""Rotary position embeddings (Su et al., 2021) as Llama rotates: the first half of a head with its second."""

from __future__ import annotations

import torch

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.rotary_angles import rotary_angles, rotary_frequencies


def rotate(x: torch.Tensor, config: CheckpointConfig) -> torch.Tensor:
    """Rotate heads [..., tokens, head_size], the first token at position 0."""
    frequencies = rotary_frequencies(config.head_size, config.rotary_base, config.rotary_scaling)
    angles = torch.from_numpy(rotary_angles(frequencies, x.shape[-2]))
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
