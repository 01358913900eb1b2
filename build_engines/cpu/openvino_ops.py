"""OpenVINO subgraphs that the layers of a decoder are made of, in the forms that the CPU plugin fuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from openvino import Node, Output, Type
from openvino import opset16 as ops
from openvino.op import Parameter

from build_engines.quantization.weights import Floats


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


def rms_norm(x: Node, gain: Floats, epsilon: float) -> Node:
    """x / sqrt(mean(x²) + epsilon) * gain, over the last dimension."""
    mean_square = ops.reduce_mean(ops.power(x, ops.constant(np.float32(2))), integers(-1), keep_dims=True)
    root = ops.sqrt(ops.add(mean_square, ops.constant(np.float32(epsilon))))
    scale = ops.divide(ops.constant(np.float32(1)), root)
    return ops.multiply(ops.multiply(x, scale), ops.constant(gain))


def argmax(logits: Node) -> Node:
    """Index i32 [rows] of the largest of ``logits`` [rows, vocabulary]."""
    top = ops.topk(logits, ops.constant(np.int64(1)), -1, "max", "none", "i32")
    return ops.squeeze(only(top.output(1)), integers(-1))
