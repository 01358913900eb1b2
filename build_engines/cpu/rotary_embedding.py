"""Rotary position embedding (Su et al., 2021, RoFormer) in its rotate-half form (``rope_gpt_neox``)."""

from __future__ import annotations

import numpy as np
from openvino import Node
from openvino import opset16 as ops

from build_engines.cpu.openvino_ops import integers, only, rows
from build_engines.quantization.weights import Floats


class RotaryEmbedding:
    """Rotates queries and keys by angles from tables of all positions.

    The tables are computed here, as Hugging Face and TensorRT-LLM compute them, so that no angle passes through a
    step that the plugin may run in lower precision: at position 8000 a bfloat16 angle is off by whole turns.
    """

    def __init__(self, positions: Node, angles: Floats) -> None:
        """``positions`` i64 [batch, length], indices into ``angles`` [max_positions, head_size / 2]."""
        self._half = angles.shape[1]
        self._cos = _at(np.cos(angles), positions)
        self._sin = _at(np.sin(angles), positions)

    def __call__(self, x: Node) -> Node:
        """Rotate ``x`` [batch, heads, length, head_size]."""
        # The plugin's RoPE fusion matches neither a negative axis nor a Split.
        parts = ops.variadic_split(x, ops.constant(np.int64(3)), integers(self._half, self._half))
        first, second = parts.outputs()
        rotated = ops.concat([ops.negative(only(second)), only(first)], -1)
        return ops.add(ops.multiply(x, self._cos), ops.multiply(rotated, self._sin))


def _at(table: Floats, positions: Node) -> Node:
    """The rows at ``positions``, for both halves of a head: [batch, 1, length, head_size]."""
    half = ops.unsqueeze(rows(ops.constant(table), positions), integers(1))
    return ops.concat([half, half], -1)
