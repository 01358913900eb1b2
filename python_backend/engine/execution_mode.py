"""How exactly the CPU engine computes."""

from __future__ import annotations

from enum import Enum


class ExecutionMode(Enum):
    """How the numbers are computed."""

    FAST = "fast"
    """The quickest kernels; where two logits are nearly equal, the choice may depend on the batch."""
    EXACT = "exact"
    """32-bit floats throughout, KV cache included: the same tokens in every batch, chunking and reuse."""
