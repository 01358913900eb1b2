from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest

from python_backend.scheduling.step_batch import StepBatch
from python_backend.speculative.step_cost import ALWAYS, StepCost
from tests.unit.engine.block_reading_executor import BlockReadingExecutor


class TimedExecutor(BlockReadingExecutor):
    """Takes 8 ms a step, 1 ms a token, 2 ms a sequence and 3 ms for a new size; by the clock, twice as long."""

    def __init__(self, num_blocks: int = 128, tokens_per_block: int = 32, kept_shapes: int = 1) -> None:
        super().__init__(num_blocks, tokens_per_block)
        self.kept_shapes = kept_shapes
        self._kept: list[int] = []
        self.processor_s = 0.0
        self.batches: list[StepBatch] = []

    def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        tokens = batch.input_ids.size
        is_new = tokens not in self._kept
        self._kept = [*(size for size in self._kept if size != tokens), tokens][-self.kept_shapes :]
        self.batches.append(batch)
        self.processor_s += (8 + batch.input_ids.size + 2 * batch.past_lens.size + 3 * is_new) / 1e3
        return super().execute(batch)

    def measure(self, monkeypatch: pytest.MonkeyPatch, most_tokens: int, time_limit_s: float = 5.0) -> StepCost:
        monkeypatch.setattr(time, "process_time", lambda: self.processor_s)
        monkeypatch.setattr(time, "perf_counter", lambda: 2 * self.processor_s)
        return StepCost.measured(self, most_tokens, time_limit_s=time_limit_s)


def test_between_points_the_curve_is_straight_and_goes_on_beyond_them() -> None:
    cost = StepCost.through({1: 0.010, 4: 0.016, 8: 0.032}, 12)
    assert [round(cost.seconds(tokens), 4) for tokens in (1, 2, 4, 6, 8, 12)] == [
        0.01,
        0.012,
        0.016,
        0.024,
        0.032,
        0.048,
    ]
    assert len(cost.curve) == 13


def test_a_disturbed_point_is_no_dearer_than_a_larger_one_and_tokens_are_never_free() -> None:
    cost = StepCost.through({1: 0.01, 2: 0.09, 4: 0.03, 8: 0.03}, 40)
    assert cost.seconds(2) == cost.seconds(4) == pytest.approx(0.03)
    assert cost.seconds(40) > cost.seconds(20) > cost.seconds(8)


def test_each_drafting_sequence_but_one_adds_its_charge() -> None:
    cost = StepCost(np.array([0.0, 1.0, 2.0]), 0.25)
    assert [cost.seconds(2, drafting) for drafting in range(4)] == [2.0, 2.0, 2.25, 2.5]


@pytest.mark.parametrize("kept_shapes", [1, 2, 3])
def test_what_is_measured_is_what_steps_take(monkeypatch: pytest.MonkeyPatch, kept_shapes: int) -> None:
    cost = TimedExecutor(kept_shapes=kept_shapes).measure(monkeypatch, 200)
    for tokens in (1, 3, 7, 33, 64, 150, 200):
        assert cost.seconds(tokens) == pytest.approx(2 * (10 + tokens) / 1e3)
    assert cost.per_drafting_sequence_s == pytest.approx(2 * 2e-3)
    assert cost.reshaping_s == pytest.approx(2 * 3e-3)
    assert cost.kept_shapes == kept_shapes


def test_time_that_runs_out_leaves_a_coarser_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = TimedExecutor()
    cost = executor.measure(monkeypatch, 200, time_limit_s=0.0)
    assert [tuple(np.diff(batch.subsequence_begins)) for batch in executor.batches[::2]] == list(ALWAYS)
    assert cost.seconds(40) == pytest.approx(2 * 50 / 1e3)
    assert cost.reshaping_s == 0.0


@pytest.mark.parametrize(("num_blocks", "tokens_per_block"), [(1, 32), (2, 4), (3, 32), (40, 4), (16, 16)])
def test_dummy_steps_stay_within_the_cache_and_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch, num_blocks: int, tokens_per_block: int
) -> None:
    executor = TimedExecutor(num_blocks, tokens_per_block)
    cost = executor.measure(monkeypatch, 64)
    assert cost.seconds(64) == pytest.approx(2 * 74 / 1e3)
    for batch in executor.batches:
        assert max(batch.block_indices.tolist()) < num_blocks
        assert int(batch.input_ids.max()) < executor.vocab_size
        for s, past in enumerate(batch.past_lens.tolist()):
            tokens = past + int(np.diff(batch.subsequence_begins)[s])
            assert tokens <= int(np.diff(batch.block_indices_begins)[s]) * tokens_per_block
            assert batch.position_ids[batch.subsequence_begins[s]] == past
