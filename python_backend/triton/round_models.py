"""Target and draft model of speculative rounds, as calls of other models by NVIDIA's contract."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.scheduling.sequence import Sequence
from python_backend.speculative.proposer import Proposer
from python_backend.speculative.rounds import Draft, Piece
from python_backend.triton.interruption import Interruption
from python_backend.triton.other_model import Call, OtherModel

Arrays = dict[str, npt.NDArray[Any]]

_TOKENS = "output_ids"
_LENGTH = "sequence_length"  # TensorRT-LLM refuses requests that do not want both
#: Of the request as a whole; a call of a round says these itself, or they are found in the text here.
_NOT_PASSED_ON = frozenset({"stop_words_list", "num_return_sequences", "min_length", "random_seed"})
_DRAWS = frozenset({"runtime_top_k", "runtime_top_p", "temperature"})
_CHANGES = frozenset({
    "repetition_penalty", "presence_penalty", "frequency_penalty", "embedding_bias", "bad_words_list",
})  # fmt: skip
_RETURNS = frozenset({"return_log_probs", "return_context_logits", "return_generation_logits", "return_perf_metrics"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCalls:
    """The calls that serve one sequence on one engine. ``inputs``: the engine's, of one row."""

    model: OtherModel
    inputs: Arrays
    outputs: tuple[str, ...]  # wanted besides the tokens
    request_id: str
    seed: int
    draws_by_position: bool
    """The engine's random numbers depend on the seed and on where in the whole text a token stands, as those of the CPU
    engine do: with one seed for all calls they draw what a single call draws."""
    interruption: Interruption
    shows_end_id: bool
    streams: bool  # the engine is decoupled

    def generate(self, sequence: Sequence, count: int) -> Generator[Piece, None, None]:
        """See ``Target``. Raises Interrupted, and ModelError when the engine refuses."""
        streaming = {"streaming": np.array([[self.streams]])}
        with self.interruption.over(partial(self._call, sequence, count, streaming)) as call:
            yield from map(_piece, call.responses())

    def verify(self, sequence: Sequence, draft: Draft) -> Piece:
        """See ``Target``. Raises Interrupted, and ModelError when the engine refuses."""
        drafted: Arrays = {"draft_input_ids": np.array([draft.tokens], np.int32)}
        if draft.logits is not None:
            drafted["draft_logits"] = draft.logits[None]
        return self.ask(sequence, len(draft.tokens) + 1, drafted)

    def ask(self, sequence: Sequence, count: int, more: Arrays) -> Piece:
        """The whole of a call that does not stream."""
        with self.interruption.over(partial(self._call, sequence, count, more)) as call:
            pieces = [*map(_piece, call.responses())]
        return pieces[-1] if pieces else Piece([])

    def _call(self, sequence: Sequence, count: int, more: Arrays) -> Call:
        known = sequence.tokens(0, sequence.num_tokens).astype(np.int32)
        inputs = {name: array for name, array in self.inputs.items() if name not in _NOT_PASSED_ON} | {
            "input_ids": known[None],
            "input_lengths": np.array([[known.size]], np.int32),
            "request_output_len": np.array([[count]], np.int32),
            "exclude_input_in_output": np.array([[True]]),
            "streaming": np.array([[False]]),
            "seed": np.array([[self._seed(sequence)]], np.uint64),
        }
        if (extra := inputs.get("prompt_table_extra_ids")) is not None:
            inputs["prompt_table_extra_ids"] = np.pad(extra, ((0, 0), (0, known.size - extra.size)), mode="edge")
        if (least := self._min_tokens() - len(sequence.output)) > 0:
            inputs["min_tokens"] = np.array([[least]], np.int32)
        else:
            inputs.pop("min_tokens", None)
        return self.model.call(inputs | more, (_TOKENS, _LENGTH, *self.outputs), self.request_id)

    def _seed(self, sequence: Sequence) -> int:
        # The same seed again would draw the same numbers again, for other tokens.
        started = bool(sequence.output) and not self.draws_by_position
        return _derived(self.seed, len(sequence.output)) if started else self.seed

    def _min_tokens(self) -> int:
        return max(int(self.inputs[name].item()) if name in self.inputs else 0 for name in ("min_tokens", "min_length"))


class DraftEngine:
    """Drafts from a second, smaller engine (`tensorrt_llm_draft`) by the same contract."""

    def __init__(self, model: OtherModel, calls: EngineCalls, *, with_logits: bool, is_greedy: bool) -> None:
        """``calls``: the target's."""
        # Without logits a draft token counts when the target draws the same: the likeliest one has the best chance.
        # With logits it has to be drawn from those very logits, which no parameter has changed.
        left_out = _RETURNS | _DRAWS | (_CHANGES if with_logits else frozenset())
        inputs = {name: array for name, array in calls.inputs.items() if name not in left_out}
        if with_logits and not is_greedy:
            inputs["runtime_top_p"] = np.array([[1.0]], np.float32)
        outputs = ("generation_logits",) if with_logits else ()
        # Numbers of its own: whether the target accepts a token must not depend on those that it was drawn with.
        seed = _derived(calls.seed, 0)
        self._calls = replace(calls, model=model, inputs=inputs, outputs=outputs, seed=seed)
        self._more: Arrays = {"return_generation_logits": np.array([[True]])} if with_logits else {}

    def draft(self, sequence: Sequence, count: int) -> Draft | None:
        """See ``RoundDrafter``."""
        piece = self._calls.ask(sequence, count, self._more)
        if not piece.tokens:
            return None
        logits = piece.tensors.get("generation_logits")
        tokens = piece.tokens[:count]
        return Draft(tokens, None if logits is None else logits.reshape(-1, logits.shape[-1])[: len(tokens)])

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept here."""


class Lookup:
    """Drafts from a ``Proposer`` in this process: n-grams."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer

    def draft(self, sequence: Sequence, count: int) -> Draft | None:
        """See ``RoundDrafter``."""
        (tokens,) = self._proposer.propose([(sequence, count)])
        return Draft(tokens) if tokens else None

    def forget(self, sequence: Sequence) -> None:
        """See ``RoundDrafter``."""
        self._proposer.forget(sequence)


def _piece(arrays: Arrays) -> Piece:
    length = arrays.pop(_LENGTH).item()
    return Piece(arrays.pop(_TOKENS).reshape(-1)[:length].tolist(), arrays)


def _derived(seed: int, position: int) -> int:
    digest = blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
