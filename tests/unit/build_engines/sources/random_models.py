"""Random transformers models of every architecture, saved as their authors would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.quantization.transformers_model import transformers_config
from tests import tiny_llama

IDS = torch.tensor([[5, 17, 3, 250, 99, 17, 40, 8, 1, 300, 12, 7]])


def random_model(config: CheckpointConfig) -> PreTrainedModel:
    """A float32 model whose weights ``config.dtype`` holds exactly, biases and norms among them random, too."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(transformers_config(config))
    for name, weight in model.named_parameters():
        # Steps of 1/1024: a norm's weight + 1 is exact in float32, where Gemma's are converted.
        drawn = torch.randn_like(weight).mul(0.2).mul(1024).round().div(1024).to(getattr(torch, config.dtype)).float()
        around_one = "norm" in name and config.architecture != "GemmaForCausalLM"
        weight.data = drawn.abs() + 0.5 if around_one else drawn
        weight.data = weight.data.to(getattr(torch, config.dtype)).float()
    return model.eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    """Of a short text."""
    with torch.no_grad():
        found: torch.Tensor = model(IDS % model.config.vocab_size).logits
    return found


def save(model: PreTrainedModel, config: CheckpointConfig, directory: Path, **options: Any) -> Path:
    """``directory`` with the model as ``config.dtype`` and a tokenizer. ``model`` remains as it is."""
    as_stored: PreTrainedModel = AutoModelForCausalLM.from_config(transformers_config(config))
    as_stored.load_state_dict(model.state_dict())
    as_stored.to(getattr(torch, config.dtype)).save_pretrained(directory, **options)
    for name, content in tiny_llama.tokenizer_files().items():
        (directory / name).write_bytes(content)
    return directory
