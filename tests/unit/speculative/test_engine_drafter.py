"""The drafter in the engine's loop: whom it serves, what it remembers, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any

import numpy as np
import pytest

from python_backend.engine.engine import Engine, StepReport
from python_backend.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, Recorder
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.scheduling.step_plan import StepPlan
from python_backend.speculative.engine_drafter import PROBE_STEPS, EngineDrafter
from python_backend.speculative.proposer import Proposer
from python_backend.speculative.step_cost import StepCost
from tests.unit.engine.block_reading_executor import VOCABULARY, BlockReadingExecutor, next_token

FREE = StepCost.through({1: 1.0, 64: 1.000001}, 64)  # a step takes a second, whatever is in it
DEAR = StepCost.through({1: 1.0, 64: 64.0}, 64)  # and here one for every token


class Guesser:
    """A ``Proposer`` that knows the model, or the opposite of what it says."""

    def __init__(self, *, is_right: bool = True, price_s: float = 0.0, knows: Callable[[Sequence], bool] | None = None):
        self.is_right, self.price_s = is_right, price_s
        self.knows = knows or (lambda _: True)
        self.asked: list[tuple[Sequence, int]] = []
        self.forgotten: list[Sequence] = []

    def propose(self, wanted: Many[tuple[Sequence, int]]) -> list[list[int]]:
        self.asked += wanted
        return [self._guess(sequence, count) if self.knows(sequence) else [] for sequence, count in wanted]

    def _guess(self, sequence: Sequence, count: int) -> list[int]:
        text: list[int] = sequence.prompt.tolist() + sequence.output
        for _ in range(count):
            text.append((next_token(text) + (not self.is_right)) % VOCABULARY)
        return text[-count:]

    def run(self, sequence: Sequence) -> int:
        return 0

    def cost_s(self, sequences: int, tokens: int) -> float:
        return self.price_s * sequences * tokens

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence)


class Bench:
    """An engine with a drafter, step by step."""

    def __init__(
        self,
        lookup: Proposer | None,
        draft_model: Proposer | None = None,
        *,
        cost: StepCost = FREE,
        **limits: Any,
    ) -> None:
        self.recorder = Recorder()
        config = SchedulerConfig(**{"max_batch_size": 8, "max_num_tokens": 64, "max_seq_len": 512, **limits})
        self.drafter = EngineDrafter(
            cost,
            max_num_tokens=config.max_num_tokens,
            lookup=lookup,
            draft_model=draft_model,
            recorder=self.recorder,
        )
        self.engine = Engine(BlockReadingExecutor(256), config, self._take, drafter=self.drafter)
        self.received: dict[Sequence, list[int]] = {}

    def _take(self, report: StepReport) -> None:
        for sequence, tokens, _ in report.progress:
            self.received[sequence] = self.received.get(sequence, []) + tokens

    def add(self, prompt: list[int], count: int, max_draft_tokens: int, end_id: int | None = None) -> Sequence:
        sequence = Sequence(
            id=f"r{prompt}", prompt=np.array(prompt), max_new_tokens=count, end_id=end_id,
            max_draft_tokens=max_draft_tokens,
        )  # fmt: skip
        self.engine.submit(sequence)
        return sequence

    def run(self, steps: int = 1000) -> int:
        """How many steps it took to the end, or that many."""
        for number in range(steps):
            if not self.engine.step():
                return number
            self.engine.check_integrity()
        return steps


def alone(prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append(next_token(text))
    return text[len(prompt) :]


def test_right_guesses_save_steps_and_change_no_token() -> None:
    bench = Bench(Guesser())
    sequence = bench.add([1, 2, 3], 31, max_draft_tokens=4)
    assert bench.run() == 1 + 6  # 1, and then five a step
    assert bench.received[sequence] == alone([1, 2, 3], 31)
    assert (sequence.draft_tokens, sequence.accepted_draft_tokens) == (24, 24)


def test_wrong_guesses_are_soon_given_up_and_still_scored() -> None:
    guesser = Guesser(is_right=False)
    bench = Bench(guesser, cost=StepCost.through({1: 1.0, 2: 1.2, 64: 64.0}, 64))
    sequence = bench.add([1, 2, 3], 60, max_draft_tokens=4)
    bench.run()
    assert bench.received[sequence] == alone([1, 2, 3], 60)
    assert sequence.draft_tokens < 15
    guesser.is_right = True
    again = bench.add([4, 5, 6], 60, max_draft_tokens=4)
    bench.run()
    assert again.accepted_draft_tokens > 20


def test_nobody_is_looked_up_who_did_not_ask() -> None:
    guesser = Guesser()
    bench = Bench(guesser)
    plain, drafting = bench.add([1, 2], 9, max_draft_tokens=0), bench.add([3, 4], 9, max_draft_tokens=2)
    bench.run()
    assert {sequence for sequence, _ in guesser.asked} == {drafting}
    assert plain.draft_tokens == 0
    assert bench.received == {plain: alone([1, 2], 9), drafting: alone([3, 4], 9)}


def test_a_draft_leaves_room_for_the_token_behind_it() -> None:
    guesser = Guesser()
    bench = Bench(guesser)
    bench.add([1, 2], 6, max_draft_tokens=9)
    assert bench.run() == 2
    assert [count for _, count in guesser.asked] == [4]


def test_drafts_share_what_the_step_has_left() -> None:
    bench = Bench(Guesser(), max_batch_size=2, max_num_tokens=5)
    sequences = [bench.add([start, 1], 40, max_draft_tokens=16) for start in range(2)]
    while not all(sequence.output for sequence in sequences):
        bench.engine.step()
    bench.engine.step()
    assert sum(sequence.draft_tokens for sequence in sequences) == 3
    bench.run()
    assert bench.received == {sequence: alone(sequence.prompt.tolist(), 40) for sequence in sequences}


def test_where_each_token_costs_a_second_nothing_is_drafted() -> None:
    bench = Bench(Guesser(), cost=DEAR)
    sequence = bench.add([1, 2], 30, max_draft_tokens=8)
    assert bench.run() == 30
    assert sequence.draft_tokens == 0
    assert bench.engine.statistics.drafts.draft_length == 0.0
    assert bench.engine.statistics.drafts.speedup == pytest.approx(1.0)


def test_the_model_is_asked_where_look_up_has_no_guess() -> None:
    lookup = Guesser(knows=lambda sequence: sequence.prompt[0] == 1)
    model = Guesser()
    bench = Bench(lookup, model)
    known, unknown = bench.add([1, 2], 20, max_draft_tokens=3), bench.add([2, 2], 20, max_draft_tokens=3)
    bench.run()
    assert {sequence for sequence, _ in model.asked} == {unknown}
    counted = bench.recorder.take().increments
    assert counted[DRAFT_TOKENS, "ngram"] == known.draft_tokens
    assert counted[DRAFT_TOKENS, "draft_model"] == counted[ACCEPTED_DRAFT_TOKENS, "draft_model"] == unknown.draft_tokens


def test_a_model_that_was_wrong_is_tried_again_now_and_then_if_it_could_pay() -> None:
    model = Guesser(is_right=False, price_s=0.1)
    bench = Bench(None, model)
    bench.add([1, 2], 400, max_draft_tokens=1)
    bench.run(60)
    asked = len(model.asked)
    assert asked < 20
    bench.run(3 * PROBE_STEPS)
    assert 1 <= len(model.asked) - asked <= 4
    model.is_right = True
    bench.run()
    assert len(model.asked) > asked + 40


def test_a_model_that_could_not_pay_is_left_alone() -> None:
    model = Guesser(price_s=9.0)
    bench = Bench(None, model)
    bench.add([1, 2], 3 * PROBE_STEPS, max_draft_tokens=4)
    bench.run()
    assert not model.asked


def test_what_has_ended_is_forgotten_however_it_ended() -> None:
    lookup, model = Guesser(), Guesser()
    bench = Bench(lookup, model)
    finished = bench.add([1, 2], 6, max_draft_tokens=2)
    cancelled, failed = bench.add([2, 2], 90, max_draft_tokens=2), bench.add([3, 2], 90, max_draft_tokens=2)
    bench.run(5)
    assert finished.finish_reason is FinishReason.LENGTH
    assert lookup.forgotten == model.forgotten == [finished]
    bench.engine.cancel(cancelled)
    bench.run(1)
    executor = bench.engine.executor
    assert isinstance(executor, BlockReadingExecutor)
    executor.fail_next = True
    bench.run(1)
    assert failed.finish_reason is FinishReason.ERROR
    bench.add([4, 2], 2, max_draft_tokens=0)
    bench.run()
    assert lookup.forgotten == model.forgotten == [finished, cancelled, failed]


def test_the_figures_are_those_of_the_steps() -> None:
    bench = Bench(Guesser(knows=lambda sequence: len(sequence.output) % 2 == 0))
    sequence = bench.add([1, 2, 3], 101, max_draft_tokens=1)
    steps = bench.run()
    drafts = bench.engine.statistics.drafts
    counted = bench.recorder.take().increments
    assert counted[DRAFT_TOKENS, "ngram"] == counted[ACCEPTED_DRAFT_TOKENS, "ngram"] == sequence.draft_tokens > 10
    assert drafts.acceptance_rate == 1.0
    assert 0 < drafts.draft_length <= 1.0
    assert 1.0 < drafts.speedup <= 2.0
    assert steps == 101 - sequence.accepted_draft_tokens


@pytest.mark.parametrize("method", ["draft", "verified"])
def test_a_drafter_that_fails_is_dropped_and_hurts_nobody(method: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(Guesser())
    sequences = [bench.add([start, 2], 20, max_draft_tokens=3) for start in range(3)]
    bench.run(2)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("in the drafter")

    setattr(bench.drafter, method, fail)
    bench.run(1)
    drafted = [sequence.draft_tokens for sequence in sequences]
    bench.run()
    assert bench.received == {sequence: alone(sequence.prompt.tolist(), 20) for sequence in sequences}
    assert [sequence.draft_tokens for sequence in sequences] == drafted
    assert "drafter failed" in caplog.text
    assert "in the drafter" in caplog.text
    assert bench.engine.statistics.drafts.draft_length == 0.0


def test_drafts_from_elsewhere_are_left_alone() -> None:
    """A sequence that came with a draft is not the drafter's, and nothing of it is counted."""
    bench = Bench(Guesser(is_right=False))
    sequence = Sequence(id="", prompt=np.array([1, 2]), max_new_tokens=9, ends_after_draft=True, max_draft_tokens=4)
    sequence.draft = alone([1, 2], 3)
    bench.engine.submit(sequence)
    assert bench.run() == 1
    assert bench.received[sequence] == alone([1, 2], 4)
    assert not bench.recorder.take().increments
    bench.drafter.verified(StepPlan())
