"""A model's dimensions from GGUF metadata, for the architectures that TensorRT-LLM checkpoints are made of."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from build_engines.checkpoint.config import QWEN_TYPES, Architecture, CheckpointConfig
from build_engines.checkpoint.dtypes import DtypeName
from build_engines.sources.gguf_file import GgufFile
from build_engines.sources.gguf_rope import read_scaling
from python_backend.engine.manifest import first_problem
from python_backend.errors import SetupError, did_you_mean

#: llama.cpp's names. It calls Mistral and SmolLM "llama", too, since they compute the same.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
}
#: llama.cpp's value where the file has none.
_DEFAULT_ROPE_BASE = 10_000.0
#: What is read of an architecture's keys, and what cannot change the numbers. Others are refused.
_KEYS = frozenset({
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
    "attention.sliding_window", "attention.value_length", "block_count", "context_length", "embedding_length",
    "expert_count", "expert_used_count", "feed_forward_length", "rope.dimension_count", "rope.freq_base",
    "rope.scaling.factor", "rope.scaling.finetuned", "rope.scaling.original_context_length", "rope.scaling.type",
    "tensor_data_layout", "vocab_size",
})  # fmt: skip
_PLAIN_TYPES: dict[str, DtypeName] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


@dataclass(frozen=True, slots=True)
class GgufConfig:
    """``notices`` are for the user."""

    config: CheckpointConfig
    notices: tuple[str, ...]


def read_config(gguf: GgufFile) -> GgufConfig:
    """Raises SetupError that names the key and what is supported."""
    name = gguf.get("general.architecture", str)
    if name not in ARCHITECTURES:
        raise SetupError(
            f'{gguf.path}: architecture is "{name}"; those that can be imported are {", ".join(ARCHITECTURES)}.'
        )
    _check_keys(gguf, name)
    heads, hidden_size = gguf.get(f"{name}.attention.head_count", int), gguf.get(f"{name}.embedding_length", int)
    if heads < 1:
        raise SetupError(f"{gguf.path}: {name}.attention.head_count is {heads}.")
    head_size = gguf.find(f"{name}.attention.key_length", int) or hidden_size // heads
    _check_heads(gguf, name, head_size)
    positions, notices = gguf.get(f"{name}.context_length", int), []
    window = gguf.find(f"{name}.attention.sliding_window", int)
    if window and window < positions:
        notices.append(
            f"attention has a sliding window of {window} tokens, which the engines do not have: "
            f"max_position_embeddings is {window} instead of {positions}."
        )
        positions = window
    base = gguf.find(f"{name}.rope.freq_base", float) or _DEFAULT_ROPE_BASE
    dtype, stored = _dtype(gguf)
    if stored:
        notices.append(f"weights are dequantized from {stored} to {dtype}.")
    try:
        config = CheckpointConfig(
            architecture=ARCHITECTURES[name],
            dtype=dtype,
            vocab_size=len(gguf.get("tokenizer.ggml.tokens", list)),
            hidden_size=hidden_size,
            num_hidden_layers=gguf.get(f"{name}.block_count", int),
            num_attention_heads=heads,
            num_key_value_heads=gguf.find(f"{name}.attention.head_count_kv", int) or heads,
            head_size=head_size,
            intermediate_size=gguf.get(f"{name}.feed_forward_length", int),
            max_position_embeddings=positions,
            hidden_act="gelu" if name == "gemma" else "silu",
            norm_epsilon=gguf.get(f"{name}.attention.layer_norm_rms_epsilon", float),
            rotary_base=base,
            rotary_scaling=read_scaling(gguf, name, base, head_size),
            attn_bias=name == "qwen2",
            qk_layernorm=name == "qwen3",
            qwen_type=QWEN_TYPES.get(ARCHITECTURES[name]),
            tie_word_embeddings="output.weight" not in gguf.shapes,
        )
    except ValidationError as error:
        raise SetupError(f"{gguf.path}: {first_problem(error, CheckpointConfig)}.") from error
    return GgufConfig(config, tuple(notices))


def _check_keys(gguf: GgufFile, name: str) -> None:
    if (gguf.find("split.count", int) or 1) > 1:
        raise SetupError(f"{gguf.path} is one part of a split model. Merge it with `llama-gguf-split --merge`.")
    for key in gguf.keys:
        own = key.removeprefix(f"{name}.")
        if own != key and own not in _KEYS:
            raise SetupError(
                f'{gguf.path}: metadata "{key}" is not known, and may change what is computed{did_you_mean(own, _KEYS)}'
            )
    experts = gguf.find(f"{name}.expert_count", int)
    if experts:
        raise SetupError(f"{gguf.path}: it has {experts} experts; mixtures of experts cannot be imported.")


def _check_heads(gguf: GgufFile, name: str, head_size: int) -> None:
    rotated = gguf.find(f"{name}.rope.dimension_count", int) or head_size
    if rotated != head_size:
        raise SetupError(f"{gguf.path}: {rotated} of {head_size} head dimensions are rotated; all of them must be.")
    value_length = gguf.find(f"{name}.attention.value_length", int) or head_size
    if value_length != head_size:
        raise SetupError(f"{gguf.path}: heads of values have {value_length} dimensions, heads of keys {head_size}.")


def _dtype(gguf: GgufFile) -> tuple[DtypeName, str]:
    """The type of the matrices, or float16 where they are quantized or mixed; and which these are."""
    stored = {gguf.types[name] for name, shape in gguf.shapes.items() if len(shape) == 2}
    if len(stored) == 1 and stored <= _PLAIN_TYPES.keys():
        return _PLAIN_TYPES[stored.pop()], ""
    return "float16", ", ".join(sorted(stored))
