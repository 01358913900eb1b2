"""One greedy tenant among many, in the whole scheduler."""

from __future__ import annotations

from statistics import median

import pytest

from python_backend.scheduling import CapacityPolicy, Sequence
from tests.unit.scheduling.simulated_engine import FIRST_COME, SimulatedEngine, config, engine


def waits(one: SimulatedEngine, sequences: list[Sequence]) -> list[float]:
    """Steps from arrival to admission."""
    while any(sequence.first_scheduled_s is None for sequence in sequences):
        assert one.step()
    return [s.first_scheduled_s - s.arrival_s for s in sequences if s.first_scheduled_s is not None]


@pytest.mark.parametrize("policy", list(CapacityPolicy))
@pytest.mark.parametrize("batch", [1, 4])
def test_a_thousand_waiting_requests_delay_those_of_others_by_the_length_of_one(
    batch: int, policy: CapacityPolicy
) -> None:
    one = engine(config(batch=batch, urgency=FIRST_COME, policy=policy))
    for _ in range(1000):
        one.add([1] * 4, 8, tenant="greedy")
    for _ in range(20):
        one.step()
    modest = [one.add([2] * 4, 8, tenant=f"modest-{number}") for number in range(3)]
    admitted = len([s for s in one.received if s.first_scheduled_s is not None])
    steps = waits(one, modest)
    overtaking = len([s for s in one.received if s.first_scheduled_s is not None]) - admitted - len(modest)
    assert overtaking <= 1
    # A place becomes free at the latest when the request in it has its 8 tokens; each of the modest needs one.
    assert max(steps) <= (1 + len(modest)) * 8


def test_without_tenants_the_same_requests_wait_for_all_of_them() -> None:
    """The test above can fail: this is what it would see."""
    one = engine(config(urgency=FIRST_COME))
    for _ in range(100):
        one.add([1] * 4, 8)
    assert waits(one, [one.add([2] * 4, 8)])[0] >= 100 / 4 * 8


def test_tenants_share_the_batch_equally_however_long_their_requests_are() -> None:
    one = engine(config(batch=4, urgency=FIRST_COME), num_blocks=64)
    for _ in range(60):
        one.add([1] * 4, 40, tenant="long")
    short = [one.add([2] * 4, 4, tenant="short") for _ in range(60)]
    places = []
    while one.scheduler.queue and any(s in one.live for s in short):
        one.step()
        places.append(sum(s.tenant == "short" for s in one.scheduler.running))
    assert median(places) == 2


def test_a_large_request_of_one_tenant_is_not_passed_by_for_ever() -> None:
    """It needs more blocks than are ever free while others come and go; it waits, and nobody overtakes it then."""
    one = engine(config(batch=4, urgency=FIRST_COME), num_blocks=8)
    for _ in range(100):
        one.add([1] * 4, 4, tenant="small")
    one.step()
    large = one.add([2] * 20, 12, tenant="large")
    assert waits(one, [large])[0] <= 2 * 4
    one.drain()
