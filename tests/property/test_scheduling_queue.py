"""The queue takes requests in the order that the documented formula gives now, and tenants in turns."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import count
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from python_backend.scheduling import RequestQueue, Sequence, Urgency

SECONDS = st.floats(0, 1e6)
ARRIVALS = st.lists(
    st.tuples(st.integers(1, 4096), st.integers(1, 4096), st.floats(0, 1), SECONDS, st.booleans()), max_size=12
)


def sequences(arrivals: list[tuple[int, int, float, float, bool]]) -> list[Sequence]:
    waiting: list[Sequence] = []
    for prompt_tokens, max_new_tokens, priority, arrival_s, _ in arrivals:
        waiting.append(
            Sequence(
                id=f"request-{len(waiting)}",
                prompt=np.zeros(prompt_tokens, dtype=np.int64),
                max_new_tokens=max_new_tokens,
                priority=priority,
                arrival_s=arrival_s,
            )
        )
    return waiting


@given(arrivals=ARRIVALS, priority_s=st.floats(0, 100), length_s=st.floats(0, 10), later_s=SECONDS)
def test_the_most_urgent_by_the_formula_goes_first_and_removed_ones_never(
    arrivals: list[tuple[int, int, float, float, bool]], priority_s: float, length_s: float, later_s: float
) -> None:
    urgency = Urgency(priority_s=priority_s, length_s=length_s)
    queue = RequestQueue(urgency=urgency)
    waiting = sequences(arrivals)
    for sequence in waiting:
        queue.add(sequence)
    for sequence, (*_, removed) in zip(list(waiting), arrivals, strict=True):
        if removed:
            assert queue.discard(sequence)
            assert not queue.discard(sequence)
            waiting.remove(sequence)
    now_s = 1e6 + later_s

    def formula(s: Sequence) -> float:
        length = s.prompt_tokens + s.max_new_tokens
        return priority_s * s.priority - length_s * log2(length) + (now_s - s.arrival_s)

    while waiting:
        assert len(queue) == len(waiting)
        first = queue.peek()
        assert first is not None
        assert formula(first) == pytest.approx(max(map(formula, waiting)), rel=1e-12, abs=1e-6)
        assert urgency.at(first, now_s) == pytest.approx(formula(first), rel=1e-12, abs=1e-6)
        queue.discard(first)
        waiting.remove(first)
    assert queue.peek() is None


@dataclass
class NaiveQueue:
    """Looks through all tenants and all their requests each time."""

    new: list[Sequence] = field(default_factory=list)  # in order of arrival, as the two below
    paused: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)  # tenants, the latest turn last

    def take_turn(self, tenant: str) -> None:
        self.turns = [name for name in self.turns if name != tenant] + [tenant]

    def has(self, tenant: str) -> bool:
        return any(s.tenant == tenant for s in self.new + self.paused + self.running)

    def fairness(self, sequence: Sequence) -> tuple[int, int]:
        admitted = sum(s.tenant == sequence.tenant for s in self.running + self.paused)
        return admitted, self.turns.index(sequence.tenant)

    def peek(self) -> Sequence | None:
        return self.paused[0] if self.paused else min(self.new, key=self.fairness, default=None)


class Tenants(RuleBasedStateMachine):
    """All requests are equally urgent, so only their tenants and the order of arrival count."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RequestQueue(urgency=Urgency(priority_s=0, length_s=0))
        self.naive = NaiveQueue()

    @rule(tenant=st.sampled_from("abc"))
    def add(self, tenant: str) -> None:
        sequence = Sequence(id="r", prompt=np.zeros(1, dtype=np.int64), max_new_tokens=1, tenant=tenant)
        self.queue.add(sequence)
        if not self.naive.has(tenant):
            self.naive.take_turn(tenant)
        self.naive.new.append(sequence)

    @rule()
    def admit(self) -> None:
        sequence = self.naive.peek()
        if sequence is None:
            return
        self.queue.admit(sequence)
        if sequence in self.naive.new:
            self.naive.take_turn(sequence.tenant)
            self.naive.new.remove(sequence)
        else:
            self.naive.paused.remove(sequence)
        self.naive.running.append(sequence)

    @precondition(lambda self: self.naive.running)
    @rule(which=st.integers(0, 9))
    def put_back(self, which: int) -> None:
        sequence = self.naive.running.pop(which % len(self.naive.running))
        self.queue.put_back(sequence)
        self.naive.paused.append(sequence)

    @precondition(lambda self: self.naive.running)
    @rule(which=st.integers(0, 9))
    def retire(self, which: int) -> None:
        sequence = self.naive.running.pop(which % len(self.naive.running))
        self.queue.retire(sequence)
        assert not self.queue.discard(sequence)

    @precondition(lambda self: self.naive.new or self.naive.paused)
    @rule(which=st.integers(0, 9))
    def discard(self, which: int) -> None:
        waiting = self.naive.new + self.naive.paused
        sequence = waiting[which % len(waiting)]
        assert self.queue.discard(sequence)
        self.naive.new = [s for s in self.naive.new if s is not sequence]
        self.naive.paused = [s for s in self.naive.paused if s is not sequence]

    @invariant()
    def agrees(self) -> None:
        assert self.queue.peek() is self.naive.peek()
        assert (self.queue.num_new, self.queue.num_paused) == (len(self.naive.new), len(self.naive.paused))
        assert set(self.queue) == {*self.naive.new, *self.naive.paused}
        self.queue.check_integrity(self.naive.running)


TestTenants = Tenants.TestCase


@given(
    batch=st.integers(1, 4),
    loads=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=60),
)
def test_a_tenant_with_nothing_in_the_batch_waits_for_one_request_of_each_other_at_most(
    batch: int, loads: list[tuple[str, int, int]]
) -> None:
    queue = RequestQueue()
    arrivals: dict[int, list[Sequence]] = defaultdict(list)
    steps: dict[Sequence, int] = {}
    for number, (tenant, arrival, duration) in enumerate(loads):
        sequence = Sequence(
            id=str(number), prompt=np.zeros(1, dtype=np.int64), max_new_tokens=1, tenant=tenant, arrival_s=arrival
        )
        arrivals[arrival].append(sequence)
        steps[sequence] = duration
    running: list[Sequence] = []
    overtaken: dict[str, Counter[str]] = defaultdict(Counter)  # by whom, since it waits with nothing in the batch
    for now in count():
        for sequence in arrivals.pop(now, []):
            queue.add(sequence)
        while len(running) < batch and (head := queue.peek()):
            queue.admit(head)
            running.append(head)
            overtaken.pop(head.tenant, None)
            for name in {s.tenant for s in queue} - {s.tenant for s in running}:
                overtaken[name][head.tenant] += 1
                assert overtaken[name].total() <= 3
                assert max(overtaken[name].values()) == 1
        if not running and not arrivals:
            break
        for sequence in running:
            steps[sequence] -= 1
            if steps[sequence] == 0:
                queue.retire(sequence)
        running = [sequence for sequence in running if steps[sequence]]
        queue.check_integrity(running)
    assert len(queue) == 0
