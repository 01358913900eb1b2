"""Which tensors a checkpoint consists of: names, types, whole shapes, and how each is spread over ranks.

Reading, writing, checking and sharding all go by this table. Weights are [out, in]. Layers are counted over the whole
model; in a rank's file they count from 0 within its pipeline stage. Beware of the MLP's names: ``fc`` is Hugging
Face's ``gate_proj`` and ``gate`` is its ``up_proj``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME, FLOAT8, FLOAT32, INT8, UINT8
from build_engines.checkpoint.safetensors_file import TensorType

EMBEDDING = "transformer.vocab_embedding.weight"
FINAL_NORM = "transformer.ln_f.weight"
LM_HEAD = "lm_head.weight"


class Split(Enum):
    """How tensor parallelism spreads a tensor. Column and row are Megatron's words: outputs and inputs."""

    REPLICATED = auto()
    COLUMN = auto()  # Along dimension 0.
    ROW = auto()  # Along the last dimension.
    HEADS = auto()  # Along dimension 0, whose parts are the heads of q, k and v; k and v are repeated for many ranks.
    VOCABULARY = auto()  # Along dimension 0, padded with zeros to a multiple of the ranks.


_SPLITS = {
    "attention.qkv": Split.HEADS,
    "attention.dense": Split.ROW,
    "mlp.fc": Split.COLUMN,
    "mlp.gate": Split.COLUMN,
    "mlp.proj": Split.ROW,
}
LINEAR_LAYERS = tuple(_SPLITS)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor. ``layer`` is None for what comes before the first layer or after the last."""

    name: str
    whole: TensorType
    split: Split
    layer: int | None = None


def layer_tensor(layer: int, name: str) -> str:
    """The full name of a layer's tensor."""
    return f"transformer.layers.{layer}.{name}"


def tensor_table(config: CheckpointConfig) -> dict[str, Entry]:
    """Every tensor by name, in the order of the model. A tied lm_head is among them."""
    plain = BY_NAME[config.dtype]
    vocabulary = TensorType(plain, (config.vocab_size, config.hidden_size))
    embedding_split = Split.VOCABULARY if config.use_parallel_embedding else Split.REPLICATED
    entries = [Entry(EMBEDDING, vocabulary, embedding_split)]
    for layer in range(config.num_hidden_layers):
        for name, whole, split in _layer(config):
            entries.append(Entry(layer_tensor(layer, name), whole, split, layer))
    entries.append(Entry(FINAL_NORM, TensorType(plain, (config.hidden_size,)), Split.REPLICATED))
    entries.append(Entry(LM_HEAD, vocabulary, Split.VOCABULARY))
    return {entry.name: entry for entry in entries}


def linear_shape(config: CheckpointConfig, linear: str) -> tuple[int, int]:
    """Outputs and inputs of one of ``LINEAR_LAYERS``."""
    hidden, inter = config.hidden_size, config.intermediate_size
    return {
        "attention.qkv": (config.q_rows + 2 * config.kv_rows, hidden),
        "attention.dense": (hidden, config.q_rows),
        "mlp.fc": (inter, hidden),
        "mlp.gate": (inter, hidden),
        "mlp.proj": (hidden, inter),
    }[linear]


def _layer(config: CheckpointConfig) -> Iterator[tuple[str, TensorType, Split]]:
    plain = BY_NAME[config.dtype]
    norm = TensorType(plain, (config.hidden_size,))
    yield "input_layernorm.weight", norm, Split.REPLICATED
    for linear in LINEAR_LAYERS:
        if linear == "mlp.fc":
            yield "post_layernorm.weight", norm, Split.REPLICATED
        for name, whole, split in _linear(config, linear):
            yield f"{linear}.{name}", whole, split
        if linear == "attention.qkv":
            if config.attn_bias:
                yield "attention.qkv.bias", TensorType(plain, (linear_shape(config, linear)[0],)), Split.HEADS
            if config.qk_layernorm:
                yield "attention.q_layernorm.weight", TensorType(plain, (config.head_size,)), Split.REPLICATED
                yield "attention.k_layernorm.weight", TensorType(plain, (config.head_size,)), Split.REPLICATED
            if config.quantization.kv_cache_quant_algo:
                yield "attention.kv_cache_scaling_factor", TensorType(FLOAT32, (1,)), Split.REPLICATED


def _linear(config: CheckpointConfig, linear: str) -> Iterator[tuple[str, TensorType, Split]]:
    """The weight of one linear layer and its scales. Names and shapes are ModelOpt's export for TensorRT-LLM."""
    out, into = linear_shape(config, linear)
    split = {"attention.qkv": Split.HEADS, "attention.dense": Split.ROW, "mlp.proj": Split.ROW}.get(
        linear, Split.COLUMN
    )
    of_inputs = Split.ROW if split is Split.ROW else Split.REPLICATED
    of_outputs = Split.REPLICATED if split is Split.ROW else split
    scalar = TensorType(FLOAT32, (1,))
    plain, group = BY_NAME[config.dtype], config.quantization.group_size or 1
    prequant = TensorType(plain, (into,))
    match config.quantization.quant_algo:
        case None | "W8A16" | "W4A16":
            yield "weight", TensorType(plain, (out, into)), split
        case "FP8":
            yield "weight", TensorType(FLOAT8, (out, into)), split
            yield "weights_scaling_factor", scalar, Split.REPLICATED
            yield "activation_scaling_factor", scalar, Split.REPLICATED
        case "W8A8_SQ_PER_CHANNEL":
            yield "weight", TensorType(INT8, (out, into)), split
            yield "weights_scaling_factor", TensorType(FLOAT32, (out,)), of_outputs
            yield "activation_scaling_factor", scalar, Split.REPLICATED
            yield "prequant_scaling_factor", prequant, of_inputs
        case "W4A16_AWQ" | "W4A8_AWQ":
            yield "weight", TensorType(INT8, (out // 2, into)), split
            yield "weights_scaling_factor", TensorType(FLOAT32, (out, into // group)), split
            yield "prequant_scaling_factor", prequant, of_inputs
            if config.quantization.quant_algo == "W4A8_AWQ":
                yield "weights_scaling_factor_2", scalar, Split.REPLICATED
                yield "activation_scaling_factor", scalar, Split.REPLICATED
        case "NVFP4":
            yield "weight", TensorType(UINT8, (out, into // 2)), split
            yield "weights_scaling_factor", TensorType(FLOAT8, (out, into // group)), split
            yield "weights_scaling_factor_2", scalar, Split.REPLICATED
            yield "activation_scaling_factor", scalar, Split.REPLICATED
