"""Fills one step: who gets tokens and blocks, who is admitted, and who is paused when blocks run out."""

from __future__ import annotations

from bisect import insort

from python_backend.scheduling.block_manager import BlockManager, Match
from python_backend.scheduling.request_queue import RequestQueue
from python_backend.scheduling.scheduler_config import CapacityPolicy, SchedulerConfig
from python_backend.scheduling.sequence import Sequence, SequenceState
from python_backend.scheduling.step_plan import StepEntry, StepPlan


class StepPlanner:
    """Plans one step and is thrown away. Moves sequences between `queue` and `running`, most urgent first."""

    def __init__(
        self, config: SchedulerConfig, blocks: BlockManager, queue: RequestQueue, running: list[Sequence]
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._queue = queue
        self._running = running
        self._plan = StepPlan()
        self._placed: list[Sequence] = []  # in generation phase, with their block: not paused any more
        self._budget = config.max_num_tokens

    def plan(self, now_s: float) -> StepPlan:
        """Generation phase first, then running contexts, then new ones."""
        self._plan_generation()
        self._plan_context()
        self._admit(now_s)
        return self._plan

    def _plan_generation(self) -> None:
        """One token for each sequence in generation phase, then drafts as far as budget and blocks go."""
        for sequence in [s for s in self._running if s.state is SequenceState.GENERATION]:
            if sequence.state is SequenceState.PAUSED:  # just now, to make room for a more urgent one
                continue
            if self._make_room(sequence, sequence.num_tokens):
                self._blocks.grow(sequence, sequence.num_tokens)
                self._placed.append(sequence)
            else:
                self._pause(sequence)
        self._budget -= len(self._placed)
        for sequence in self._placed:
            draft = self._take_draft(sequence) if sequence.draft else []
            entry = StepEntry(sequence, sequence.computed, sequence.num_tokens, draft, 1 + len(draft), False)
            self._plan.entries.append(entry)

    def _plan_context(self) -> None:
        """The next chunk of each running context. Where no block is left for the least urgent, it waits."""
        for sequence in [s for s in self._running if s.state is SequenceState.CONTEXT]:
            if self._budget == 0:
                return
            if sequence.state is SequenceState.PAUSED:
                continue
            if self._make_room(sequence, sequence.computed + 1):
                stop = sequence.computed + self._budget
                self._enter(sequence, min(sequence.num_tokens, stop, self._capacity(sequence)))

    def _admit(self, now_s: float) -> None:
        """Admit in the order of the queue while the next one fits; nobody overtakes one that does not.

        What was paused for this step does not come back in it: its horizon is more than the room it left.
        """
        if not self._queue:
            return
        promised = sum(self._promised(sequence) for sequence in self._running)
        while self._budget and len(self._running) < self._config.max_batch_size:
            sequence = self._queue.peek()
            if sequence is None:
                return
            reuse = self._config.enable_kv_cache_reuse and sequence.reads_cache
            match = self._blocks.match(sequence) if reuse else Match([], 0, 0)
            missing = sequence.num_tokens - match.tokens
            if missing > self._budget and not self._config.enable_chunked_context:
                return
            if promised + self._horizon(sequence) - match.referenced > self._blocks.available:
                return
            self._start(sequence, match, now_s)
            self._enter(sequence, min(sequence.num_tokens, sequence.computed + self._budget))
            promised += self._promised(sequence)

    def _start(self, sequence: Sequence, match: Match, now_s: float) -> None:
        self._queue.admit(sequence)
        self._blocks.attach(sequence, match)
        sequence.state = SequenceState.CONTEXT
        if sequence.first_scheduled_s is None:
            sequence.first_scheduled_s = now_s
        insort(self._running, sequence, key=lambda s: -self._config.urgency.rank(s))

    def _enter(self, sequence: Sequence, stop: int) -> None:
        """Put context up to `stop` into the step and, when that is all of it, draft tokens behind it."""
        start, rows = sequence.computed, 0
        draft: list[int] = []
        self._blocks.grow(sequence, stop)
        self._budget -= stop - start
        if stop == sequence.num_tokens:
            draft = self._take_draft(sequence)
            rows = 1 + len(draft)
        self._plan.entries.append(StepEntry(sequence, start, stop, draft, rows, True))

    def _take_draft(self, sequence: Sequence) -> list[int]:
        """The draft tokens of a sequence for which there are budget and blocks, with those blocks."""
        room = self._capacity(sequence) - sequence.num_tokens
        draft = sequence.draft[: min(self._budget, sequence.remaining_tokens - 1, room)]
        self._budget -= len(draft)
        self._blocks.grow(sequence, sequence.num_tokens + len(draft))
        return draft

    def _horizon(self, sequence: Sequence) -> int:
        """How many blocks a sequence must be sure of when another one is admitted.

        Under MAX_UTILIZATION those of its context and one to generate into, lest it is paused at once.
        """
        most = self._blocks.blocks_for(sequence.max_kv_tokens)
        if self._config.capacity_policy is CapacityPolicy.GUARANTEED_NO_EVICT:
            return most
        return min(most, self._blocks.blocks_for(sequence.num_tokens) + 1)

    def _promised(self, sequence: Sequence) -> int:
        """How many blocks it is still to get up to its horizon."""
        return max(self._horizon(sequence) - len(sequence.block_table), 0)

    def _capacity(self, sequence: Sequence) -> int:
        """How many tokens its block table could hold if it got all available blocks."""
        return (len(sequence.block_table) + self._blocks.available) * self._blocks.tokens_per_block

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Pause less urgent sequences, unless they are placed, until `sequence` can hold `tokens`.

        False when none is left to pause. The most urgent sequence of all is never paused, and is only refused
        room by a step that has others in it: so every step makes progress.
        """
        while self._capacity(sequence) < tokens:
            assert self._config.capacity_policy is CapacityPolicy.MAX_UTILIZATION, "a promised block is missing"
            victim = next(s for s in reversed(self._running) if s not in self._placed)
            if victim is sequence:
                return False
            self._pause(victim)
        return True

    def _pause(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._blocks.release(sequence)
        sequence.state = SequenceState.PAUSED
        self._queue.put_back(sequence)
        self._plan.paused.append(sequence)
