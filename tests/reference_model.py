"""The oracle: transformers in float32, on the weights as an engine dequantizes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import EMBEDDING, LINEAR_LAYERS, LM_HEAD
from build_engines.quantization.linear import read_linear
from build_engines.quantization.transformers_model import transformers_model
from build_engines.quantization.weight_only import quantize_int8


class ReferenceModel:
    """Of any supported architecture and format; activations are floats."""

    def __init__(self, checkpoint_dir: Path, *, quantize_lm_head: bool) -> None:
        checkpoint = Checkpoint.open(checkpoint_dir)
        config = checkpoint.config
        int8 = ({EMBEDDING, LM_HEAD} if config.tie_word_embeddings else {LM_HEAD}) if quantize_lm_head else set()

        def dequantized(name: str) -> Array:
            layer = name.removesuffix(".weight")
            if layer.endswith(LINEAR_LAYERS):
                return read_linear(checkpoint.tensor, config.quantization, layer).dequantize()
            values = checkpoint.tensor(name)
            return quantize_int8(values).dequantize() if name in int8 else values.astype(np.float32)

        self._model = transformers_model(config, dequantized)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """[tokens, vocabulary]"""
        with torch.no_grad():
            return np.asarray(self._model(torch.tensor([list(tokens)])).logits[0].numpy())

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """Token by token, without a cache."""
        tokens = list(prompt)
        for _ in range(num_tokens):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]
