"""A tiny random model as an import would give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD
from tests import tiny_llama


@dataclass
class TinySource:
    """A ``ModelSource``. ``changed`` replaces tensors of the random ones."""

    config: CheckpointConfig
    files: Mapping[str, bytes] = field(default_factory=tiny_llama.tokenizer_files)
    notices: tuple[str, ...] = ()
    changed: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tensors = {name: tensor.astype(np.float32) for name, tensor in tiny_llama.tensors(self.config).items()}
        self._tensors |= self.changed

    def tensor(self, name: str) -> Array:
        return self._tensors[EMBEDDING if name == LM_HEAD and self.config.tie_word_embeddings else name]

    def sha256(self) -> str:
        return ""
