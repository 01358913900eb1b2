"""An engine whose KV cache holds tokens instead of keys and values, and whose model is a hash of what it reads.

The model sees a sequence only through its block table, so a wrong table, a block that is shared before it is
computed, or KV that was not rolled back gives a wrong token. `generate` is the oracle: the model run alone. Beside each
token the cache holds what it follows, as keys and values do: a block of the right tokens behind others is wrong too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

import numpy as np

from python_backend.scheduling import (
    BlockManager,
    CapacityPolicy,
    FinishReason,
    KvRetention,
    Progress,
    Scheduler,
    SchedulerConfig,
    Sequence,
    StepBatch,
    StepPlan,
    Urgency,
)

VOCABULARY = 5
FIRST_COME = Urgency(priority_s=0, length_s=0)
PAUSING = CapacityPolicy.MAX_UTILIZATION
NOTHING = -1
GARBAGE = -2

Drafter = Callable[[Sequence], list[int]]


def next_token(tokens: Iterable[int]) -> int:
    return blake2b(bytes(tokens), digest_size=1).digest()[0] % VOCABULARY


def generate(prompt: Iterable[int], max_new_tokens: int, end_id: int | None = None) -> list[int]:
    """What the model says to the prompt when nobody else is there."""
    tokens = list(prompt)
    output: list[int] = []
    while len(output) < max_new_tokens:
        output.append(next_token(tokens + output))
        if output[-1] == end_id:
            break
    return output


def histories(salt: bytes, tokens: Iterable[int]) -> list[int]:
    """For each token, a number that stands for it and all before it."""
    history = blake2b(salt, digest_size=7)
    found = []
    for token in tokens:
        history.update(bytes([token]))
        found.append(int.from_bytes(history.digest(), "big"))
    return found


class SimulatedEngine:
    """The engine loop over a scheduler, with every promise checked at every step."""

    def __init__(self, config: SchedulerConfig, num_blocks: int, tokens_per_block: int) -> None:
        self.blocks = BlockManager(num_blocks, tokens_per_block, enable_partial_reuse=config.reuses_partial_blocks)
        self.scheduler = Scheduler(config, self.blocks)
        self.cache = np.full((num_blocks, tokens_per_block), NOTHING)
        self.histories = np.full((num_blocks, tokens_per_block), NOTHING)
        self.drafters: dict[Sequence, Drafter] = {}
        self.received: dict[Sequence, list[int]] = {}
        self.reasons: dict[Sequence, FinishReason] = {}
        self.now_s = 0.0
        self.pinned_slots: dict[tuple[int, int], int] = {}
        self.pauses = 0
        self.steps = 0

    @property
    def live(self) -> list[Sequence]:
        return [sequence for sequence in self.received if sequence not in self.reasons]

    def add(
        self,
        prompt: list[int],
        max_new_tokens: int,
        *,
        end_id: int | None = None,
        priority: float = 0.5,
        salt: bytes = b"",
        drafter: Drafter | None = None,
        retention: KvRetention | None = None,
        tenant: str = "",
        timeout_s: float | None = None,
    ) -> Sequence:
        sequence = Sequence(
            id=f"request-{len(self.received)}",
            prompt=np.array(prompt),
            max_new_tokens=max_new_tokens,
            end_id=end_id,
            priority=priority,
            cache_salt=salt,
            retention=retention,
            tenant=tenant,
            timeout_s=timeout_s,
        )
        self.scheduler.add(sequence, self.now_s)
        self.received[sequence] = []
        if drafter:
            self.drafters[sequence] = drafter
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        progress = self.scheduler.cancel(sequence)
        assert progress is not None
        self._take(progress)

    def pin(self, prompt: list[int]) -> int:
        """Compute the prompt and pin its full blocks, whose content must then last."""
        sequence = self.add(prompt, 1)
        while sequence in self.live:
            self.step()
        count = self.blocks.pin(sequence)
        reader = Sequence(id="reader", prompt=np.array([*prompt, 0]), max_new_tokens=1)
        for block in self.blocks.match(reader).blocks[:count]:
            for slot in [(block, offset) for offset in range(self.blocks.tokens_per_block)]:
                self.pinned_slots[slot] = int(self.cache[slot])
        return count

    def begin_step(self) -> StepPlan | None:
        """End what is overdue, let drafters propose, and plan a step, without executing it."""
        for progress in self.scheduler.expire(self.now_s):
            assert progress.finish_reason is FinishReason.TIMED_OUT
            assert progress.sequence.deadline_s is not None
            assert progress.sequence.deadline_s <= self.now_s
            self._take(progress)
        assert all(s.deadline_s is None or s.deadline_s > self.now_s for s in self.live), "overdue, but alive"
        for sequence in self.live:
            if sequence in self.drafters:
                sequence.draft = self.drafters[sequence](sequence)
        plan = self.scheduler.schedule(self.now_s)
        self.now_s += 1.0
        if plan is None:
            assert not self.live, f"nothing is scheduled, but {self.live} wait"
            return None
        self.steps += 1
        self.pauses += len(plan.paused)
        self.scheduler.check_integrity()
        self._check_limits(plan)
        return plan

    def end_step(self, plan: StepPlan, sampled: list[int]) -> list[Progress]:
        progress = self.scheduler.advance(plan, np.array(sampled, dtype=np.int64))
        for each in progress:
            assert each.new_tokens
            self._take(each)
        self.scheduler.check_integrity()
        return progress

    def fail_step(self, plan: StepPlan, batch: StepBatch) -> None:
        """The executor dies half-way: what it was to write is garbage."""
        for table, positions, _ in self._parts(batch):
            for position in positions:
                self.cache[self._slot(table, position)] = self.histories[self._slot(table, position)] = GARBAGE
        for progress in self.scheduler.fail(plan):
            assert progress.finish_reason is FinishReason.ERROR
            self._take(progress)
        self.scheduler.check_integrity()

    def step(self) -> StepPlan | None:
        plan = self.begin_step()
        if plan is not None:
            self.end_step(plan, self.execute(plan, StepBatch.of(plan)))
        return plan

    def drain(self, max_steps: int = 5000) -> None:
        """Run until idle, and check that everything was given back."""
        for _ in range(max_steps):
            if self.step() is None:
                break
        assert self.scheduler.is_idle, f"still busy after {max_steps} steps: {self.live}"
        assert self.blocks.statistics.used == self.blocks.statistics.pinned
        assert all(self.cache[slot] == token for slot, token in self.pinned_slots.items()), "a pinned block changed"
        self.check_results()

    def check_results(self) -> None:
        for sequence, output in self.received.items():
            expected = generate(sequence.prompt.tolist(), sequence.max_new_tokens, sequence.end_id)
            reason = self.reasons.get(sequence)
            if reason in (FinishReason.STOP, FinishReason.LENGTH):
                assert output == expected
                assert (reason is FinishReason.STOP) == (expected[-1] == sequence.end_id)
            else:
                assert output == expected[: len(output)]
            assert output == sequence.output

    def execute(self, plan: StepPlan, batch: StepBatch) -> list[int]:
        """What an executor does: attend to what is in blocks and to the step's own tokens, then store those.

        It looks at nothing but the batch; the plan is there for the test to know what should have been seen.
        """
        before = self.cache.copy()
        written: set[tuple[int, int]] = set()
        read: set[tuple[int, int]] = set()
        seen: list[list[int]] = []
        for (table, positions, ids), entry in zip(self._parts(batch), plan.entries, strict=True):
            past = [self._slot(table, position) for position in range(positions[0])]
            own = [self._slot(table, position) for position in positions]
            read.update(past)
            assert written.isdisjoint(own), "two sequences write to one slot"
            assert self.pinned_slots.keys().isdisjoint(own), "a pinned slot is written to"
            written.update(own)
            for slot, token in zip(own, ids, strict=True):
                self.cache[slot] = token
            seen.append([int(before[slot]) for slot in past] + ids)
            known = entry.sequence.prompt.tolist() + self.received[entry.sequence]
            assert seen[-1] == known[: entry.stop] + list(entry.draft), f"{entry} read other tokens than its own"
            following = histories(entry.sequence.cache_salt, seen[-1])
            assert [int(self.histories[slot]) for slot in past] == following[: len(past)], f"{entry} reads other KV"
            for slot, history in zip(own, following[len(past) :], strict=True):
                self.histories[slot] = history
        assert written.isdisjoint(read), "a slot is read in the step that writes it"
        assert batch.max_context_len == max(len(tokens) for tokens in seen)
        return [self._sample(batch, seen, row) for row in batch.sample_rows.tolist()]

    def _sample(self, batch: StepBatch, seen: list[list[int]], row: int) -> int:
        owner = int(np.searchsorted(batch.subsequence_begins, row, side="right")) - 1
        offset = row - int(batch.subsequence_begins[owner])
        return next_token(seen[owner][: int(batch.past_lens[owner]) + offset + 1])

    def _parts(self, batch: StepBatch) -> list[tuple[list[int], list[int], list[int]]]:
        """Block table, positions and token ids of each sequence."""
        parts = []
        for s, past in enumerate(batch.past_lens.tolist()):
            rows = slice(batch.subsequence_begins[s], batch.subsequence_begins[s + 1])
            table = batch.block_indices[batch.block_indices_begins[s] : batch.block_indices_begins[s + 1]]
            positions, ids = batch.position_ids[rows].tolist(), batch.input_ids[rows].tolist()
            assert positions == list(range(past, past + len(ids)))
            assert ids
            parts.append((table.tolist(), positions, ids))
        return parts

    def _slot(self, table: list[int], position: int) -> tuple[int, int]:
        size = self.blocks.tokens_per_block
        return table[position // size], position % size

    def _take(self, progress: Progress) -> None:
        assert progress.sequence not in self.reasons, "progress after the end"
        self.received[progress.sequence] += progress.new_tokens
        if progress.finish_reason is not None:
            self.reasons[progress.sequence] = progress.finish_reason

    def _check_limits(self, plan: StepPlan) -> None:
        config, gauges = self.scheduler.config, self.scheduler.gauges
        assert 0 < plan.num_tokens <= config.max_num_tokens
        assert len(plan.entries) <= len(self.scheduler.running) <= config.max_batch_size
        assert len({entry.sequence for entry in plan.entries}) == len(plan.entries)
        phases = [entry.in_context for entry in plan.entries]
        assert phases == sorted(phases), "context before generation"
        if not config.enable_chunked_context:
            assert all(entry.rows for entry in plan.entries)
        assert gauges.active == len(self.live)
        assert gauges.scheduled == len(plan.entries) == gauges.context + gauges.generation_requests
        assert gauges.waiting == gauges.active - gauges.scheduled
        assert gauges.total_context_tokens == sum(e.num_tokens for e in plan.entries if e.in_context)


def config(
    *,
    batch: int = 4,
    tokens: int = 16,
    policy: CapacityPolicy = CapacityPolicy.GUARANTEED_NO_EVICT,
    chunked: bool = True,
    reuse: bool = True,
    partial: bool = True,
    queue: int = 0,
    urgency: Urgency = FIRST_COME,
) -> SchedulerConfig:
    return SchedulerConfig(
        max_batch_size=batch,
        max_num_tokens=tokens,
        max_seq_len=64,
        capacity_policy=policy,
        enable_chunked_context=chunked,
        enable_kv_cache_reuse=reuse,
        enable_partial_reuse=partial,
        max_queue_size=queue,
        urgency=urgency,
    )


def engine(settings: SchedulerConfig, num_blocks: int = 16, tokens_per_block: int = 4) -> SimulatedEngine:
    return SimulatedEngine(settings, num_blocks, tokens_per_block)


def spans(plan: StepPlan | None) -> list[tuple[int, int, int]]:
    assert plan is not None
    return [(entry.start, entry.stop, entry.rows) for entry in plan.entries]


def step_until_paused(one: SimulatedEngine) -> StepPlan:
    while True:
        plan = one.step()
        assert plan is not None, "idle without having paused anybody"
        if plan.paused:
            return plan
