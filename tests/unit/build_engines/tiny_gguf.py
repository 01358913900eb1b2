"""Writes a checkpoint's model as llama.cpp would: the inverse of the import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from tests import tiny_llama

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<user>", *"abcdefghij0123456789Ġ", "ab", "Ġab", "ĠĠ"]
MERGES = ["a b", "Ġ ab", "Ġ Ġ"]


def config(*, tied: bool = True) -> CheckpointConfig:
    """The tiny Llama with the vocabulary above."""
    return tiny_llama.config(tied=tied).model_copy(update={"vocab_size": len(TOKENS), "rotary_base": 100_000.0})


def permute(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """As llama.cpp's convert_hf_to_gguf.py orders query and key rows."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, config: CheckpointConfig, tensors: dict[str, Array], **changes: Any) -> Path:
    """``changes`` replace metadata values, given with their dots as ``__``; None leaves one out."""
    writer = GGUFWriter(path, "llama")
    metadata: dict[str, Any] = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_size,
        "llama.attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "llama.rope.dimension_count": config.head_size,
        "llama.rope.freq_base": config.rotary_base,
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
    for name, tensor in gguf_tensors(config, tensors).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensors(config: CheckpointConfig, tensors: dict[str, Array]) -> dict[str, Array]:
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
