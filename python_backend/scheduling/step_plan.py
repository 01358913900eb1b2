"""What one step computes, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import NamedTuple

from python_backend.scheduling.sequence import FinishReason, Sequence


class StepEntry(NamedTuple):
    """The tokens that one sequence adds to a step: known tokens [start, stop), then draft tokens.

    Positions run on from `start`, which is also how many tokens the sequence has in blocks already. `rows`
    is how many of the entry's last tokens are sampled: 0 for a context chunk with more context to come,
    otherwise 1 + len(draft). Row i proposes the token that follows draft[:i].
    """

    sequence: Sequence
    start: int
    stop: int
    draft: List[int]
    rows: int
    in_context: bool

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start + len(self.draft)


@dataclass(slots=True)
class StepPlan:
    """One step: entries in generation phase, then running contexts, then newly admitted ones."""

    entries: list[StepEntry] = field(default_factory=list)
    paused: list[Sequence] = field(default_factory=list)
    """Sequences that gave up their blocks for this step; they go on later and lose no token."""

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.entries)

    @property
    def num_rows(self) -> int:
        """How many sampled tokens `advance` wants, in the order of the entries."""
        return sum(entry.rows for entry in self.entries)


class Progress(NamedTuple):
    """What a sequence gained: its new output tokens, cut at end_id (which is included) and max_new_tokens."""

    sequence: Sequence
    new_tokens: list[int]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerGauges:
    """Counts for NVIDIA's nv_trt_llm_request_metrics and nv_trt_llm_inflight_batcher_metrics.

    Those of the step are about the latest one planned and 0 when there was nothing to do.
    """

    active: int  #: all that are not finished
    max: int  #: max_batch_size
    scheduled: int  #: in the step
    context: int  #: of those, in context phase
    waiting: int  #: active and not scheduled
    paused: int
    total_context_tokens: int
    generation_requests: int
