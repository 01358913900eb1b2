"""The weights of a Llama checkpoint exactly as the CPU engine uses them: quantized where the engine is.

The graph is built from these and ``dequantized_state`` hands the same values to a reference implementation, so
both see one set of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.reader import Checkpoint
from build_engines.quantization.weight_only import quantize_int8
from build_engines.quantization.weights import PlainWeight, Weight

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """One decoder layer. Rows of ``qkv`` are q, k, v; ``fc`` is Hugging Face's gate_proj, ``gate`` its up_proj."""

    input_layernorm: Vector
    qkv: Weight
    dense: Weight
    post_layernorm: Vector
    fc: Weight
    gate: Weight
    proj: Weight


class LlamaWeights:
    """Reads a checkpoint layer by layer, so that memory never holds a second copy of the model."""

    def __init__(self, checkpoint: Checkpoint, *, quantize_lm_head: bool) -> None:
        """``quantize_lm_head``: INT8 for the lm_head, and for the embedding when both are one table."""
        self._checkpoint = checkpoint
        self.config = checkpoint.config
        tied = self.config.tie_word_embeddings
        self.embedding = self._weight("transformer.vocab_embedding", int8=quantize_lm_head and tied)
        self.lm_head = self.embedding if tied else self._weight("lm_head", int8=quantize_lm_head)
        self.ln_f = self._vector("transformer.ln_f")

    def layers(self) -> Iterator[LlamaLayer]:
        """The decoder layers in order, each read when it is asked for."""
        int8 = self.config.quantization.quant_algo == "W8A16"
        for index in range(self.config.num_hidden_layers):
            at = f"transformer.layers.{index}"
            yield LlamaLayer(
                input_layernorm=self._vector(f"{at}.input_layernorm"),
                qkv=self._weight(f"{at}.attention.qkv", int8=int8),
                dense=self._weight(f"{at}.attention.dense", int8=int8),
                post_layernorm=self._vector(f"{at}.post_layernorm"),
                fc=self._weight(f"{at}.mlp.fc", int8=int8),
                gate=self._weight(f"{at}.mlp.gate", int8=int8),
                proj=self._weight(f"{at}.mlp.proj", int8=int8),
            )

    def _weight(self, name: str, *, int8: bool) -> Weight:
        plain = self._checkpoint.tensor(f"{name}.weight")
        return quantize_int8(plain) if int8 else PlainWeight(plain)

    def _vector(self, name: str) -> Vector:
        return self._checkpoint.tensor(f"{name}.weight").astype(np.float32)


def dequantized_state(checkpoint_dir: Path, *, quantize_lm_head: bool) -> dict[str, npt.NDArray[np.float32]]:
    """Hugging Face's names to float32 values, as the engine compiled from ``checkpoint_dir`` computes with them.

    A tied model has no ``lm_head.weight``. Raises SetupError when the checkpoint cannot be read.
    """
    weights = LlamaWeights(Checkpoint.open(checkpoint_dir), quantize_lm_head=quantize_lm_head)
    config = weights.config
    state = {"model.embed_tokens.weight": weights.embedding.dequantize(), "model.norm.weight": weights.ln_f}
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = weights.lm_head.dequantize()
    for index, layer in enumerate(weights.layers()):
        at = f"model.layers.{index}"
        q, k, v = np.split(layer.qkv.dequantize(), [config.q_rows, config.q_rows + config.kv_rows])
        state |= {
            f"{at}.input_layernorm.weight": layer.input_layernorm,
            f"{at}.self_attn.q_proj.weight": q,
            f"{at}.self_attn.k_proj.weight": k,
            f"{at}.self_attn.v_proj.weight": v,
            f"{at}.self_attn.o_proj.weight": layer.dense.dequantize(),
            f"{at}.post_attention_layernorm.weight": layer.post_layernorm,
            f"{at}.mlp.gate_proj.weight": layer.fc.dequantize(),
            f"{at}.mlp.up_proj.weight": layer.gate.dequantize(),
            f"{at}.mlp.down_proj.weight": layer.proj.dequantize(),
        }
    return state
