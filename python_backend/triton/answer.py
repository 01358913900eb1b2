"""One sequence's tokens as the tensors that its client sees: text, stop words, log probabilities, logits, figures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from python_backend.contract import TENSORRT_LLM
from python_backend.engine.sampling import TokenDetails
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.stop_criteria import StoppingDetokenizer

Arrays = dict[str, npt.NDArray[Any]]

_NUMPY = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
_FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.TIMED_OUT: "cancelled",  # what there is, as if the client had left then: see deadline.py
}


class Form(Protocol):
    """How an answer is to look; a GenerationRequest is one."""

    @property
    def prompt(self) -> npt.NDArray[np.int64]: ...
    @property
    def streaming(self) -> bool: ...
    @property
    def exclude_input_in_output(self) -> bool: ...
    @property
    def return_num_input_tokens(self) -> bool: ...
    @property
    def return_num_output_tokens(self) -> bool: ...
    @property
    def return_perf_metrics(self) -> bool: ...


@dataclass(slots=True)
class Pending:
    """What steps brought and nobody has been told; when it came, and whether more will."""

    tokens: list[int]
    details: list[TokenDetails]
    finish: FinishReason | None
    first_token_s: float | None
    last_token_s: float


@dataclass(eq=False, slots=True, kw_only=True)
class Answer:
    """Takes what a sequence generates and gives it out response by response; for one thread.

    ``detokenizer`` is None when nobody asked for text and no stop word has to be found.
    """

    request: Form
    sequence: Sequence
    outputs: Collection[str]  # names of the outputs that the client asked for
    detokenizer: Detokenizer | StoppingDetokenizer | None
    batch_index: int | None  # None when the request has a single row
    sequence_index: int | None  # None when it wants a single sequence
    finish: FinishReason | None = None
    stop_word: str | None = None
    _tokens: list[int] = field(default_factory=list)
    _text: str = ""
    _details: list[TokenDetails] = field(default_factory=list)
    _cum_log_prob: float = 0.0
    _first_token_s: float = 0.0
    _last_token_s: float = 0.0

    def __post_init__(self) -> None:
        if self._shows_prompt:
            prompt = self.request.prompt.tolist()
            if isinstance(self.detokenizer, StoppingDetokenizer):
                self._text = self.detokenizer.prompt(prompt)
            elif self.detokenizer is not None:
                self._text = self.detokenizer.push(prompt)

    @property
    def is_due(self) -> bool:
        """Whether there is something to tell."""
        return self.finish is not None or (self.request.streaming and bool(self._tokens))

    def add(self, pending: Pending) -> None:
        """Take more tokens, up to the first stop word; with it the answer is finished, whatever the engine does."""
        self.finish = pending.finish
        if self.finish in (FinishReason.CANCELLED, FinishReason.ERROR):
            return  # nothing more is shown
        self._details += pending.details
        self._first_token_s = pending.first_token_s or 0.0
        self._last_token_s = pending.last_token_s
        tokens = pending.tokens
        if isinstance(self.detokenizer, StoppingDetokenizer):
            tokens = self._until_stop_word(self.detokenizer, tokens)
        elif self.detokenizer is not None:
            self._text += self.detokenizer.push(tokens) + (self.detokenizer.finish() if pending.finish else "")
        self._tokens += tokens

    def _until_stop_word(self, detokenizer: StoppingDetokenizer, tokens: list[int]) -> list[int]:
        passage = detokenizer.push(tokens)
        self._text += passage.text
        self.stop_word = passage.stop_word
        if self.finish is not None and self.stop_word is None:
            rest = detokenizer.finish()
            self._text += rest.text
            self.stop_word = rest.stop_word
        if self.stop_word is not None:
            self.finish = FinishReason.STOP
        return tokens[: passage.tokens]

    def arrays(self) -> Arrays:
        """The outputs of the next response, by name, batch dimension included; only those asked for."""
        shown = np.array(self._tokens, np.int32)
        if self._shows_prompt:
            shown = np.concatenate([self.request.prompt.astype(np.int32), shown])
        arrays: Arrays = {
            "output_ids": shown[None, None, :],
            "sequence_length": np.array([[shown.size]], np.int32),
        }
        if self.detokenizer is not None:
            arrays["text_output"] = _string(self._text)
        if self.finish is not None:
            arrays["finish_reason"] = _string(_FINISH_REASONS[self.finish])
        if self.stop_word is not None:
            arrays["stop_word"] = _string(self.stop_word)
        if self._details:
            arrays |= self._detail_arrays()
        arrays |= {name: _number(name, value) for name, value in self._numbers().items()}
        self._tokens, self._details, self._text = [], [], ""
        return {name: array for name, array in arrays.items() if name in self.outputs}

    @property
    def _shows_prompt(self) -> bool:
        return not (self.request.streaming or self.request.exclude_input_in_output)

    def _detail_arrays(self) -> Arrays:
        """Of the tokens in this response; those behind a stop word are cut off."""
        count = len(self._tokens)
        arrays: Arrays = {}
        log_probs = [each.log_probs for each in self._details if each.log_probs is not None]
        if log_probs:
            shown = np.concatenate(log_probs)[:count]
            self._cum_log_prob += float(shown.sum(dtype=np.float64))
            arrays["output_log_probs"] = shown[None, None, :]
            arrays["cum_log_probs"] = np.array([[self._cum_log_prob]], np.float32)
        logits = [each.generation_logits for each in self._details if each.generation_logits is not None]
        if logits:
            arrays["generation_logits"] = np.concatenate(logits)[None, None, :count]
        context = [each.context_logits for each in self._details if each.context_logits is not None]
        if context:
            arrays["context_logits"] = np.concatenate(context)[None]
        return arrays

    def _numbers(self) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if self.batch_index is not None:
            numbers["batch_index"] = self.batch_index
        if self.sequence_index is not None:
            numbers["sequence_index"] = self.sequence_index
        if self.request.return_num_input_tokens:
            numbers["num_input_tokens"] = self.request.prompt.size
        if self.request.return_num_output_tokens:
            numbers["num_output_tokens"] = len(self._tokens)
        if self.request.return_perf_metrics and self.finish is not None:
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
            "first_token_time_ns": round(self._first_token_s * 1e9),
            "last_token_time_ns": round(self._last_token_s * 1e9),
            "acceptance_rate": accepted / drafted if drafted else 0.0,
            "total_accepted_draft_tokens": accepted,
            "total_draft_tokens": drafted,
        }


def _string(text: str) -> npt.NDArray[np.object_]:
    # dtype object: numpy's fixed-width bytes would drop trailing NUL characters.
    return np.array([[text.encode()]], dtype=np.object_)


def _number(name: str, value: float) -> npt.NDArray[Any]:
    return np.array([[value]], _NUMPY[TENSORRT_LLM.output(name).dtype.value])
