"""The loop, driven over an executor whose next token is a function of the tokens it finds in its blocks."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
import pytest

from python_backend.engine.drafter import DraftStatistics
from python_backend.engine.engine import Engine, StepReport
from python_backend.errors import EngineFault, InvalidRequest, Overloaded
from python_backend.scheduling.scheduler_config import CapacityPolicy, SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.scheduling.step_batch import StepBatch
from python_backend.scheduling.step_plan import StepPlan
from tests.unit.engine.block_reading_executor import BlockReadingExecutor, next_token


def oracle(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class Listener:
    def __init__(self) -> None:
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        self.finished: dict[str, FinishReason] = {}
        self.changed = threading.Condition()

    def __call__(self, report: StepReport) -> None:
        with self.changed:
            for sequence, tokens, finish in report.progress:
                self.tokens[sequence.id] += tokens
                if finish is not None:
                    self.finished[sequence.id] = finish
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.finished) >= count, timeout=30)


def config(**changes: object) -> SchedulerConfig:
    values: dict[str, object] = {"max_batch_size": 8, "max_num_tokens": 16, "max_seq_len": 64, **changes}
    return SchedulerConfig(**values)  # type: ignore[arg-type]


def sequence(name: str, prompt: list[int], count: int = 6) -> Sequence:
    return Sequence(id=name, prompt=np.array(prompt), max_new_tokens=count)


@pytest.mark.parametrize("policy", list(CapacityPolicy))
def test_requests_from_many_threads_get_their_own_continuation(policy: CapacityPolicy) -> None:
    listener = Listener()
    engine = Engine(BlockReadingExecutor(), config(capacity_policy=policy), listener)
    engine.start()
    prompts = {f"r{i}": [i % 7, 3, i % 5, *range(i % 11)] for i in range(40)}
    threads = [
        threading.Thread(target=lambda name=name, prompt=prompt: engine.submit(sequence(name, prompt)))
        for name, prompt in prompts.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listener.wait_for(40)
    engine.close()
    assert dict(listener.tokens) == {name: oracle(prompt, 6) for name, prompt in prompts.items()}
    assert set(listener.finished.values()) == {FinishReason.LENGTH}
    assert engine.statistics.blocks.used == 0
    engine.check_integrity()


def test_close_finishes_what_was_accepted_and_takes_no_more() -> None:
    listener = Listener()
    engine = Engine(BlockReadingExecutor(), config(), listener)
    for i in range(5):
        engine.submit(sequence(f"r{i}", [i, 1, 2], count=20))
    engine.start()
    engine.close()
    assert set(listener.finished.values()) == {FinishReason.LENGTH}
    assert {name: len(tokens) for name, tokens in listener.tokens.items()} == {f"r{i}": 20 for i in range(5)}
    with pytest.raises(Overloaded, match="shutting down"):
        engine.submit(sequence("late", [1]))


def test_a_failed_step_ends_its_sequences_and_no_others() -> None:
    listener = Listener()
    executor = BlockReadingExecutor()
    engine = Engine(executor, config(), listener)
    engine.submit(sequence("hit", [1, 2, 3]))
    executor.fail_next = True
    assert engine.step()
    engine.submit(sequence("later", [1, 2, 3]))
    while engine.step():
        pass
    assert listener.finished == {"hit": FinishReason.ERROR, "later": FinishReason.LENGTH}
    assert listener.tokens["later"] == oracle([1, 2, 3], 6)
    engine.check_integrity()


def test_a_dead_loop_leaves_nobody_waiting() -> None:
    class Broken(BlockReadingExecutor):
        def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
            raise ZeroDivisionError

    listener = Listener()
    engine = Engine(Broken(), config(), listener)
    engine.submit(sequence("a", [1]))
    engine.submit(sequence("b", [2]))
    engine.start()
    listener.wait_for(2)
    assert listener.finished == {"a": FinishReason.ERROR, "b": FinishReason.ERROR}
    with pytest.raises(EngineFault, match="Restart the server"):
        engine.submit(sequence("c", [1]))


def test_cancelled_sequences_free_their_blocks_and_report_nothing_more() -> None:
    listener = Listener()
    engine = Engine(BlockReadingExecutor(), config(), listener)
    leaving, staying = sequence("leaving", [1, 2, 3, 4, 5], count=30), sequence("staying", [5, 4], count=10)
    engine.submit(leaving)
    engine.submit(staying)
    for _ in range(3):
        engine.step()
    before = len(listener.tokens["leaving"])
    assert engine.cancel(leaving)
    assert not engine.cancel(leaving)
    while engine.step():
        pass
    assert len(listener.tokens["leaving"]) == before
    assert listener.tokens["staying"] == oracle([5, 4], 10)
    assert engine.statistics.blocks.used == 0


def test_a_cancellation_during_the_step_does_not_disturb_it() -> None:
    listener = Listener()

    class Cancelling(BlockReadingExecutor):
        def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
            engine.cancel(leaving)
            return super().execute(batch)

    engine = Engine(Cancelling(), config(), listener)
    leaving, staying = sequence("leaving", [1, 2]), sequence("staying", [3, 4])
    engine.submit(leaving)
    engine.submit(staying)
    while engine.step():
        pass
    assert listener.tokens["leaving"] == []
    assert listener.tokens["staying"] == oracle([3, 4], 6)
    engine.check_integrity()


def test_cancelling_the_only_sequence_just_before_its_step_leaves_the_engine_serving() -> None:
    listener = Listener()
    leaving = sequence("leaving", [1, 2, 3])

    def clock() -> float:
        if threading.current_thread().name == "engine":  # the loop has seen work, and is about to schedule it
            engine.cancel(leaving)
        return 0.0

    engine = Engine(BlockReadingExecutor(), config(), listener, clock)
    engine.start()
    engine.submit(leaving)
    while leaving.finish_reason is None:
        pass
    engine.submit(sequence("staying", [5, 4]))
    listener.wait_for(1)
    engine.close()
    assert listener.finished == {"staying": FinishReason.LENGTH}
    assert listener.tokens["staying"] == oracle([5, 4], 6)


def test_what_can_never_run_is_refused_with_the_figures() -> None:
    engine = Engine(BlockReadingExecutor(), config(max_queue_size=1), Listener())
    with pytest.raises(InvalidRequest, match=r"70.*64"):
        engine.submit(sequence("long", [1] * 64))
    engine.submit(sequence("first", [1]))
    with pytest.raises(Overloaded, match="max_queue_size is 1"):
        engine.submit(sequence("second", [1]))


class WatchingDrafter:
    """Guesses nothing and notes what it is told."""

    def __init__(self) -> None:
        self.statistics = DraftStatistics(draft_length=1.5)
        self.seen: list[tuple[list[str], int]] = []
        self.plans: list[StepPlan] = []
        self.outputs: list[int] = []

    def draft(self, running: Many[Sequence], context_tokens: int) -> None:
        self.seen.append(([each.id for each in running], context_tokens))

    def verified(self, plan: StepPlan) -> None:
        self.plans.append(plan)
        self.outputs.append(sum(len(entry.sequence.output) for entry in plan.entries))


def test_a_drafter_sees_each_step_before_and_after_it() -> None:
    drafter = WatchingDrafter()
    engine = Engine(BlockReadingExecutor(), config(max_batch_size=2), Listener(), drafter=drafter)
    engine.submit(sequence("long", [1] * 20, count=3))
    assert engine.step()
    engine.submit(sequence("short", [2] * 5, count=3))
    engine.submit(sequence("third", [3] * 5, count=3))
    steps = 1
    while engine.step():
        steps += 1
    assert [context_tokens for _, context_tokens in drafter.seen[:4]] == [
        16,  # 20 wait, and 16 tokens fit into a step
        14,  # 4 are left and 10 wait
        0,  # 5 wait, but two run
        0,
    ]
    assert [len(running) for running, _ in drafter.seen[:4]] == [0, 1, 2, 2]
    assert len(drafter.plans) == steps
    assert drafter.outputs[:3] == [0, 2, 4]
    assert engine.statistics.drafts.draft_length == 1.5
    assert Engine(BlockReadingExecutor(), config(), Listener()).statistics.drafts == DraftStatistics()


def test_steps_that_fail_verify_nothing() -> None:
    drafter, executor = WatchingDrafter(), BlockReadingExecutor()
    engine = Engine(executor, config(), Listener(), drafter=drafter)
    engine.submit(sequence("hit", [1, 2, 3]))
    executor.fail_next = True
    assert engine.step()
    assert len(drafter.seen) == 1
    assert not drafter.plans
