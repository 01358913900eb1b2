"""The seam between the engine's loop and whatever computes a step."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from python_backend.scheduling.step_batch import StepBatch


class Executor(Protocol):
    """Computes one step at a time over a paged KV cache that it owns."""

    @property
    def num_blocks(self) -> int:
        """Blocks in the KV cache."""
        ...

    @property
    def tokens_per_block(self) -> int:
        """Tokens in one block."""
        ...

    @property
    def kv_cache_bytes(self) -> int:
        """Memory of the KV cache."""
        ...

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        ...

    @property
    def kept_shapes(self) -> int:
        """How many numbers of tokens it stays prepared for: those of its latest steps that differ in it."""
        ...

    def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        """Compute the tokens of the batch, write their KV into their blocks, and select the next tokens.

        Returns the most likely next token after each of ``batch.sample_rows``, int32[R]. Not thread-safe.
        Raises EngineFault when the step could not be computed; blocks of the batch are then undefined.
        """
        ...

    def logits(self) -> npt.NDArray[np.float32]:
        """What the latest ``execute`` chose from, float32[R, vocab_size]: a view that the next step overwrites."""
        ...
