"""A linear layer as a checkpoint holds it: its weight, and how its input is scaled before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from build_engines.checkpoint.config import Quantization
from build_engines.checkpoint.dtypes import Array
from build_engines.quantization.int4_packing import unpack_int4
from build_engines.quantization.weight_only import quantize_int4, quantize_int8
from build_engines.quantization.weights import (
    Float8Weight,
    Floats,
    Int4Weight,
    Int8Weight,
    NvFp4Weight,
    PlainWeight,
    Weight,
)


@dataclass(frozen=True, slots=True)
class Linear:
    """y = (x * prequant_scale) @ weight.T + bias.

    ``activation_scale`` is what one step of the 8-bit (or 4-bit) type stands for, where the input is quantized by a
    fixed scale: FP8, W4A8_AWQ and NVFP4. W8A8_SQ_PER_CHANNEL stores one that is not used: it scales per token.
    """

    weight: Weight
    prequant_scale: Floats | None = None
    activation_scale: np.float32 | None = None
    bias: Floats | None = None

    def dequantize(self) -> Floats:
        """The float32 weight [out, in] that has the same effect on an unscaled input."""
        plain = self.weight.dequantize()
        return plain if self.prequant_scale is None else plain * self.prequant_scale


def read_linear(tensor: Callable[[str], Array], quantization: Quantization, name: str, *, bias: bool = False) -> Linear:
    """The layer called ``name``, "transformer.layers.0.mlp.fc" for one, from its tensors.

    For W8A16 and W4A16 the rule of the engine build is applied to the plain weight.
    """

    def floats(suffix: str) -> Floats:
        return tensor(f"{name}.{suffix}").astype(np.float32)

    def scalar(suffix: str) -> np.float32:
        return np.float32(floats(suffix)[0])

    stored = tensor(f"{name}.weight")
    added = floats("bias") if bias else None
    match quantization.quant_algo:
        case None:
            return Linear(PlainWeight(stored), bias=added)
        case "W8A16":
            return Linear(quantize_int8(stored), bias=added)
        case "W4A16":
            return Linear(quantize_int4(stored), bias=added)
        case "FP8":
            weight: Weight = Float8Weight(stored, scalar("weights_scaling_factor"))
            return Linear(weight, None, scalar("activation_scaling_factor"), added)
        case "W8A8_SQ_PER_CHANNEL":
            weight = Int8Weight(stored, floats("weights_scaling_factor"))
            return Linear(weight, floats("prequant_scaling_factor"), None, added)
        case "W4A16_AWQ":
            weight = Int4Weight(unpack_int4(stored), floats("weights_scaling_factor"))
            return Linear(weight, floats("prequant_scaling_factor"), None, added)
        case "W4A8_AWQ":
            weight = Int4Weight(unpack_int4(stored), floats("weights_scaling_factor"))
            return Linear(weight, floats("prequant_scaling_factor"), scalar("activation_scaling_factor"), added)
        case "NVFP4":
            weight = NvFp4Weight(stored, tensor(f"{name}.weights_scaling_factor"), scalar("weights_scaling_factor_2"))
            return Linear(weight, None, scalar("activation_scaling_factor"), added)
