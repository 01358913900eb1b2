"""The layers of a Llama model as OpenVINO subgraphs, in the forms that the CPU plugin recognizes and fuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
from openvino import Node, Output, Type
from openvino import opset16 as ops
from openvino.op import Parameter

from build_engines.quantization.weights import Int8Weight, Weight


def parameter(name: str, shape: Sequence[int], dtype: Type) -> Parameter:
    """A model input called ``name``; -1 is a dynamic dimension."""
    return cast(Parameter, named(name, ops.parameter(list(shape), dtype, name=name)))


def named(name: str, node: Node) -> Node:
    """``node`` itself, whose output is now called ``name``."""
    node.get_output_tensor(0).set_names({name})
    return node


def only(output: Output) -> Node:
    """One output of a node that has several; the opset takes it like a node, though its type hints do not say so."""
    return cast(Node, output)


def integers(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))


def reshape(x: Node, *dims: int) -> Node:
    """``x`` with shape ``dims``: -1 is inferred, 0 keeps the dimension."""
    return ops.reshape(x, integers(*dims), special_zero=True)


def split(x: Node, *sizes: int) -> list[Node]:
    """``x`` cut along its last dimension."""
    parts = ops.variadic_split(x, ops.constant(np.int64(-1)), integers(*sizes))
    return [only(part) for part in parts.outputs()]


def rows(x: Node, indices: Node) -> Node:
    """``x[indices]``, along the first dimension."""
    return ops.gather(x, indices, ops.constant(np.int64(0)))


class Table:
    """A weight [out, in] that is in the graph once, however many layers read it."""

    def __init__(self, weight: Weight) -> None:
        if isinstance(weight, Int8Weight):
            self._values = ops.constant(weight.integers)
            self._scales: Node | None = ops.constant(weight.scales[:, None])
        else:
            self._values = ops.constant(weight.values)
            self._scales = None

    def linear(self, x: Node) -> Node:
        """``x`` [..., in] times the transposed weight: [..., out]."""
        return ops.matmul(x, _scaled(self._values, self._scales), False, True)

    def rows(self, indices: Node) -> Node:
        """The float32 rows at ``indices``: [..., in]."""
        scales = None if self._scales is None else rows(self._scales, indices)
        return _scaled(rows(self._values, indices), scales)


def _scaled(values: Node, scales: Node | None) -> Node:
    if values.get_element_type() != Type.f32:
        values = ops.convert(values, "f32")
    return values if scales is None else ops.multiply(values, scales)


def rms_norm(x: Node, gain: npt.NDArray[np.float32], epsilon: float) -> Node:
    """x / sqrt(mean(x²) + epsilon) * gain, over the last dimension."""
    mean_square = ops.reduce_mean(ops.power(x, ops.constant(np.float32(2))), integers(-1), keep_dims=True)
    root = ops.sqrt(ops.add(mean_square, ops.constant(np.float32(epsilon))))
    scale = ops.divide(ops.constant(np.float32(1)), root)
    return ops.multiply(ops.multiply(x, scale), ops.constant(gain))


class RotaryEmbedding:
    """Rotary position embedding in its rotate-half form (``rope_gpt_neox``), from tables of all positions.

    The tables are computed here, as Hugging Face and TensorRT-LLM compute them, so that no angle passes through a
    step that the plugin may run in lower precision: at position 8000 a bfloat16 angle is off by whole turns.
    """

    def __init__(self, positions: Node, *, head_size: int, base: float, max_positions: int) -> None:
        """``positions`` i64 [batch, length], each below ``max_positions``."""
        angles = rotary_angles(head_size, base, max_positions)
        self._half = head_size // 2
        self._cos = self._at(np.cos(angles), positions)
        self._sin = self._at(np.sin(angles), positions)

    def __call__(self, x: Node) -> Node:
        """Rotate ``x`` [batch, heads, length, head_size]."""
        # The plugin's RoPE fusion matches neither a negative axis nor a Split.
        parts = ops.variadic_split(x, ops.constant(np.int64(3)), integers(self._half, self._half))
        first, second = parts.outputs()
        rotated = ops.concat([ops.negative(only(second)), only(first)], -1)
        return ops.add(ops.multiply(x, self._cos), ops.multiply(rotated, self._sin))

    @staticmethod
    def _at(table: npt.NDArray[np.float32], positions: Node) -> Node:
        both_halves = ops.constant(np.concatenate([table, table], axis=-1))
        return ops.unsqueeze(rows(both_halves, positions), integers(1))


def rotary_angles(head_size: int, base: float, max_positions: int) -> npt.NDArray[np.float32]:
    """Angles [max_positions, head_size / 2] in radians, position / base^(2i / head_size), computed in float32."""
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    inverse_frequencies = np.float32(1) / np.float32(base) ** exponents
    return np.outer(np.arange(max_positions, dtype=np.float32), inverse_frequencies)


def swiglu(gate: Node, up: Node) -> Node:
    """silu(gate) * up."""
    return ops.multiply(ops.swish(gate), up)


def argmax(logits: Node) -> Node:
    """Index i32 [rows] of the largest of ``logits`` [rows, vocabulary]."""
    top = ops.topk(logits, ops.constant(np.int64(1)), -1, "max", "none", "i32")
    return ops.squeeze(only(top.output(1)), integers(-1))
