"""One sequence on its way back to the client: tokens that wait to be sent, and the tensors they become."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.contract import TENSORRT_LLM
from python_backend.errors import SlipstreamError
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.text.detokenizer import Detokenizer
from python_backend.triton.generation_request import GenerationRequest

Arrays = dict[str, npt.NDArray[Any]]

_NUMPY = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
_FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class Pending:
    """Tokens not yet sent, and whether more will come."""

    tokens: list[int]
    finish: FinishReason | None


@dataclass(eq=False, slots=True, kw_only=True)
class Stream:
    """State of one sequence's answer; the engine's thread adds tokens, the sender's takes them, under its lock."""

    request: GenerationRequest
    sequence: Sequence
    outputs: Collection[str]  # names of the outputs that the client asked for
    detokenizer: Detokenizer | None  # None when nobody asked for text
    batch_index: int | None  # None when the request has a single row
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    refusal: SlipstreamError | None = None  # why the sequence never ran
    queued: bool = False  # stands in the sender's queue
    first_token_s: float | None = None
    last_token_s: float = 0.0

    def add(self, tokens: list[int], finish: FinishReason | None, at_s: float) -> None:
        """Note what a step brought."""
        if tokens:
            self.tokens += tokens
            self.last_token_s = at_s
            if self.first_token_s is None:
                self.first_token_s = at_s
        self.finish = finish

    @property
    def is_due(self) -> bool:
        """Whether there is something to send."""
        return self.finish is not None or (self.request.streaming and bool(self.tokens))

    def take(self) -> Pending:
        """All that waits; however many steps it came from, it becomes one response."""
        pending = Pending(self.tokens, self.finish)
        self.tokens = []
        return pending

    def arrays(self, pending: Pending) -> Arrays:
        """The outputs of one response, by name, batch dimension included; only those asked for."""
        shown = np.array(pending.tokens, np.int32)
        if not (self.request.streaming or self.request.exclude_input_in_output):
            shown = np.concatenate([self.request.prompt.astype(np.int32), shown])
        arrays: Arrays = {
            "output_ids": shown[None, None, :],
            "sequence_length": np.array([[shown.size]], np.int32),
        }
        if self.detokenizer is not None:
            text = self.detokenizer.push(shown) + (self.detokenizer.finish() if pending.finish else "")
            arrays["text_output"] = _text(text)
        if pending.finish is not None:
            arrays["finish_reason"] = _text(_FINISH_REASONS[pending.finish])
        numbers = self._numbers(pending, shown.size)
        arrays |= {name: _number(name, value) for name, value in numbers.items()}
        return {name: array for name, array in arrays.items() if name in self.outputs}

    def _numbers(self, pending: Pending, output_tokens: int) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if self.batch_index is not None:
            numbers["batch_index"] = self.batch_index
        if self.request.return_num_input_tokens:
            numbers["num_input_tokens"] = self.request.prompt.size
        if self.request.return_num_output_tokens:
            numbers["num_output_tokens"] = output_tokens
        if self.request.return_perf_metrics and pending.finish is not None:
            numbers |= self._performance()
        return numbers

    def _performance(self) -> dict[str, float]:
        sequence = self.sequence
        drafted, accepted = sequence.draft_tokens, sequence.accepted_draft_tokens
        return {
            "kv_cache_alloc_new_blocks": sequence.allocated_blocks,
            "kv_cache_reused_blocks": sequence.reused_blocks,
            "kv_cache_alloc_total_blocks": sequence.allocated_blocks + sequence.reused_blocks,
            "arrival_time_ns": round(sequence.arrival_s * 1e9),
            "first_scheduled_time_ns": round((sequence.first_scheduled_s or 0.0) * 1e9),
            "first_token_time_ns": round((self.first_token_s or 0.0) * 1e9),
            "last_token_time_ns": round(self.last_token_s * 1e9),
            "acceptance_rate": accepted / drafted if drafted else 0.0,
            "total_accepted_draft_tokens": accepted,
            "total_draft_tokens": drafted,
        }


def _text(text: str) -> npt.NDArray[np.object_]:
    # dtype object: numpy's fixed-width bytes would drop trailing NUL characters.
    return np.array([[text.encode()]], dtype=np.object_)


def _number(name: str, value: float) -> npt.NDArray[Any]:
    return np.array([[value]], _NUMPY[TENSORRT_LLM.output(name).dtype.value])
