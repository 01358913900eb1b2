"""The limits of an engine, under TensorRT-LLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from python_backend.errors import SetupError
from python_backend.scheduling.request_queue import Urgency


class CapacityPolicy(Enum):
    """What happens when KV blocks run short (TensorRT-LLM: batch_scheduler_policy)."""

    GUARANTEED_NO_EVICT = "guaranteed_no_evict"
    """Admit a request only when it and all running ones have the blocks for their last token."""
    MAX_UTILIZATION = "max_utilization"
    """Admit a request when its context fits now; pause the least urgent one when blocks run out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Raises SetupError for limits that no engine could work with."""

    max_batch_size: int
    """Sequences that run at once."""
    max_num_tokens: int
    """Tokens that one step computes, over all sequences."""
    max_seq_len: int
    """Prompt and output tokens of one sequence."""
    capacity_policy: CapacityPolicy = CapacityPolicy.GUARANTEED_NO_EVICT
    enable_chunked_context: bool = True
    """Spread a context over several steps where max_num_tokens asks for it."""
    enable_kv_cache_reuse: bool = True
    """Share the blocks of equal prefixes, also with requests that have finished."""
    enable_partial_reuse: bool = True
    """With enable_kv_cache_reuse: go on in the last block of another request, filled in part, once that is done."""
    max_queue_size: int = 0
    """New requests that may wait; 0 means no limit."""
    max_queue_size_per_tenant: int = 0
    """New requests of one tenant that may wait; 0 means no limit but max_queue_size."""
    urgency: Urgency = field(default_factory=Urgency)

    @property
    def reuses_partial_blocks(self) -> bool:
        """What both switches come to."""
        return self.enable_kv_cache_reuse and self.enable_partial_reuse

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch_size", 1),
            ("max_seq_len", 2),
            ("max_queue_size", 0),
            ("max_queue_size_per_tenant", 0),
        ):
            if getattr(self, name) < least:
                raise SetupError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.max_num_tokens < self.max_batch_size:
            raise SetupError(
                f"max_num_tokens is {self.max_num_tokens}, max_batch_size {self.max_batch_size}: a step could "
                "not give every running sequence its token. "
                f"Raise max_num_tokens to {self.max_batch_size} or more."
            )
