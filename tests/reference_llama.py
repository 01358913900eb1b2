"""The oracle: transformers in float32, on the weights as an engine dequantizes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.cpu.weights import dequantized_state


class ReferenceLlama:
    def __init__(self, checkpoint_dir: Path, *, quantize_lm_head: bool) -> None:
        config = CheckpointConfig.read(checkpoint_dir)
        self._model = LlamaForCausalLM(
            LlamaConfig(
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
                tie_word_embeddings=config.tie_word_embeddings,
            )
        ).eval()
        state = dequantized_state(checkpoint_dir, quantize_lm_head=quantize_lm_head)
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self._model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})

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
