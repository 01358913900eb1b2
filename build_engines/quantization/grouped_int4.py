"""Weight-only INT4 with groups, in the form of W4A16_AWQ but without its search."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME, Array
from build_engines.checkpoint.tensor_table import LINEAR_LAYERS, tensor_table
from build_engines.checkpoint.writer import TensorSource
from build_engines.quantization.int4_packing import pack_int4
from build_engines.quantization.weight_only import quantize_int4_groups
from build_engines.quantization.weights import Int4Weight


class GroupedInt4:
    """A model's tensors as W4A16_AWQ names them; a ``TensorSource``.

    Weights equal ModelOpt's INT4_BLOCKWISE_WEIGHT_ONLY export bit for bit. That one lacks the prequant scales which
    its config promises to TensorRT-LLM; here they are there, all one.
    """

    def __init__(self, config: CheckpointConfig, plain: TensorSource) -> None:
        """``plain`` gives the model's unquantized tensors."""
        assert config.quantization.group_size
        self._group_size = config.quantization.group_size
        self._plain, self._types = plain, {name: entry.whole for name, entry in tensor_table(config).items()}
        self._dtype = BY_NAME[config.dtype]
        # The weight's integers and its scales are asked for one after the other.
        self._quantized = lru_cache(maxsize=1)(self._quantize)

    def __call__(self, name: str) -> Array:
        linear, _, kind = name.rpartition(".")
        if kind == "prequant_scaling_factor":
            return np.ones(self._types[name].shape, self._dtype)
        if kind == "weights_scaling_factor":
            return self._quantized(linear).scales
        if kind == "weight" and linear.endswith(LINEAR_LAYERS):
            return pack_int4(self._quantized(linear).integers)
        return self._plain(name)

    def _quantize(self, linear: str) -> Int4Weight:
        return quantize_int4_groups(self._plain(f"{linear}.weight"), self._group_size)
