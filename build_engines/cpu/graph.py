"""A decoder-only model as an OpenVINO graph: from token ids and block tables to sampled tokens and logits."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from openvino import Model, Node, Type
from openvino import opset16 as ops

from build_engines.checkpoint.draft_vocabulary import TokenIds
from build_engines.checkpoint.rotary_angles import rotary_angles, rotary_frequencies
from build_engines.cpu.openvino_ops import argmax, integers, named, parameter, rms_norm, rows, split
from build_engines.cpu.paged_attention import PagedAttention
from build_engines.cpu.rotary_embedding import RotaryEmbedding
from build_engines.cpu.weight_constants import Table, linear
from build_engines.cpu.weights import DecoderLayer, DecoderWeights


class Attention(Protocol):
    """How tokens see each other, and what shape a step has: the part of the graph that depends on the KV cache."""

    @property
    def token_ids(self) -> Node:
        """The step's tokens: [...]."""

    @property
    def positions(self) -> Node:
        """Their positions: [batch, length]."""

    def split_heads(self, x: Node, heads: int) -> Node:
        """[..., heads * head_size] to [batch, heads, length, head_size]."""

    def attend(self, layer: int, query: Node, key: Node, value: Node) -> Node:
        """Store the step's rotated keys and its values, attend to all stored ones: [..., heads * head_size]."""


def build_paged_model(weights: DecoderWeights, *, max_seq_len: int) -> Model:
    """The engine's graph. Inputs are those of ``PagedAttention`` and ``sample_rows``.

    For each of the R ``sample_rows`` i64 [R], indices into the step's tokens, ``token_ids`` i32 [R] is the greedy
    choice (the lowest id among equals) and ``logits`` f32 [R, vocabulary] is what it was chosen from. R may be 0.
    Tokens outside a draft vocabulary are never chosen: their logits are -inf.
    """
    attention = PagedAttention(weights.config)
    sample_rows = parameter("sample_rows", [-1], Type.i64)
    logits = decoder_logits(weights, attention, max_seq_len=max_seq_len, sample_rows=sample_rows)
    token_ids = argmax(logits)
    if weights.draft_vocabulary is not None:
        token_ids = rows(ops.constant(weights.draft_vocabulary), token_ids)
        logits = _whole_vocabulary(logits, weights.draft_vocabulary, weights.config.vocab_size)
    outputs = [named("token_ids", token_ids), named("logits", logits)]
    results = [ops.result(node) for node in outputs]
    return _with_stable_names(Model(results, [*attention.parameters, sample_rows], "decoder"))


def decoder_logits(
    weights: DecoderWeights, attention: Attention, *, max_seq_len: int, sample_rows: Node | None = None
) -> Node:
    """Logits of the tokens at ``sample_rows``, which needs one token a row; of all tokens when there is none.

    They have the columns of ``weights.lm_head``. Positions must be below ``max_seq_len``.
    """
    config = weights.config
    embedding = Table(weights.embedding)
    lm_head = embedding if weights.lm_head is weights.embedding else Table(weights.lm_head)
    frequencies = rotary_frequencies(config.head_size, config.rotary_base, config.rotary_scaling)
    rotate = RotaryEmbedding(attention.positions, rotary_angles(frequencies, max_seq_len))
    hidden = embedding.rows(attention.token_ids)
    if config.architecture == "GemmaForCausalLM":
        hidden = ops.multiply(hidden, ops.constant(np.float32(config.hidden_size**0.5)))
    for index, layer in enumerate(weights.layers()):
        normed = rms_norm(hidden, layer.input_layernorm, config.norm_epsilon)
        query, key, value = split(linear(layer.qkv, normed), config.q_rows, config.kv_rows, config.kv_rows)
        query = attention.split_heads(query, config.num_attention_heads)
        key = attention.split_heads(key, config.num_key_value_heads)
        if layer.qk_layernorm is not None:
            query, key = (
                rms_norm(x, g, config.norm_epsilon) for x, g in zip((query, key), layer.qk_layernorm, strict=True)
            )
        attended = attention.attend(index, rotate(query), rotate(key), value)
        if sample_rows is not None and index == config.num_hidden_layers - 1:
            # Every token's keys and values are stored by now; the rest matters for the sampled ones only.
            hidden, attended = rows(hidden, sample_rows), rows(attended, sample_rows)
        hidden = ops.add(hidden, linear(layer.dense, attended))
        normed = rms_norm(hidden, layer.post_layernorm, config.norm_epsilon)
        hidden = ops.add(hidden, _gated_mlp(layer, normed, config.hidden_act))
    return lm_head.linear(rms_norm(hidden, weights.ln_f, config.norm_epsilon))


def _whole_vocabulary(logits: Node, draft_vocabulary: TokenIds, vocab_size: int) -> Node:
    """``logits`` [rows, draft tokens] at their places among -inf: [rows, vocabulary]."""
    count = ops.gather(ops.shape_of(logits), integers(0), ops.constant(np.int64(0)))
    nothing = ops.broadcast(ops.constant(np.float32(-np.inf)), ops.concat([count, integers(vocab_size)], 0))
    return ops.scatter_update(nothing, ops.constant(draft_vocabulary), logits, ops.constant(np.int64(1)))


def _gated_mlp(layer: DecoderLayer, x: Node, hidden_act: Literal["silu", "gelu"]) -> Node:
    """SwiGLU or GeGLU (Shazeer, 2020)."""
    gate = linear(layer.fc, x)
    activated = ops.swish(gate) if hidden_act == "silu" else ops.gelu(gate, "tanh")
    return linear(layer.proj, ops.multiply(activated, linear(layer.gate, x)))


def _with_stable_names(model: Model) -> Model:
    """OpenVINO numbers nodes by what the process has made before: equal models would be saved as different files."""
    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() != "Parameter":
            node.set_friendly_name(f"{node.get_type_name()}_{index}")
    return model
