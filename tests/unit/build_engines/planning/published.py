"""Public models by their config.json, and what others have measured of them."""

from __future__ import annotations

from pathlib import Path

from build_engines.checkpoint.config import CheckpointConfig, ParallelMapping
from build_engines.planning.formats import FORMATS, KvCache, apply_format
from build_engines.planning.model_file import read_model

MODELS = Path(__file__).parent / "models"
MIB, GIB = 2**20, 2**30


def model(name: str) -> CheckpointConfig:
    """Unquantized, on one rank."""
    return read_model(MODELS / name).config


def spread(
    name: str, form: str = "none", kv_cache: KvCache | None = None, *, tp: int = 1, pp: int = 1
) -> CheckpointConfig:
    return apply_format(model(name), FORMATS[form], kv_cache, ParallelMapping.of(tp, pp))


def parameters(config: CheckpointConfig) -> int:
    """Counted by hand: the sizes of a gated transformer, with both embedding and lm_head."""
    hidden, inter, head = config.hidden_size, config.intermediate_size, config.head_size
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * inter + 2 * hidden
    if config.attn_bias:
        layer += queries + 2 * keys
    if config.qk_layernorm:
        layer += 2 * head
    return config.num_hidden_layers * layer + 2 * config.vocab_size * hidden + hidden
