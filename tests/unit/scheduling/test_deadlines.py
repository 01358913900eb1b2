from __future__ import annotations

import numpy as np
import pytest

from python_backend.errors import EngineFault, Overloaded
from python_backend.scheduling import FinishReason, Sequence, timeout_error
from tests.unit.scheduling.simulated_engine import PAUSING, config, engine, generate, step_until_paused


def test_a_running_sequence_ends_with_the_step_in_which_its_time_is_up() -> None:
    one = engine(config())
    hurried, patient = one.add([1, 2], 20, timeout_s=3.0), one.add([2, 1], 20)
    for _ in range(3):
        one.step()
    assert hurried in one.live
    one.step()
    assert one.reasons == {hurried: FinishReason.TIMED_OUT}
    assert one.received[hurried] == generate([1, 2], 3)
    assert len(hurried.block_table) == 0
    one.drain()
    assert one.received[patient] == generate([2, 1], 20)


def test_a_waiting_sequence_ends_without_ever_running() -> None:
    one = engine(config(batch=1))
    one.add([1, 2], 20)
    waiting = one.add([2, 1], 20, timeout_s=2.0)
    for _ in range(3):
        one.step()
    assert (one.reasons[waiting], waiting.first_scheduled_s) == (FinishReason.TIMED_OUT, None)
    one.drain()


def test_a_paused_sequence_ends_too() -> None:
    one = engine(config(policy=PAUSING), num_blocks=8)
    one.add([1] * 9, 12)
    hurried = one.add([2] * 9, 12, timeout_s=12.0)
    assert hurried in step_until_paused(one).paused
    one.now_s = 12.0
    one.step()
    assert one.reasons[hurried] is FinishReason.TIMED_OUT
    one.drain()


def test_the_last_one_ends_though_nothing_is_left_to_compute() -> None:
    one = engine(config())
    late = one.add([1, 2], 20, timeout_s=0.0)
    assert one.step() is None
    assert one.reasons == {late: FinishReason.TIMED_OUT}
    assert one.scheduler.is_idle


def test_deadlines_of_those_that_ended_in_time_are_forgotten() -> None:
    one = engine(config())
    for _ in range(50):
        one.add([1, 2], 1, timeout_s=1000.0)
    one.drain()
    one.now_s = 2000.0
    assert one.scheduler.expire(one.now_s) == []
    assert set(one.reasons.values()) == {FinishReason.LENGTH}
    assert not one.scheduler._deadlines._heap


def test_integrity_check_reports_a_lost_deadline() -> None:
    one = engine(config())
    sequence = one.add([1, 2], 20, timeout_s=5.0)
    one.scheduler._deadlines.discard(sequence)
    with pytest.raises(EngineFault, match="deadlines"):
        one.scheduler.check_integrity()


class TestMessage:
    def sequence(self) -> Sequence:
        return Sequence(id="s", prompt=np.zeros(9, dtype=np.int64), max_new_tokens=64, arrival_s=10.0, timeout_s=0.5)

    def test_it_says_how_far_the_request_came(self) -> None:
        sequence = self.sequence()
        assert "timeout 500 ms passed while the request waited to be scheduled." in str(timeout_error(sequence))
        sequence.first_scheduled_s = 10.1
        assert "passed before the first token, while the 9 tokens of the prompt" in str(timeout_error(sequence))
        sequence.output += [1] * 12
        assert "passed after 12 of 64 tokens. Allow more time" in str(timeout_error(sequence))

    def test_trying_again_may_help(self) -> None:
        assert isinstance(timeout_error(self.sequence()), Overloaded)
