"""What an import gives: a model by TensorRT-LLM's names, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array


class ModelSource(Protocol):
    """An unquantized model on one rank, read tensor by tensor."""

    @property
    def config(self) -> CheckpointConfig:
        """Its dimensions; ``dtype`` is the type that it is stored in (float16 for what must be dequantized)."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What travels with the weights, by file name: tokenizer.json, tokenizer_config.json and the like."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of this import: positions beyond a sliding window left out, say."""

    def tensor(self, name: str) -> Array:
        """A whole tensor by its name in ``tensor_table``; lm_head is the embedding where both are tied.

        Raises SetupError when the file does not have it, or in another shape.
        """

    def sha256(self) -> str:
        """Identifies the content: config, weights and tokenizer."""
