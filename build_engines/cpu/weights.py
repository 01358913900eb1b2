"""The weights of a checkpoint exactly as the CPU engine uses them: quantized where the engine is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from build_engines.checkpoint.draft_vocabulary import TokenIds
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import EMBEDDING, FINAL_NORM, LM_HEAD, layer_tensor
from build_engines.quantization.linear import Linear, read_linear
from build_engines.quantization.weight_only import quantize_int8
from build_engines.quantization.weights import Floats, PlainWeight, Weight


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer. Rows of ``qkv`` are q, k, v; ``fc`` is Hugging Face's gate_proj, ``gate`` its up_proj."""

    input_layernorm: Floats
    qkv: Linear
    qk_layernorm: tuple[Floats, Floats] | None
    dense: Linear
    post_layernorm: Floats
    fc: Linear
    gate: Linear
    proj: Linear


class DecoderWeights:
    """Reads a checkpoint layer by layer, so that memory never holds a second copy of the model.

    Where the checkpoint is a draft's that may propose some tokens only, ``lm_head`` has the rows of these
    ``draft_vocabulary`` i32 [draft tokens], in this order.
    """

    def __init__(self, checkpoint: Checkpoint, *, quantize_lm_head: bool) -> None:
        """``quantize_lm_head``: INT8 for the lm_head, and for the embedding when both are one table."""
        self._checkpoint = checkpoint
        self.config = checkpoint.config
        tied = self.config.tie_word_embeddings
        self.embedding = self._vocabulary(EMBEDDING, int8=quantize_lm_head and tied)
        self.draft_vocabulary = checkpoint.draft_vocabulary()
        self.lm_head = self._lm_head(int8=quantize_lm_head)
        self.ln_f = self._gain(FINAL_NORM)

    def layers(self) -> Iterator[DecoderLayer]:
        """The decoder layers in order, each read when it is asked for. Raises SetupError when ranks disagree."""
        for index in range(self.config.num_hidden_layers):
            yield DecoderLayer(
                input_layernorm=self._gain(layer_tensor(index, "input_layernorm.weight")),
                qkv=self._linear(index, "attention.qkv", bias=self.config.attn_bias),
                qk_layernorm=self._qk_layernorm(index),
                dense=self._linear(index, "attention.dense"),
                post_layernorm=self._gain(layer_tensor(index, "post_layernorm.weight")),
                fc=self._linear(index, "mlp.fc"),
                gate=self._linear(index, "mlp.gate"),
                proj=self._linear(index, "mlp.proj"),
            )

    def _lm_head(self, *, int8: bool) -> Weight:
        if self.draft_vocabulary is None and self.config.tie_word_embeddings:
            return self.embedding
        return self._vocabulary(LM_HEAD, int8=int8, ids=self.draft_vocabulary)

    def _vocabulary(self, name: str, *, int8: bool, ids: TokenIds | None = None) -> Weight:
        """The rows of ``ids``; all rows without."""
        whole = self._checkpoint.tensor(name)
        plain = whole if ids is None else whole[ids]
        return quantize_int8(plain) if int8 else PlainWeight(plain)

    def _linear(self, layer: int, name: str, *, bias: bool = False) -> Linear:
        return read_linear(self._checkpoint.tensor, self.config.quantization, layer_tensor(layer, name), bias=bias)

    def _qk_layernorm(self, layer: int) -> tuple[Floats, Floats] | None:
        if not self.config.qk_layernorm:
            return None
        query, key = (self._gain(layer_tensor(layer, f"attention.{x}_layernorm.weight")) for x in "qk")
        return query, key

    def _gain(self, name: str) -> Floats:
        return self._checkpoint.tensor(name).astype(np.float32)
