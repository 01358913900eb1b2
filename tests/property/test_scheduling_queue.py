"""The heap with its time-invariant key takes requests in the order that the documented formula gives now."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(actions=st.lists(st.tuples(st.sampled_from(["add", "put_back", "discard", "pop"]), st.integers(0, 9))))
def test_equal_urgency_is_first_come_first_served_with_the_paused_ahead(actions: list[tuple[str, int]]) -> None:
    queue = RequestQueue(urgency=Urgency(priority_s=0, length_s=0))
    new: list[Sequence] = []
    paused: list[Sequence] = []
    pool = sequences([(1, 1, 0.5, 0.0, False)] * 10)
    for action, which in actions:
        sequence = pool[which]
        if action == "pop":
            head = queue.peek()
            assert head is (paused[0] if paused else new[0] if new else None)
            if head is not None:
                queue.discard(head)
                (paused if head in paused else new).remove(head)
        elif action == "discard":
            assert queue.discard(sequence) == (sequence in new + paused)
            new = [s for s in new if s is not sequence]
            paused = [s for s in paused if s is not sequence]
        elif sequence not in new + paused:
            if action == "add":
                queue.add(sequence)
                new.append(sequence)
            else:
                queue.put_back(sequence)
                paused.append(sequence)
        assert (queue.num_new, queue.num_paused) == (len(new), len(paused))
        assert set(queue) == {*new, *paused}
