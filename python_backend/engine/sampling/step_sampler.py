"""The sampler's part of a step: which rows need it, and what is handed over besides tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from python_backend.engine.sampling.sampler import SampledRow, Sampler, sampling_of
from python_backend.engine.sampling.state import GuideFault, SamplingState
from python_backend.scheduling.sequence import Sequence
from python_backend.scheduling.step_batch import StepBatch
from python_backend.scheduling.step_plan import Progress, StepEntry, StepPlan

log = logging.getLogger(__name__)

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDetails:
    """What comes with the new tokens of a sequence that asked for it; None: it did not."""

    log_probs: Float32Array | None  #: [new tokens], see Sampler.select
    cum_log_prob: float | None  #: sum over the whole output so far
    generation_logits: Float32Array | None  #: [new tokens, vocabulary] of the model, before any adjustment
    context_logits: Float32Array | None  #: [prompt tokens, vocabulary]; with the first token, None afterwards


@dataclass(frozen=True, slots=True)
class StepChoice:
    """The tokens for ``Scheduler.advance``, int32[R], and what was computed besides them for some sequences' rows."""

    tokens: Int32Array
    log_probs: dict[Sequence, Float32Array] = field(default_factory=dict)
    logits: dict[Sequence, Float32Array] = field(default_factory=dict)
    failed: dict[Sequence, GuideFault] = field(default_factory=dict)  # their tokens mean nothing

    def details(self, progress: Iterable[Progress]) -> dict[Sequence, TokenDetails]:
        """For the sequences that asked for any and got tokens. To be called once, with what ``advance`` returned."""
        found = {}
        for sequence, new_tokens, _ in progress:
            state = sampling_of(sequence)
            if state is not None and new_tokens and state.parameters.wants_details:
                found[sequence] = self._details(sequence, state, len(new_tokens))
        return found

    def _details(self, sequence: Sequence, state: SamplingState, count: int) -> TokenDetails:
        log_probs = logits = cum_log_prob = None
        if state.parameters.return_log_probs:
            log_probs = self.log_probs[sequence][:count]
            state.cum_log_prob += float(log_probs.sum(dtype=np.float64))
            cum_log_prob = state.cum_log_prob
        if state.parameters.return_generation_logits:
            logits = self.logits[sequence][:count]
        return TokenDetails(
            log_probs=log_probs,
            cum_log_prob=cum_log_prob,
            generation_logits=logits,
            context_logits=state.take_context_logits(),
        )


class StepSampler:
    """Takes the graph's choice for plain greedy sequences, and looks at logits only for the others."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._sampler = Sampler(vocab_size)

    def admit(self, sequence: Sequence) -> None:
        """Prepare a sequence that is new to the engine.

        Raises InvalidRequest when its parameters do not fit the vocabulary.
        """
        state = sampling_of(sequence)
        if state is not None:
            state.parameters.check_vocabulary(self._vocab_size)
            if state.parameters.return_context_logits:
                sequence.reads_cache = False  # Blocks hold no logits.

    def with_context_rows(self, plan: StepPlan, batch: StepBatch) -> StepBatch:
        """The batch with further rows behind the sampled ones: those of prompt tokens whose logits are wanted."""
        rows = [
            np.arange(wanted.start, wanted.stop) - entry.start + begin
            for entry, begin in zip(plan.entries, batch.subsequence_begins.tolist(), strict=False)
            if (wanted := _context_wanted(entry))
        ]
        return replace(batch, sample_rows=np.concatenate((batch.sample_rows, *rows))) if rows else batch

    def choose(self, plan: StepPlan, token_ids: Int32Array, logits: Callable[[], Float32Array]) -> StepChoice:
        """The choice where the graph chose ``token_ids``. ``logits`` is called only when some row needs them.

        Both are of the rows that ``with_context_rows`` made. Raises EngineFault as Sampler.select does.
        """
        choice = StepChoice(token_ids[: plan.num_rows].copy())
        for entry, first in _sampled(plan):
            state = sampling_of(entry.sequence)
            if state is not None and not state.takes_the_graphs_choice:
                rows = slice(first, first + entry.rows)
                try:
                    self._sample(entry, state, rows, logits()[rows], choice)
                except GuideFault as fault:
                    log.warning("guide failed: sequence=%s reason=%s", entry.sequence, fault)
                    choice.failed[entry.sequence] = fault
        _keep_context(plan, logits)
        return choice

    def _sample(
        self, entry: StepEntry, state: SamplingState, rows: slice, logits: Float32Array, choice: StepChoice
    ) -> None:
        log_probs = np.empty(entry.rows, np.float32)
        for i, guess in enumerate([*entry.draft, None]):
            row = SampledRow(entry.sequence, list(entry.draft[:i]), guess)
            (token,), (log_probs[i],) = self._sampler.select(logits[i : i + 1], [row])
            choice.tokens[rows.start + i] = token
            if token != guess:
                break  # Rows behind a rejected draft token count for nothing.
        if state.parameters.return_log_probs:
            choice.log_probs[entry.sequence] = log_probs
        if state.parameters.return_generation_logits:
            choice.logits[entry.sequence] = logits.copy()


def _sampled(plan: StepPlan) -> Iterator[tuple[StepEntry, int]]:
    """Entries that sample, each with its first row."""
    first = 0
    for entry in plan.entries:
        if entry.rows:
            yield entry, first
            first += entry.rows


def _context_wanted(entry: StepEntry) -> range:
    """Prompt tokens in this entry whose logits are wanted and not there yet (a paused sequence comes by twice)."""
    state = sampling_of(entry.sequence) if entry.in_context else None
    if state is None or not state.parameters.return_context_logits:
        return range(0)
    return range(max(entry.start, state.context_rows), min(entry.stop, entry.sequence.prompt_tokens))


def _keep_context(plan: StepPlan, logits: Callable[[], Float32Array]) -> None:
    first = plan.num_rows
    for entry in plan.entries:
        if wanted := _context_wanted(entry):
            state = sampling_of(entry.sequence)
            assert state is not None
            state.keep_context_logits(logits()[first : first + len(wanted)].copy())
            first += len(wanted)
