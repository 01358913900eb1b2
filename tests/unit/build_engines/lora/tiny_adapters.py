"""Adapters made and saved by PEFT itself, on tiny random models."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from build_engines.checkpoint.config import Architecture, CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME, Array
from build_engines.quantization.transformers_model import transformers_model
from tests import tiny_llama, tiny_models

ALL_SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_DIFFERENT_RANKS = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"k_proj": 3}}
#: Architectures, and how their adapters are made.
VARIETIES: list[tuple[Architecture, dict[str, Any]]] = [
    *((architecture, {}) for architecture in tiny_models.ARCHITECTURES),
    ("LlamaForCausalLM", {"use_rslora": True} | _DIFFERENT_RANKS),
    ("Qwen2ForCausalLM", _DIFFERENT_RANKS),
    ("Qwen3ForCausalLM", {"target_modules": ["v_proj", "gate_proj"], "layers_to_transform": [1]}),
]
TOKENS = torch.tensor([[5, 300, 17, 44, 291, 8, 8, 120]])


@dataclass
class TinySource:
    """A ``ModelSource`` from memory."""

    config: CheckpointConfig
    notices: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=lambda: {"tokenizer.json": b"{}"})

    def __post_init__(self) -> None:
        self._tensors = tiny_llama.tensors(self.config)

    def tensor(self, name: str) -> Array:
        return self._tensors[name].astype(BY_NAME[self.config.dtype])

    def sha256(self) -> str:
        return "0" * 64


def save_adapter(folder: Path, of: CheckpointConfig, **settings: Any) -> PeftModel:
    """Save a random adapter, whose effect is as strong as the model's own, in ``folder``; and the model with it."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ALL_SEVEN, "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(
        transformers_model(of, TinySource(of).tensor), LoraConfig(init_lora_weights=False, **settings)
    )
    model.save_pretrained(str(folder))
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model(input_ids=TOKENS).logits
    return out


def edit_config(adapter_dir: Path, **changes: Any) -> None:
    path = adapter_dir / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(adapter_dir: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Replace, add or (None) remove tensors by name."""
    path = adapter_dir / "adapter_model.safetensors"
    tensors = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
