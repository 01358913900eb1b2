"""The decoder family in float32: one forward for the whole model and for each rank of a parallel one.

What ranks exchange, and where, is what TensorRT-LLM does: a sum after ``attention.dense`` and after ``mlp.proj``, a sum
of the embedding when the vocabulary is split, and the lm_head's logits side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.tensor_table import EMBEDDING, FINAL_NORM, LM_HEAD, layer_tensor
from build_engines.quantization.linear import read_linear
from build_engines.verification.rotary_embedding import rotate
from build_engines.verification.runtime_quantization import Rounding, activation_rounding, kv_cache_rounding


class TensorParallelGroup(Protocol):
    """The tensor-parallel ranks of one pipeline stage, seen from one of them."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' parts, on each."""

    def concatenate(self, part: torch.Tensor) -> torch.Tensor:
        """All ranks' parts side by side along the last dimension, on each."""


@dataclass(frozen=True, slots=True)
class Alone:
    """A group of one, which has the whole tensors."""

    rank: int = 0
    size: int = 1

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        return part

    def concatenate(self, part: torch.Tensor) -> torch.Tensor:
        return part


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model whose weights are read when they are needed.

    ``tensor`` gives what this rank holds, by the whole model's names. With ``simulate``, inputs of linear layers and
    the KV cache are rounded as ``config.quantization`` says an engine does; otherwise only weights are.
    """

    config: CheckpointConfig
    tensor: Callable[[str], Array]
    group: TensorParallelGroup = field(default_factory=Alone)
    simulate: bool = False

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Logits [..., tokens, vocabulary] of ``token_ids`` [..., tokens], each sequence from position 0 on."""
        hidden = self.embed(token_ids)
        for layer in range(self.config.num_hidden_layers):
            hidden = self.layer(layer)(hidden)
        return self.head()(hidden)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., tokens, hidden_size] before the first layer."""
        rows, config = self.tensor(EMBEDDING), self.config
        local = token_ids.numpy() - (self.group.rank * len(rows) if config.use_parallel_embedding else 0)
        here = (local >= 0) & (local < len(rows))
        hidden = _floats(rows[np.where(here, local, 0)] * here[..., None])
        if config.use_parallel_embedding:
            hidden = self.group.sum(hidden)
        return hidden * config.hidden_size**0.5 if config.architecture == "GemmaForCausalLM" else hidden

    def layer(self, index: int) -> DecoderLayer:
        """Read a layer's weights."""
        return DecoderLayer(self, index)

    def head(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Read the last norm and the lm_head: from hidden states to logits [..., tokens, vocabulary]."""
        norm, lm_head = _floats(self.tensor(FINAL_NORM)), _floats(self.tensor(LM_HEAD))

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            part = functional.linear(_rms_norm(hidden, norm, self.config), lm_head)
            return self.group.concatenate(part)[..., : self.config.vocab_size]

        return logits


class DecoderLayer:
    """One layer's weights: from hidden states [..., tokens, hidden_size] to the same."""

    def __init__(self, decoder: Decoder, index: int) -> None:
        self._config, self._group = decoder.config, decoder.group
        self._input_norm = _floats(decoder.tensor(layer_tensor(index, "input_layernorm.weight")))
        self._attention = _Attention(decoder, index)
        self._post_norm = _floats(decoder.tensor(layer_tensor(index, "post_layernorm.weight")))
        self._fc, self._gate, self._proj = (_Linear(decoder, index, f"mlp.{name}") for name in ("fc", "gate", "proj"))

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        attended = self._attention(_rms_norm(hidden, self._input_norm, self._config))
        hidden = hidden + self._group.sum(attended)
        return hidden + self._group.sum(self._mlp(_rms_norm(hidden, self._post_norm, self._config)))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        inner = self._fc(x)
        gelu = self._config.hidden_act == "gelu"
        active = functional.gelu(inner, approximate="tanh") if gelu else functional.silu(inner)
        return self._proj(active * self._gate(x))


class _Attention:
    def __init__(self, decoder: Decoder, index: int) -> None:
        config, tensor = decoder.config, decoder.tensor
        self._config = config
        self._heads = config.num_attention_heads // decoder.group.size
        self._kv_heads = max(1, config.num_key_value_heads // decoder.group.size)
        self._qkv = _Linear(decoder, index, "attention.qkv", bias=config.attn_bias)
        self._dense = _Linear(decoder, index, "attention.dense")
        self._norms: list[torch.Tensor] = []
        if config.qk_layernorm:
            names = [layer_tensor(index, f"attention.{x}_layernorm.weight") for x in "qk"]
            self._norms = [_floats(tensor(name)) for name in names]
        self._store: Rounding = lambda x: x
        algo = config.quantization.kv_cache_quant_algo
        if decoder.simulate and algo:
            scale = float(tensor(layer_tensor(index, "attention.kv_cache_scaling_factor"))[0])
            self._store = kv_cache_rounding(algo, scale)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        config = self._config
        heads = self._qkv(x).reshape(*x.shape[:-1], -1, config.head_size).transpose(-3, -2)
        query, key, value = heads.tensor_split([self._heads, self._heads + self._kv_heads], dim=-3)
        if self._norms:
            query, key = (_rms_norm(x, norm, config) for x, norm in zip((query, key), self._norms, strict=True))
        query, key, value = rotate(query, config), self._store(rotate(key, config)), self._store(value)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self._dense(attended.transpose(-3, -2).flatten(-2))


class _Linear:
    def __init__(self, decoder: Decoder, layer: int, name: str, *, bias: bool = False) -> None:
        quantization = decoder.config.quantization
        linear = read_linear(decoder.tensor, quantization, layer_tensor(layer, name), bias=bias)
        self._weight = torch.from_numpy(linear.weight.dequantize())
        self._scale = None if linear.prequant_scale is None else torch.from_numpy(linear.prequant_scale)
        self._bias = None if linear.bias is None else torch.from_numpy(linear.bias)
        self._round = activation_rounding(quantization.quant_algo, linear) if decoder.simulate else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._scale is not None:
            x = x * self._scale
        if self._round:
            x = self._round(x)
        return functional.linear(x, self._weight, self._bias)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, config: CheckpointConfig) -> torch.Tensor:
    return functional.rms_norm(x, weight.shape, weight, config.norm_epsilon)


def _floats(values: Array) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
