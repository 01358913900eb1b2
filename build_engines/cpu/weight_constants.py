"""Weights as constants of an OpenVINO graph, every number as the checkpoint has it; only INT4 is packed anew.

On AVX2 the CPU plugin multiplies from INT8, INT4 and FP4 as they are, and turns FP16, BF16 and FP8 into float32, four
bytes a weight, when it loads them. So no format gains from being dequantized here. 24 matrices of 1536 x 1536 took, for
1 and 8 rows, in ms: FP16 7.1 and 9.9, BF16 7.1 and 10.0, FP8 7.1 and 9.9, INT8 2.4 and 7.6, INT4 2.2 and 7.2, INT4 in
groups of 64 2.3 and 7.8, FP4 in groups of 16 3.6 and 9.6 (two cores of an AMD EPYC with AVX2, OpenVINO 2026.4.1, the
best of 24 runs; FP4 with float32 scales).
"""

from __future__ import annotations

import numpy as np
import openvino
from openvino import Node, Shape, Type
from openvino import opset16 as ops

from build_engines.checkpoint.dtypes import BFLOAT16, FLOAT8, FLOAT16, FLOAT32, INT8, Array
from build_engines.cpu.openvino_ops import reshape, rows
from build_engines.quantization.linear import Linear
from build_engines.quantization.weights import Float8Weight, Int4Weight, Int8Weight, NvFp4Weight, PlainWeight, Weight

_TYPES = {FLOAT32: Type.f32, FLOAT16: Type.f16, BFLOAT16: Type.bf16, FLOAT8: Type.f8e4m3, INT8: Type.i8}


class Table:
    """A weight [out, in] that is in the graph once, however many layers read it."""

    def __init__(self, weight: Weight) -> None:
        self._values, self._scales = _constants(weight)

    def linear(self, x: Node) -> Node:
        """``x`` [..., in] times the transposed weight: [..., out]."""
        weight = _scaled(self._values, self._scales)
        if len(weight.get_output_shape(0)) == 3:  # [out, groups, in a group]
            weight = reshape(weight, 0, -1)
        return ops.matmul(x, weight, False, True)

    def rows(self, indices: Node) -> Node:
        """The float32 rows at ``indices``: [..., in]. The weight has one scale a row, or none."""
        return _scaled(rows(self._values, indices), None if self._scales is None else rows(self._scales, indices))


def linear(layer: Linear, x: Node) -> Node:
    """The layer's output [..., out] for ``x`` [..., in]. Activations stay floats, whatever the checkpoint's format."""
    if layer.prequant_scale is not None:
        x = ops.multiply(x, ops.constant(layer.prequant_scale))
    y = Table(layer.weight).linear(x)
    return y if layer.bias is None else ops.add(y, ops.constant(layer.bias))


def _constants(weight: Weight) -> tuple[Node, Node | None]:
    """What a weight is stored as, and what that is multiplied by."""
    match weight:
        case PlainWeight(values):
            return _constant(values), None
        case Int8Weight(integers, scales):
            return _constant(integers), _constant(scales[:, None])
        case Int4Weight(integers, scales):
            return _packed(_pack(integers), Type.i4, scales), _constant(scales[:, :, None])
        case Float8Weight(values, scale):
            return _constant(values), ops.constant(scale)
        case NvFp4Weight(codes, block_scales, scale):
            # The plugin multiplies both scales when it loads the engine, as NvFp4Weight.dequantize does.
            scales = ops.multiply(_float32(_constant(block_scales[:, :, None])), ops.constant(scale))
            return _packed(codes, Type.f4e2m1, block_scales), scales


def _constant(values: Array) -> Node:
    return _typed(values, values.shape, _TYPES[values.dtype])


def _packed(pairs: Array, dtype: Type, scales: Array) -> Node:
    """4-bit values, two a byte, as [out, groups, in a group]."""
    out, groups = scales.shape
    return _typed(pairs, (out, groups, 2 * pairs.size // (out * groups)), dtype)


def _typed(values: Array, shape: tuple[int, ...], dtype: Type) -> Node:
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    # Shared memory would not be kept alive by the constant.
    return ops.constant(openvino.Tensor(data, Shape(list(shape)), dtype), shared_memory=False)


def _pack(integers: Array) -> Array:
    """-8 to 7, two neighbouring inputs a byte, the first in the lower half: OpenVINO's i4."""
    nibbles = integers.reshape(-1, 2).view(np.uint8) & 15
    return nibbles[:, 0] | nibbles[:, 1] << 4


def _scaled(values: Node, scales: Node | None) -> Node:
    values = _float32(values)
    return values if scales is None else ops.multiply(values, scales)


def _float32(values: Node) -> Node:
    return values if values.get_element_type() == Type.f32 else ops.convert(values, "f32")
