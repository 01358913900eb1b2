"""Writes models as llama.cpp's convert_hf_to_gguf.py does: the inverse of the import."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, quants

from build_engines.checkpoint.config import Architecture, CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from tests import tiny_llama, tiny_models

ARCHITECTURES: dict[Architecture, str] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
}
_NAMES = {
    r"^model\.embed_tokens": "token_embd",
    r"^model\.norm": "output_norm",
    r"^lm_head": "output",
    r"^model\.layers\.": "blk.",
    r"self_attn\.([qkv])_proj": r"attn_\1",
    r"self_attn\.([qk])_norm": r"attn_\1_norm",
    r"self_attn\.o_proj": "attn_output",
    r"input_layernorm": "attn_norm",
    r"post_attention_layernorm": "ffn_norm",
    r"mlp\.(gate|up|down)_proj": r"ffn_\1",
}
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<user>", *"abcdefghij0123456789Ġ", "ab", "Ġab", "ĠĠ"]
MERGES = ["a b", "Ġ ab", "Ġ Ġ"]


def config(*, tied: bool = True) -> CheckpointConfig:
    """The tiny Llama with the vocabulary above, as the demo's checkpoints are."""
    return tiny_llama.config(tied=tied).model_copy(update={"vocab_size": len(TOKENS), "rotary_base": 100_000.0})


def config_of(architecture: Architecture, **changes: Any) -> CheckpointConfig:
    """The tiny model of an architecture with the vocabulary above, unquantized, in float32 as it is stored here."""
    return tiny_models.config(
        architecture, dtype="float32", vocab_size=len(TOKENS), **{"rotary_scaling": None} | changes
    )


def permute(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """As llama.cpp's convert_hf_to_gguf.py orders query and key rows of its "llama"."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, config: CheckpointConfig, tensors: dict[str, Array], **changes: Any) -> Path:
    """``tensors`` are a checkpoint's, of a Llama.

    ``changes`` replace metadata values, given with their dots as ``__``; None leaves one out.
    """
    return write(path, config, gguf_tensors(config, tensors), **changes)


def write(
    path: Path, config: CheckpointConfig, tensors: dict[str, Array], q8_0: Collection[str] = (), **changes: Any
) -> Path:
    """As ``write_gguf``, with GGUF's own tensors, of which those in ``q8_0`` are quantized."""
    llama_cpp = ARCHITECTURES[config.architecture]
    writer = GGUFWriter(path, llama_cpp)
    metadata: dict[str, Any] = {
        f"{llama_cpp}.block_count": config.num_hidden_layers,
        f"{llama_cpp}.context_length": config.max_position_embeddings,
        f"{llama_cpp}.embedding_length": config.hidden_size,
        f"{llama_cpp}.feed_forward_length": config.intermediate_size,
        f"{llama_cpp}.attention.head_count": config.num_attention_heads,
        f"{llama_cpp}.attention.head_count_kv": config.num_key_value_heads,
        f"{llama_cpp}.attention.key_length": config.head_size,
        f"{llama_cpp}.attention.layer_norm_rms_epsilon": config.norm_epsilon,
        f"{llama_cpp}.rope.dimension_count": config.head_size,
        f"{llama_cpp}.rope.freq_base": config.rotary_base,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3, 3, 3, 4, *[1] * (len(TOKENS) - 4)],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages }}",
    }
    for key, value in (metadata | {key.replace("__", "."): value for key, value in changes.items()}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
    for name, tensor in tensors.items():
        plain = np.ascontiguousarray(tensor, np.float32)
        kind = GGMLQuantizationType.Q8_0 if name in q8_0 else GGMLQuantizationType.F32
        writer.add_tensor(name, quants.quantize(plain, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensors(config: CheckpointConfig, tensors: dict[str, Array]) -> dict[str, Array]:
    """A Llama checkpoint's tensors by GGUF's names."""
    renamed = {
        "token_embd.weight": tensors["transformer.vocab_embedding.weight"],
        "output_norm.weight": tensors["transformer.ln_f.weight"],
    }
    if not config.tie_word_embeddings:
        renamed["output.weight"] = tensors["lm_head.weight"]
    for layer in range(config.num_hidden_layers):
        of, to = f"transformer.layers.{layer}", f"blk.{layer}"
        qkv = tensors[f"{of}.attention.qkv.weight"]
        query, key, value = np.split(qkv, [config.q_rows, config.q_rows + config.kv_rows])
        renamed |= {
            f"{to}.attn_q.weight": permute(query, config.num_attention_heads),
            f"{to}.attn_k.weight": permute(key, config.num_key_value_heads),
            f"{to}.attn_v.weight": value,
            f"{to}.attn_output.weight": tensors[f"{of}.attention.dense.weight"],
            f"{to}.attn_norm.weight": tensors[f"{of}.input_layernorm.weight"],
            f"{to}.ffn_norm.weight": tensors[f"{of}.post_layernorm.weight"],
            f"{to}.ffn_gate.weight": tensors[f"{of}.mlp.fc.weight"],
            f"{to}.ffn_up.weight": tensors[f"{of}.mlp.gate.weight"],
            f"{to}.ffn_down.weight": tensors[f"{of}.mlp.proj.weight"],
        }
    return renamed


def from_hugging_face(config: CheckpointConfig, state: Mapping[str, Array]) -> dict[str, Array]:
    """What convert_hf_to_gguf.py makes of a model of any architecture."""
    return {_gguf_name(name): _converted(config, name, tensor) for name, tensor in state.items()}


def _gguf_name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = re.sub(theirs, ours, name)
    return name


def _converted(config: CheckpointConfig, name: str, tensor: Array) -> Array:
    if config.architecture == "LlamaForCausalLM" and "q_proj" in name:
        return permute(tensor, config.num_attention_heads)
    if config.architecture == "LlamaForCausalLM" and "k_proj" in name:
        return permute(tensor, config.num_key_value_heads)
    if config.architecture == "GemmaForCausalLM" and "norm" in name:
        return tensor.astype(np.float32) + 1
    return tensor
