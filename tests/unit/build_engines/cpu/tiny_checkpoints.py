"""Tiny checkpoints of any architecture and format, whose quantized tensors are random integers and scales."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from build_engines.checkpoint.config import Architecture, CheckpointConfig, QuantAlgo, Quantization
from build_engines.checkpoint.dtypes import FLOAT8, INT8, UINT8, Array, DtypeName
from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.checkpoint.writer import write_checkpoint
from tests import tiny_llama, tiny_models

GROUP_SIZES: dict[QuantAlgo, int] = {"W4A16_AWQ": 32, "W4A8_AWQ": 32, "NVFP4": 16}
#: What a quantized weight's integers or small floats are multiplied by, on average: for a deviation of about 0.2.
_SCALES: dict[QuantAlgo, float] = {
    "FP8": 0.005,
    "W8A8_SQ_PER_CHANNEL": 0.003,
    "W4A16_AWQ": 0.04,
    "W4A8_AWQ": 0.04,
    "NVFP4": 0.0006,
}


def config(architecture: Architecture, quant_algo: QuantAlgo | None, dtype: DtypeName = "float16") -> CheckpointConfig:
    quantization = Quantization(quant_algo=quant_algo, group_size=GROUP_SIZES.get(quant_algo) if quant_algo else None)
    return tiny_models.config(architecture, dtype=dtype, quantization=quantization.model_dump())


def tensors(of: CheckpointConfig, *, seed: int = 0) -> dict[str, Array]:
    """All but a tied lm_head, which the writer takes from the embedding."""
    random = np.random.default_rng(seed)
    found = tiny_llama.tensors(of, seed=seed)
    scale = _SCALES.get(of.quantization.quant_algo or "W8A16", 1.0)
    for name in found:
        kind = tensor_table(of)[name].whole
        if kind.dtype in (INT8, UINT8):
            found[name] = random.integers(0, 256, kind.shape).astype(np.uint8).view(kind.dtype)
        elif name.endswith("scaling_factor_2"):
            found[name] = np.full(kind.shape, scale, np.float32)
        elif name.endswith("weights_scaling_factor"):
            near_one = random.uniform(0.5, 1.5, kind.shape)
            # NVFP4's blocks have scales in float8, and one of float32 for all of them.
            found[name] = (100 * near_one if kind.dtype == FLOAT8 else scale * near_one).astype(kind.dtype)
        elif name.endswith("prequant_scaling_factor"):
            found[name] = random.uniform(0.5, 2, kind.shape)
        elif name.endswith("activation_scaling_factor"):
            found[name] = np.full(kind.shape, 0.01, np.float32)
        elif kind.dtype == FLOAT8:
            found[name] = random.normal(0, 40, kind.shape).astype(FLOAT8)
    return found


def checkpoint(directory: Path, of: CheckpointConfig, *, seed: int = 0) -> Path:
    """Write ``directory`` with random tensors and return it."""
    return write(directory, of, tensors(of, seed=seed))


def write(directory: Path, of: CheckpointConfig, whole: Mapping[str, Array]) -> Path:
    write_checkpoint(directory, of, whole.__getitem__, _tokenizer_files())
    return directory


@cache
def _tokenizer_files() -> dict[str, bytes]:
    return tiny_llama.tokenizer_files()
