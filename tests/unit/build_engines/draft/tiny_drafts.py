"""A tiny random target, and the settings by which a draft of it is made in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD
from build_engines.draft.settings import DraftSettings
from tests import tiny_llama


@dataclass(frozen=True)
class TinyTarget:
    """A ``ModelSource``."""

    config: CheckpointConfig
    files: Mapping[str, bytes]
    weights: Mapping[str, Array]
    notices: tuple[str, ...] = ()

    def tensor(self, name: str) -> Array:
        tied = name == LM_HEAD and self.config.tie_word_embeddings
        return self.weights[EMBEDDING if tied else name].astype("float32")

    def sha256(self) -> str:
        return "tiny"


def target(config: CheckpointConfig | None = None, *, seed: int = 0) -> TinyTarget:
    config = config or tiny_llama.config(quant_algo=None, dtype="float32", num_hidden_layers=3)
    return TinyTarget(config, tiny_llama.tokenizer_files(), tiny_llama.tensors(config, seed=seed))


def settings(folder: Path, **changes: Any) -> DraftSettings:
    keys: dict[str, Any] = {
        "weights": folder / "weights",
        "layers": [0, 2],
        "vocab_size": 200,
        "text": {
            "tokens": 1500,
            "held_out_tokens": 300,
            "max_tokens": 64,
            "batch_size": 32,
            "temperatures": [0.0, 1.0],
        },
        "training": {"steps": 60, "learning_rate": 3e-3, "warmup_steps": 5},
    }
    return DraftSettings.model_validate(keys | changes)
