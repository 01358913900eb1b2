from __future__ import annotations

import numpy as np
import pytest

from python_backend.errors import EngineFault, Overloaded, SetupError
from python_backend.scheduling import RequestQueue, Sequence, Urgency


def request(prompt_tokens: int = 8, *, priority: float = 0.5, arrival_s: float = 0.0, tenant: str = "") -> Sequence:
    return Sequence(
        id="r",
        prompt=np.zeros(prompt_tokens, dtype=np.int64),
        max_new_tokens=8,
        priority=priority,
        arrival_s=arrival_s,
        tenant=tenant,
    )


def pause(queue: RequestQueue, sequence: Sequence) -> None:
    queue.add(sequence)
    queue.admit(sequence)
    queue.put_back(sequence)


def test_a_full_queue_refuses_with_its_figures() -> None:
    queue = RequestQueue(max_queue_size=2)
    queue.add(request())
    queue.add(request())
    with pytest.raises(Overloaded, match=r"2 requests are waiting; max_queue_size is 2"):
        queue.add(request())


def test_paused_sequences_take_no_place_of_new_ones() -> None:
    queue = RequestQueue(max_queue_size=1)
    pause(queue, request())
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
    pause(queue, paused)
    queue.add(urgent)
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
    assert len(queue._tenants[""].waiting._heap) < 10, "cancelled requests pile up"
    assert queue.peek() is stays


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_duration_is_refused(weight: float) -> None:
    with pytest.raises(SetupError, match="priority_s"):
        Urgency(priority_s=weight)


def test_one_tenant_cannot_fill_a_queue_that_is_shared_out() -> None:
    queue = RequestQueue(max_queue_size=3, max_queue_size_per_tenant=2)
    queue.add(request(tenant="greedy"))
    queue.add(request(tenant="greedy"))
    with pytest.raises(
        Overloaded, match=r'2 requests of tenant "greedy" are waiting; max_queue_size_per_tenant is 2.*raise'
    ):
        queue.add(request(tenant="greedy"))
    queue.add(request(tenant="modest"))
    with pytest.raises(Overloaded, match=r"3 requests are waiting; max_queue_size is 3"):
        queue.add(request(tenant="late"))


def test_a_tenant_without_anything_in_the_batch_goes_before_urgent_requests_of_one_that_has() -> None:
    queue = RequestQueue()
    first, urgent = request(tenant="greedy"), request(tenant="greedy", priority=1.0)
    queue.add(first)
    queue.admit(first)
    queue.add(urgent)
    modest = request(tenant="modest", priority=0.0, arrival_s=100.0)
    queue.add(modest)
    assert queue.peek() is modest


def test_urgency_decides_between_the_requests_of_one_tenant() -> None:
    queue = RequestQueue()
    later, sooner = request(tenant="a", arrival_s=2.0), request(tenant="a", arrival_s=1.0)
    queue.add(later)
    queue.add(sooner)
    assert queue.peek() is sooner


def test_tenants_that_come_and_go_cannot_keep_another_from_its_turn() -> None:
    """Each comes back, as if new, as soon as it has been served; the one with requests waiting must not starve."""
    queue = RequestQueue()
    patient = request(tenant="patient")
    order = []
    queue.add(request(tenant="a"))
    queue.add(patient)
    for _ in range(3):
        queue.add(request(tenant="b"))
        head = queue.peek()
        assert head is not None
        order.append(head.tenant)
        queue.admit(head)
        queue.retire(head)
        queue.add(request(tenant="a"))
    assert order == ["a", "patient", "b"]


def test_nothing_is_remembered_of_tenants_that_have_left() -> None:
    queue = RequestQueue()
    for number in range(1000):
        visitor = request(tenant=f"tenant-{number}")
        queue.add(visitor)
        queue.admit(visitor)
        if number % 2:
            queue.put_back(visitor)
            queue.discard(visitor)
        else:
            queue.retire(visitor)
    assert not queue._tenants
    assert not queue._order._heap


def test_integrity_check_reports_a_lost_request() -> None:
    queue = RequestQueue()
    running = request(tenant="a")
    queue.add(running)
    queue.admit(running)
    queue.check_integrity([running])
    with pytest.raises(EngineFault, match=r"kept is \{'a': 1\}"):
        queue.check_integrity([])
