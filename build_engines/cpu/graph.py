"""The Llama family as an OpenVINO model: from token ids and block tables to sampled tokens and logits."""

from __future__ import annotations

from typing import Protocol

from openvino import Model, Node, Type
from openvino import opset16 as ops

from build_engines.cpu.openvino_ops import (
    RotaryEmbedding,
    Table,
    argmax,
    named,
    parameter,
    rms_norm,
    rows,
    split,
    swiglu,
)
from build_engines.cpu.paged_attention import PagedAttention
from build_engines.cpu.weights import LlamaLayer, LlamaWeights


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


def build_paged_model(weights: LlamaWeights, *, max_seq_len: int) -> Model:
    """The engine's graph. Inputs are those of ``PagedAttention`` and ``sample_rows``.

    For each of the R ``sample_rows`` i64 [R], indices into the step's tokens, ``token_ids`` i32 [R] is the greedy
    choice (the lowest id among equals) and ``logits`` f32 [R, vocabulary] is what it was chosen from. R may be 0.
    """
    attention = PagedAttention(weights.config)
    sample_rows = parameter("sample_rows", [-1], Type.i64)
    logits = llama_logits(weights, attention, max_seq_len=max_seq_len, sample_rows=sample_rows)
    outputs = [named("token_ids", argmax(logits)), named("logits", logits)]
    return Model([ops.result(node) for node in outputs], [*attention.parameters, sample_rows], "llama")


def llama_logits(
    weights: LlamaWeights, attention: Attention, *, max_seq_len: int, sample_rows: Node | None = None
) -> Node:
    """Logits of the tokens at ``sample_rows``, which needs one token a row; of all tokens when there is none.

    Positions must be below ``max_seq_len``.
    """
    config = weights.config
    embedding = Table(weights.embedding)
    lm_head = embedding if weights.lm_head is weights.embedding else Table(weights.lm_head)
    rotate = RotaryEmbedding(
        attention.positions, head_size=config.head_size, base=config.rotary_base, max_positions=max_seq_len
    )
    hidden = embedding.rows(attention.token_ids)
    for index, layer in enumerate(weights.layers()):
        normed = rms_norm(hidden, layer.input_layernorm, config.norm_epsilon)
        query, key, value = split(Table(layer.qkv).linear(normed), config.q_rows, config.kv_rows, config.kv_rows)
        query = rotate(attention.split_heads(query, config.num_attention_heads))
        key = rotate(attention.split_heads(key, config.num_key_value_heads))
        attended = attention.attend(index, query, key, value)
        if sample_rows is not None and index == config.num_hidden_layers - 1:
            # Every token's keys and values are stored by now; the rest matters for the sampled ones only.
            hidden, attended = rows(hidden, sample_rows), rows(attended, sample_rows)
        hidden = ops.add(hidden, Table(layer.dense).linear(attended))
        hidden = ops.add(hidden, _mlp(layer, rms_norm(hidden, layer.post_layernorm, config.norm_epsilon)))
    return lm_head.linear(rms_norm(hidden, weights.ln_f, config.norm_epsilon))


def _mlp(layer: LlamaLayer, x: Node) -> Node:
    return Table(layer.proj).linear(swiglu(Table(layer.fc).linear(x), Table(layer.gate).linear(x)))
