"""Tiny random checkpoints in every quantized form, by the plainest rules that give the form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from build_engines.checkpoint.config import CheckpointConfig, QuantAlgo
from build_engines.checkpoint.dtypes import BY_NAME, Array
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.quantization.int4_packing import pack_int4
from build_engines.quantization.weight_only import quantize_int4_groups
from tests import tiny_llama, tiny_models

QUANT_ALGOS: tuple[QuantAlgo | None, ...] = (
    None,
    "W8A16",
    "W4A16",
    "FP8",
    "W8A8_SQ_PER_CHANNEL",
    "W4A16_AWQ",
    "W4A8_AWQ",
    "NVFP4",
)
ACTIVATION_SCALE = 0.03


def source(folder: Path, of: CheckpointConfig) -> Checkpoint:
    """The unquantized model on one rank."""
    write_checkpoint(folder, of, tiny_llama.tensors(of).__getitem__, tiny_llama.tokenizer_files())
    return Checkpoint.open(folder)


def config(quant_algo: QuantAlgo | None, *, kv_cache: str | None = None, **changes: Any) -> CheckpointConfig:
    group = 16 if quant_algo in ("W4A16_AWQ", "W4A8_AWQ", "NVFP4") else None
    quantization = {"quant_algo": quant_algo, "kv_cache_quant_algo": kv_cache, "group_size": group}
    return tiny_models.config("LlamaForCausalLM", quantization=quantization, **changes)


def quantized(folder: Path, of: CheckpointConfig, plain: Checkpoint, *, smoothed: bool = True) -> Checkpoint:
    """``plain`` in the form of ``of``, sharded by its mapping."""

    def tensor(name: str) -> Array:
        return quantized_tensor(of, plain, name, smoothed)

    write_checkpoint(folder, of, tensor, tiny_llama.tokenizer_files())
    return Checkpoint.open(folder)


def quantized_tensor(of: CheckpointConfig, plain: Checkpoint, name: str, smoothed: bool = True) -> Array:
    layer, _, kind = name.rpartition(".")
    if kind == "kv_cache_scaling_factor":
        return np.array([0.05], np.float32)
    if kind == "activation_scaling_factor":
        return np.array([ACTIVATION_SCALE], np.float32)
    if name in plain.table and tensor_table(of)[name].whole.dtype == BY_NAME[of.dtype]:
        return plain.tensor(name)
    weight = plain.tensor(f"{layer}.weight").astype(np.float32)
    smoothing = np.random.default_rng(len(layer)).uniform(0.5, 2, weight.shape[1]) if smoothed else 1
    prequant = (smoothing * np.ones(weight.shape[1])).astype(BY_NAME[of.dtype])
    if kind == "prequant_scaling_factor":
        return prequant
    largest = np.abs(weight).max()
    match of.quantization.quant_algo:
        case "FP8":
            scale = np.float32(largest / 448)
            return np.array([scale]) if kind != "weight" else np.asarray(weight / scale, ml_dtypes.float8_e4m3fn)
        case "W8A8_SQ_PER_CHANNEL":
            weight = weight / prequant.astype(np.float32)
            scales = np.abs(weight).max(axis=1) / np.float32(127)
            return np.asarray(scales if kind != "weight" else np.rint(weight / scales[:, None]).astype(np.int8))
        case "W4A16_AWQ" | "W4A8_AWQ":
            if kind == "weights_scaling_factor_2":
                return np.ones(1, np.float32)
            int4 = quantize_int4_groups(weight / prequant.astype(np.float32), 16)
            return pack_int4(int4.integers) if kind == "weight" else int4.scales
        case _:
            return _nvfp4(weight, kind)


def _nvfp4(weight: Array, kind: str) -> Array:
    scale = np.float32(np.abs(weight).max() / (6 * 448))
    if kind == "weights_scaling_factor_2":
        return np.array([scale])
    blocks = weight.reshape(len(weight), -1, 16)
    block_scales = np.asarray(np.abs(blocks).max(axis=2) / 6 / scale, ml_dtypes.float8_e4m3fn)
    if kind == "weights_scaling_factor":
        return block_scales
    scaled = blocks / (block_scales.astype(np.float32) * scale)[:, :, None]
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    codes = np.abs(np.abs(scaled)[..., None] - values).argmin(axis=-1) | np.where(scaled < 0, 8, 0)
    codes = codes.reshape(weight.shape).astype(np.uint8)
    packed: Array = codes[:, 0::2] | codes[:, 1::2] << 4
    return packed
