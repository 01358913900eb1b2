"""A transformers model from a checkpoint's tensors: what ModelOpt calibrates, and what tests compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.tensor_table import EMBEDDING, FINAL_NORM, LM_HEAD, layer_tensor
from build_engines.sources.hugging_face_config import MODEL_TYPES

_LAYER_TENSORS = {
    "input_layernorm.weight": "input_layernorm.weight",
    "attention.dense.weight": "self_attn.o_proj.weight",
    "post_layernorm.weight": "post_attention_layernorm.weight",
    "mlp.fc.weight": "mlp.gate_proj.weight",
    "mlp.gate.weight": "mlp.up_proj.weight",
    "mlp.proj.weight": "mlp.down_proj.weight",
}
_QK_NORMS = {
    "attention.q_layernorm.weight": "self_attn.q_norm.weight",
    "attention.k_layernorm.weight": "self_attn.k_norm.weight",
}


def transformers_model(
    config: CheckpointConfig, tensor: Callable[[str], Array], dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The model in ``dtype``, ready to run. ``tensor`` gives plain weights by their names in ``tensor_table``."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(transformers_config(config))
    state = {name: _torch(value).to(dtype) for name, value in _state(config, tensor)}
    model.load_state_dict(state, assign=True, strict=not config.tie_word_embeddings)
    model.tie_weights()
    # What is computed and not loaded (rotary frequencies) has to be made again outside of "meta".
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    return model.eval()


def transformers_config(config: CheckpointConfig) -> PretrainedConfig:
    """The same model as transformers describes it."""
    extra: dict[str, Any] = {}
    if config.architecture in ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        extra["attention_bias"] = config.attn_bias
    if config.architecture == "MistralForCausalLM":
        extra["sliding_window"] = None
    if config.architecture == "GemmaForCausalLM":
        extra["hidden_activation"] = "gelu_pytorch_tanh"
    made: PretrainedConfig = AutoConfig.for_model(
        MODEL_TYPES[config.architecture],
        architectures=[config.architecture],
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.norm_epsilon,
        rope_theta=config.rotary_base,
        rope_scaling=config.rotary_scaling.model_dump() if config.rotary_scaling else None,
        tie_word_embeddings=config.tie_word_embeddings,
        **extra,
    )
    return made


def _state(config: CheckpointConfig, tensor: Callable[[str], Array]) -> Iterator[tuple[str, Array]]:
    # TensorRT-LLM's norms multiply by the weight, Gemma's in transformers by the weight + 1.
    less = 1 if config.architecture == "GemmaForCausalLM" else 0

    def read(name: str) -> Array:
        value = tensor(name)
        return value.astype(np.float32) - less if (less and "norm" in name) or name == FINAL_NORM else value

    yield "model.embed_tokens.weight", tensor(EMBEDDING)
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        for name, there in _LAYER_TENSORS.items() | (_QK_NORMS.items() if config.qk_layernorm else set()):
            yield f"{at}.{there}", read(layer_tensor(layer, name))
        for kind in ("weight", "bias") if config.attn_bias else ("weight",):
            qkv = tensor(layer_tensor(layer, f"attention.qkv.{kind}"))
            for x, rows in zip("qkv", np.split(qkv, [config.q_rows, config.q_rows + config.kv_rows]), strict=True):
                yield f"{at}.self_attn.{x}_proj.{kind}", rows
    yield "model.norm.weight", read(FINAL_NORM)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", tensor(LM_HEAD)


def _torch(values: Array) -> torch.Tensor:
    """A copy; torch reads no bfloat16 from numpy, so that goes by way of its bits."""
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(values.copy())
