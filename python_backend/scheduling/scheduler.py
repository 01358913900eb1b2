"""Who computes which tokens in the next step: in-flight batching over a paged KV cache.

The caller's loop is

    ended = scheduler.expire(now_s)   # those whose deadline has come
    plan = scheduler.schedule(now_s)  # blocks are assigned, sequences admitted or paused
    batch = StepBatch.of(plan)        # arrays for the executor
    sampled = executor(batch)         # `cancel` and `add` may be called meanwhile
    for progress in scheduler.advance(plan, sampled): ...

There is at most one step between `schedule` and `advance`. Time is passed in; nothing is awaited, logged or
locked: the caller makes all calls from one thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.errors import EngineFault
from python_backend.scheduling.block_manager import BlockManager
from python_backend.scheduling.keyed_heap import KeyedHeap
from python_backend.scheduling.request_limits import check_fits
from python_backend.scheduling.request_queue import RequestQueue
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence, SequenceState
from python_backend.scheduling.step_plan import Progress, SchedulerGauges, StepEntry, StepPlan
from python_backend.scheduling.step_planner import StepPlanner


class Scheduler:
    """Owns the waiting queue and the running sequences; the only one to change blocks and sequences."""

    def __init__(self, config: SchedulerConfig, blocks: BlockManager) -> None:
        self.config = config
        self.blocks = blocks
        self.queue = RequestQueue(config.max_queue_size, config.urgency, config.max_queue_size_per_tenant)
        self.running: list[Sequence] = []  # most urgent first
        self._deadlines: KeyedHeap[Sequence, float] = KeyedHeap()
        self._plan = StepPlan()
        self._in_flight = False

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self.running and not self.queue

    @property
    def gauges(self) -> SchedulerGauges:
        plan = StepPlan() if self.is_idle else self._plan
        active, scheduled = len(self.running) + len(self.queue), len(plan.entries)
        context = [entry for entry in plan.entries if entry.in_context]
        return SchedulerGauges(
            active=active,
            max=self.config.max_batch_size,
            scheduled=scheduled,
            context=len(context),
            waiting=max(active - scheduled, 0),
            paused=self.queue.num_paused,
            total_context_tokens=sum(entry.num_tokens for entry in context),
            generation_requests=scheduled - len(context),
        )

    def add(self, sequence: Sequence, now_s: float) -> None:
        """Queue a request.

        Raises InvalidRequest when it could never be served under the limits of this engine, and Overloaded
        when the queue is full.
        """
        assert sequence.state is SequenceState.WAITING, f"{sequence} was added before"
        check_fits(sequence, self.config, self.blocks)
        sequence.arrival_s = now_s
        self.queue.add(sequence)
        if (deadline_s := sequence.deadline_s) is not None:
            self._deadlines.push(sequence, deadline_s)

    def expire(self, now_s: float) -> list[Progress]:
        """End, with TIMED_OUT, the sequences whose deadline has come, waiting or running. Only between steps."""
        assert not self._in_flight, "the previous step was neither advanced nor failed"
        ended = [self.finish(sequence, FinishReason.TIMED_OUT) for sequence in self._deadlines.pop_until(now_s)]
        return [progress for progress in ended if progress is not None]

    def cancel(self, sequence: Sequence) -> Progress | None:
        """Give the sequence up; None if it had finished already. Allowed any time, also during its step."""
        return self.finish(sequence, FinishReason.CANCELLED)

    def finish(self, sequence: Sequence, reason: FinishReason) -> Progress | None:
        """End the sequence where it stands, for a reason that the caller found (a stop word, say)."""
        if sequence.state is SequenceState.FINISHED:
            return None
        # Its blocks may be written to by the step in flight; nobody gets them before `advance` ends that.
        if sequence.is_running:
            self.running.remove(sequence)
            self.blocks.release(sequence)
            self.queue.retire(sequence)
        else:
            self.queue.discard(sequence)
        self._deadlines.discard(sequence)
        sequence.state, sequence.finish_reason = SequenceState.FINISHED, reason
        return Progress(sequence, [], reason)

    def schedule(self, now_s: float) -> StepPlan | None:
        """Plan the next step; None when there is nothing to do, which is the case only when idle."""
        assert not self._in_flight, "the previous step was neither advanced nor failed"
        self.blocks.advance_time(now_s)
        self._plan = StepPlanner(self.config, self.blocks, self.queue, self.running).plan(now_s)
        self._in_flight = bool(self._plan.entries)
        assert self._in_flight or self.is_idle, f"no progress: {self.running} {list(self.queue)}"
        return self._plan if self._in_flight else None

    def advance(self, plan: StepPlan, sampled: Iterable[int] | npt.NDArray[np.integer[Any]]) -> list[Progress]:
        """Take over the result of a step: `plan.num_rows` sampled tokens in the order of the entries.

        A draft token is accepted when it equals the token sampled in its place; the first sampled token that
        differs is kept, and so is the one after the last draft token. KV of rejected ones is rolled back.
        Only sequences that gained tokens are reported; those cancelled since `schedule` are not.
        """
        tokens = sampled.tolist() if isinstance(sampled, np.ndarray) else list(sampled)
        if len(tokens) != plan.num_rows:
            raise EngineFault(f"the executor returned {len(tokens)} tokens for {plan.num_rows} sampled rows")
        self._land(plan)
        progress = []
        row = 0
        for entry in plan.entries:
            rows = tokens[row : row + entry.rows]
            row += entry.rows
            if entry.sequence.state is SequenceState.FINISHED:
                continue
            if rows:
                progress.append(self._extend(entry, rows))
            else:
                entry.sequence.computed = entry.stop
                self._commit(entry.sequence)
        return progress

    def fail(self, plan: StepPlan) -> list[Progress]:
        """Take over that the step went wrong: its sequences end with ERROR, and nothing of it is reused."""
        self._land(plan)
        ended = [self.finish(entry.sequence, FinishReason.ERROR) for entry in plan.entries]
        return [progress for progress in ended if progress is not None]

    def check_integrity(self) -> None:
        """Recompute all redundant state of scheduler and blocks; raises EngineFault where it differs."""
        self.blocks.check_integrity(self.running)
        self.queue.check_integrity(self.running)
        if set(self._deadlines) != {s for s in (*self.running, *self.queue) if s.deadline_s is not None}:
            raise EngineFault(f"deadlines of {list(self._deadlines)} are kept")
        for sequence in self.running:
            if not sequence.is_running or sequence in self.queue:
                raise EngineFault(f"{sequence} is in the batch")
        for sequence in self.queue:
            if sequence.state not in (SequenceState.WAITING, SequenceState.PAUSED) or sequence.block_table:
                raise EngineFault(f"{sequence} is in the queue")
        if self._in_flight:
            return
        for sequence in self.running:
            if len(sequence.block_table) != self.blocks.blocks_for(sequence.computed):
                raise EngineFault(f"{sequence} holds blocks beyond its computed tokens")
            generation = sequence.state is SequenceState.GENERATION
            if generation and sequence.computed != sequence.num_tokens - 1:
                raise EngineFault(f"{sequence} lacks KV for tokens beside the newest")

    def _land(self, plan: StepPlan) -> None:
        assert self._in_flight, "no step is in flight"
        assert plan is self._plan, "the plan is not that of the step in flight"
        self._in_flight = False

    def _extend(self, entry: StepEntry, rows: list[int]) -> Progress:
        """Verify the draft, append what is accepted, and roll back or finish.

        One that ends after its draft ends here even if budget or blocks left no room to verify all of it.
        """
        sequence, draft = entry.sequence, entry.draft
        accepted = 0
        while accepted < len(draft) and rows[accepted] == draft[accepted]:
            accepted += 1
        new = rows[: accepted + 1]
        ends = sequence.ends_after_draft or len(new) == sequence.remaining_tokens
        reason = FinishReason.LENGTH if ends else None
        if sequence.end_id in new:
            new, reason = new[: new.index(sequence.end_id) + 1], FinishReason.STOP
        sequence.output.extend(new)
        sequence.computed = entry.stop + len(new) - 1
        sequence.state = SequenceState.GENERATION
        if draft:
            sequence.draft_tokens += len(draft)
            sequence.accepted_draft_tokens += min(accepted, len(new))
        sequence.draft = []
        self._commit(sequence)
        if reason is not None:
            self.finish(sequence, reason)
        elif draft:
            self.blocks.trim(sequence)
        return Progress(sequence, new, reason)

    def _commit(self, sequence: Sequence) -> None:
        if self.config.enable_kv_cache_reuse:
            self.blocks.commit(sequence)
