from __future__ import annotations

import numpy as np
import pytest

from python_backend.errors import Overloaded, SetupError
from python_backend.scheduling import RequestQueue, Sequence, Urgency


def request(prompt_tokens: int = 8, *, priority: float = 0.5, arrival_s: float = 0.0) -> Sequence:
    return Sequence(
        id="r", prompt=np.zeros(prompt_tokens, dtype=np.int64), max_new_tokens=8, priority=priority, arrival_s=arrival_s
    )


def test_a_full_queue_refuses_with_its_figures() -> None:
    queue = RequestQueue(max_queue_size=2)
    queue.add(request())
    queue.add(request())
    with pytest.raises(Overloaded, match=r"2 requests are waiting; max_queue_size is 2"):
        queue.add(request())


def test_paused_sequences_take_no_place_of_new_ones() -> None:
    queue = RequestQueue(max_queue_size=1)
    queue.put_back(request())
    queue.add(request())
    assert len(queue) == 2


def test_a_cancelled_request_makes_place_for_another() -> None:
    queue = RequestQueue(max_queue_size=1)
    leaver = request()
    queue.add(leaver)
    queue.discard(leaver)
    queue.add(request())
    assert len(queue) == 1


def test_higher_priority_goes_first_among_equals() -> None:
    queue = RequestQueue()
    low, high = request(priority=0.1), request(priority=0.9)
    queue.add(low)
    queue.add(high)
    assert queue.peek() is high


def test_short_requests_go_first_among_equals() -> None:
    queue = RequestQueue()
    long, short = request(4000), request(10)
    queue.add(long)
    queue.add(short)
    assert queue.peek() is short


def test_waiting_outweighs_any_priority_and_length_in_the_end() -> None:
    urgency = Urgency(priority_s=10, length_s=1)
    old, bound_s = request(4088, priority=0.0), 10 + 1 * 12
    latecomer = request(1, priority=1.0, arrival_s=bound_s)
    assert urgency.rank(latecomer) < urgency.rank(old)


def test_a_paused_sequence_goes_before_every_new_one() -> None:
    queue = RequestQueue()
    paused, urgent = request(4000, priority=0.0, arrival_s=100.0), request(1, priority=1.0)
    queue.add(urgent)
    queue.put_back(paused)
    assert queue.peek() is paused


def test_a_request_that_left_and_came_back_is_found_at_its_new_place() -> None:
    queue = RequestQueue(urgency=Urgency(priority_s=0, length_s=0))
    first, second = request(), request()
    queue.add(first)
    queue.add(second)
    queue.discard(first)
    queue.add(first)
    assert queue.peek() is second


def test_a_storm_of_cancellations_leaves_nothing_behind() -> None:
    queue = RequestQueue()
    stays = request(priority=1.0)
    queue.add(stays)
    for _ in range(1000):
        leaver = request(priority=0.0)
        queue.add(leaver)
        queue.discard(leaver)
    assert len(queue._new._heap) < 10, "cancelled requests pile up"
    assert queue.peek() is stays


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_duration_is_refused(weight: float) -> None:
    with pytest.raises(SetupError, match="priority_s"):
        Urgency(priority_s=weight)
