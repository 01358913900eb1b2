"""A model with an adapter merged into its weights: for engines without LoRA, and for adapters that engines cannot load.

Everything after the import (quantization, sharding, verification) then sees a model like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME, Array
from build_engines.lora.peft_adapter import LowRank, PeftAdapter
from build_engines.sources.model_source import ModelSource
from python_backend.errors import SetupError


class MergedSource:
    """A ``ModelSource``: ``base`` with the updates of a PEFT adapter added while tensors are read.

    Sums are computed in float32 and rounded once, to the type that the base model is stored in.
    """

    def __init__(self, base: ModelSource, adapter_dir: Path) -> None:
        """Raises SetupError when the adapter is more than plain LoRA on linear layers, or for another model."""
        self._base = base
        self._adapter = PeftAdapter.open(adapter_dir, base.config)
        self._updates: dict[str, list[LowRank]] = {}
        for update in self._adapter.updates:
            self._updates.setdefault(update.tensor, []).append(update)

    @property
    def config(self) -> CheckpointConfig:
        return self._base.config

    @property
    def files(self) -> Mapping[str, bytes]:
        return self._base.files

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self._base.notices, f"the LoRA adapter {self._adapter.directory.name} is merged into the weights")

    def tensor(self, name: str) -> Array:
        """As the base's, with the adapter. Raises SetupError also when the sum is too large for the type."""
        stored = self._base.tensor(name)
        if name not in self._updates:
            return stored
        merged = stored.astype(np.float32)
        for update in self._updates[name]:
            merged[update.module.rows(self.config)] += update.delta()
        with np.errstate(over="ignore"):
            rounded = merged.astype(BY_NAME[self.config.dtype])
        if not np.isfinite(rounded).all():
            raise SetupError(
                f'with the adapter, tensor "{name}" reaches {np.abs(merged).max():g}, which {self.config.dtype} '
                "cannot hold. Is it an adapter of this model?"
            )
        return rounded

    def sha256(self) -> str:
        """Identifies the base's content and the adapter's."""
        return hashlib.sha256(f"{self._base.sha256()} {self._adapter.sha256()}".encode()).hexdigest()
