"""A sequence of a request of the front door that is answered in rounds; its text is made here."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from python_backend.engine.sampling import TokenDetails
from python_backend.errors import Cancelled
from python_backend.scheduling.deadline import timeout_error
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.speculative.rounds import Piece, Rounds
from python_backend.triton.answer import Answer, Pending
from python_backend.triton.front_reply import FrontReply
from python_backend.triton.interruption import Interrupted, Interruption
from python_backend.triton.tensors import check_shared_memory

#: Outputs of an engine that performance metrics are taken from.
SCHEDULED, REUSED_BLOCKS, NEW_BLOCKS = (
    "first_scheduled_time_ns", "kv_cache_reused_blocks", "kv_cache_alloc_new_blocks",
)  # fmt: skip


@dataclass(eq=False, slots=True, kw_only=True)
class RoundAnswer:
    """Runs the rounds of one sequence and writes what they bring."""

    rounds: Rounds
    answer: Answer
    interruption: Interruption
    accumulates: bool
    """Each response repeats the text before it (NVIDIA: accumulate_tokens)."""
    count_drafts: Callable[[Sequence], None]
    """Called when it has ended, however."""
    _first_token_s: float | None = None
    _cum_log_prob: float = 0.0
    _text: bytes = field(default=b"")

    def run(self, reply: FrontReply) -> None:
        """Answer. Raises ModelError when an engine refuses, Cancelled and Overloaded when it is not to go on."""
        try:
            with closing(self.rounds.pieces()) as pieces:
                for piece in pieces:
                    self.answer.add(self._pending(piece))
                    if self.answer.is_due:
                        self._send(reply)
                    if self.answer.finish is not None:
                        return
        except Interrupted:
            self._interrupted(reply)
        finally:
            self.count_drafts(self.rounds.sequence)

    def _interrupted(self, reply: FrontReply) -> None:
        reason = self.interruption.reason
        if reason is FinishReason.CANCELLED:
            raise Cancelled("the request was cancelled") from None
        if not self.rounds.sequence.output:
            raise timeout_error(self.rounds.sequence) from None
        self.answer.add(Pending([], [], reason, self._first_token_s, time.monotonic()))
        self._send(reply)

    def _pending(self, piece: Piece) -> Pending:
        now_s = time.monotonic()
        if self._first_token_s is None:
            self._first_token_s = now_s
        self._note_metrics(piece)
        details = self._details(piece)
        return Pending(piece.tokens, [details] if details else [], piece.finish, self._first_token_s, now_s)

    def _note_metrics(self, piece: Piece) -> None:
        """Each call tells its own, with its last response: the first one says when, and what was reused."""
        sequence, tensors = self.rounds.sequence, piece.tensors
        if SCHEDULED not in tensors:
            return
        if sequence.first_scheduled_s is None:
            sequence.first_scheduled_s = tensors[SCHEDULED].item() / 1e9
            sequence.reused_blocks = tensors[REUSED_BLOCKS].item()
        sequence.allocated_blocks += tensors[NEW_BLOCKS].item()

    def _details(self, piece: Piece) -> TokenDetails | None:
        log_probs = piece.tensors.get("output_log_probs")
        logits, context = piece.tensors.get("generation_logits"), piece.tensors.get("context_logits")
        if not piece.tokens or (log_probs is None and logits is None and context is None):
            return None
        count = len(piece.tokens)
        if log_probs is not None:
            log_probs = log_probs.reshape(-1)[:count]
            self._cum_log_prob += float(log_probs.sum(dtype=np.float64))
        return TokenDetails(
            log_probs=log_probs,
            cum_log_prob=None if log_probs is None else self._cum_log_prob,
            generation_logits=None if logits is None else logits.reshape(-1, logits.shape[-1])[:count],
            context_logits=None if context is None else context.reshape(-1, context.shape[-1]),
        )

    def _send(self, reply: FrontReply) -> None:
        arrays = self.answer.arrays()
        if self.accumulates and "text_output" in arrays:
            self._text += arrays["text_output"].item()
            arrays["text_output"] = np.array([[self._text]], np.object_)
        check_shared_memory(arrays)
        tensors: list[Any] = [pb_utils.Tensor(name, array) for name, array in arrays.items()]
        reply.send(pb_utils.InferenceResponse(tensors), ends=self.answer.finish is not None)
