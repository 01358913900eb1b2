"""A tiny random model of every supported architecture, with what is peculiar to each."""

from __future__ import annotations

from build_engines.checkpoint.config import Architecture, CheckpointConfig, Llama3Scaling
from build_engines.checkpoint.dtypes import DtypeName
from tests import tiny_llama

_PECULIAR: dict[Architecture, dict[str, object]] = {
    "LlamaForCausalLM": {
        "rotary_scaling": Llama3Scaling(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256
        ).model_dump(),
    },
    "MistralForCausalLM": {"rotary_base": 1_000_000.0, "tie_word_embeddings": False},
    "Qwen2ForCausalLM": {"attn_bias": True, "qwen_type": "qwen2", "tie_word_embeddings": True},
    "Qwen3ForCausalLM": {"qk_layernorm": True, "qwen_type": "qwen3", "head_size": 16, "tie_word_embeddings": False},
    "GemmaForCausalLM": {"hidden_act": "gelu", "num_key_value_heads": 1},
}
ARCHITECTURES = tuple(_PECULIAR)


def config(architecture: Architecture, *, dtype: DtypeName = "float16", **changes: object) -> CheckpointConfig:
    """Two layers, hidden size 64, four query heads; unquantized. Weights come from ``tiny_llama.tensors``."""
    plain = tiny_llama.config(quant_algo=None).model_dump() | {"architecture": architecture, "dtype": dtype}
    return CheckpointConfig.model_validate(plain | {"intermediate_size": 128} | _PECULIAR[architecture] | changes)
