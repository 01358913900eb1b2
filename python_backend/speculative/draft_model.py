"""A draft model in the engine's process: it guesses greedily, for all sequences at once, with a KV cache of its own.

Chen et al., "Accelerating Large Language Model Decoding with Speculative Sampling", 2023.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Many
from pathlib import Path

import numpy as np
import numpy.typing as npt

from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.executor import Executor
from python_backend.engine.graph_copies import affordable_copies
from python_backend.engine.manifest import CpuManifest
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.errors import EngineFault
from python_backend.scheduling.sequence import Sequence
from python_backend.scheduling.step_batch import StepBatch
from python_backend.scheduling.step_plan import StepEntry, StepPlan
from python_backend.speculative.draft_cache import DraftCache
from python_backend.speculative.draft_vocabulary import check_vocabulary
from python_backend.speculative.step_cost import StepCost

log = logging.getLogger(__name__)


class DraftModelProposer:
    """A ``Proposer`` over a second executor, whose KV cache it has to itself.

    A call computes at most ``max_num_tokens`` tokens that the target knows already, and then one token a sequence and
    guess. A sequence whose known tokens need more than that gets no guess until later calls have caught up with it;
    nor does one that finds no room in the KV cache, or is longer than the draft model's ``max_seq_len``.
    """

    def __init__(self, executor: Executor, step_cost: StepCost, *, max_num_tokens: int, max_seq_len: int) -> None:
        self.cache = DraftCache(executor.num_blocks, executor.tokens_per_block)
        self._executor = executor
        self._step_cost = step_cost
        self._max_num_tokens = max_num_tokens
        self._max_seq_len = max_seq_len

    @classmethod
    def load(
        cls,
        draft_engine_dir: Path,
        target_engine_dir: Path,
        *,
        max_kv_cache_tokens: int,
        max_num_tokens: int,
        num_threads: int = 0,
    ) -> DraftModelProposer:
        """The draft engine of a folder, with its costs measured (``StepCost.measured``).

        It runs in fast mode whatever the target does: guesses change no answer. Raises SetupError when it cannot be
        loaded or its vocabulary is not the target's, EngineFault when a step cannot be computed.
        """
        check_vocabulary(draft_engine_dir, target_engine_dir)
        executor = OpenVinoExecutor(
            draft_engine_dir,
            max_kv_cache_tokens=max_kv_cache_tokens,
            mode=ExecutionMode.FAST,
            num_threads=num_threads,
            num_graphs=affordable_copies(draft_engine_dir),
            kv_cache_setting="max_tokens_in_draft_kv_cache",
            with_logits=False,
        )
        max_seq_len = CpuManifest.load(draft_engine_dir).max_seq_len
        step_cost = StepCost.measured(executor, max_num_tokens)
        return cls(executor, step_cost, max_num_tokens=max_num_tokens, max_seq_len=max_seq_len)

    def propose(self, wanted: Many[tuple[Sequence, int]]) -> list[list[int]]:
        """See ``Proposer.propose``. Guesses end with the sequence's ``end_id``."""
        allowed = [(target, min(guesses, self._max_guesses(target))) for target, guesses in wanted]
        self.cache.use([target for target, guesses in allowed if guesses])
        followed = [self.cache.follow(target, guesses) if guesses else None for target, guesses in allowed]
        first_step = self._first_step([sequence for sequence in followed if sequence is not None])
        if first_step:
            self._guess(first_step)
        return [
            [] if sequence is None else sequence.output[len(target.output) :]
            for sequence, (target, _) in zip(followed, allowed, strict=True)
        ]

    def run(self, sequence: Sequence) -> int:
        """See ``Proposer.run``."""
        return 0

    def cost_s(self, sequences: int, tokens: int) -> float:
        """See ``Proposer.cost_s``. As measured before serving, for sequences whose last draft was accepted whole."""
        first = self._seconds(sequences, 2)  # the last guess was not computed, nor what the target chose after it
        return first + (tokens - 1) * self._seconds(sequences, 1)

    def forget(self, sequence: Sequence) -> None:
        """See ``Proposer.forget``."""
        self.cache.forget(sequence)

    def _seconds(self, sequences: int, tokens_each: int) -> float:
        return self._step_cost.seconds(min(sequences * tokens_each, self._max_num_tokens), sequences)

    def _max_guesses(self, target: Sequence) -> int:
        return max(self._max_seq_len - target.num_tokens + 1, 0)  # the last guess is not computed

    def _first_step(self, sequences: list[Sequence]) -> list[StepEntry]:
        """What the target knows and the draft model has not computed; those who lack least go first."""
        entries = []
        budget = self._max_num_tokens
        for sequence in sorted(sequences, key=lambda sequence: sequence.num_tokens - sequence.computed):
            start = sequence.computed
            stop = min(sequence.num_tokens, start + budget)
            if start == stop:
                break
            in_context = start + 1 < sequence.num_tokens or not sequence.output
            entries.append(StepEntry(sequence, start, stop, [], int(stop == sequence.num_tokens), in_context))
            budget -= stop - start
        return entries

    def _guess(self, first_step: list[StepEntry]) -> None:
        """Compute the step, and then steps of one token each, until its sequences have the guesses that they want."""
        try:
            batch = StepBatch.of(StepPlan(first_step))
            tokens = self._executor.execute(batch)
            for entry in first_step:
                entry.sequence.computed = entry.stop
            wanting = _append([entry.sequence for entry in first_step if entry.rows], tokens)
            while wanting:
                batch = _next_batch(batch, wanting, tokens)
                tokens = self._executor.execute(batch)
                for sequence in wanting:
                    sequence.computed += 1
                wanting = _append(wanting, tokens)
        except EngineFault:
            # The target needs no guesses to go on.
            log.exception("draft step failed: sequences=%d", len(first_step))
            for entry in first_step:
                self.cache.drop_blocks(entry.sequence)


def _append(sequences: list[Sequence], tokens: npt.NDArray[np.int32]) -> list[Sequence]:
    """A guess for each; returns those that want another one."""
    for sequence, token in zip(sequences, tokens.tolist(), strict=True):
        sequence.output.append(token)
    return [s for s in sequences if s.remaining_tokens and s.output[-1] != s.end_id]


def _next_batch(batch: StepBatch, sequences: list[Sequence], tokens: npt.NDArray[np.int32]) -> StepBatch:
    """The newest token of each, where ``tokens`` are those that followed ``batch``."""
    if batch.input_ids.size != len(sequences):
        return StepBatch.of(StepPlan([StepEntry(s, s.computed, s.num_tokens, [], 1, False) for s in sequences]))
    # All had one token and go on: this takes 5 µs, the above 18 for one sequence and 99 for 32.
    return StepBatch(
        input_ids=tokens.astype(np.int64),
        position_ids=batch.position_ids + 1,
        past_lens=batch.past_lens + 1,
        subsequence_begins=batch.subsequence_begins,
        block_indices=batch.block_indices,
        block_indices_begins=batch.block_indices_begins,
        max_context_len=batch.max_context_len + 1,
        sample_rows=batch.sample_rows,
    )
