from __future__ import annotations

import numpy as np

from python_backend.scheduling import (
    BlockManager,
    Scheduler,
    SchedulerConfig,
    Sequence,
    StepBatch,
    StepEntry,
    StepPlan,
)

LIMITS = SchedulerConfig(max_batch_size=4, max_num_tokens=9, max_seq_len=32)


def test_arrays_of_a_step_with_generation_draft_and_context_chunk() -> None:
    scheduler = Scheduler(LIMITS, BlockManager(16, 4))
    first = Sequence(id="first", prompt=np.array([10, 11, 12]), max_new_tokens=8)
    second = Sequence(id="second", prompt=np.arange(20, 32), max_new_tokens=2)
    scheduler.add(first, 0.0)
    plan = scheduler.schedule(0.0)
    assert plan is not None
    scheduler.advance(plan, [13])
    first.draft = [14, 15]
    scheduler.add(second, 1.0)
    plan = scheduler.schedule(1.0)
    assert plan is not None
    batch = StepBatch.of(plan)

    assert batch.input_ids.tolist() == [13, 14, 15, 20, 21, 22, 23, 24, 25]
    assert batch.position_ids.tolist() == [3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert batch.past_lens.tolist() == [3, 0]
    assert batch.subsequence_begins.tolist() == [0, 3, 9]
    assert batch.block_indices.tolist() == [*first.block_table, *second.block_table]
    assert batch.block_indices_begins.tolist() == [0, 2, 4]
    assert batch.max_context_len == 6
    assert batch.sample_rows.tolist() == [0, 1, 2]


def test_a_context_chunk_of_one_output_token_is_that_token_and_not_the_newest() -> None:
    resumed = Sequence(id="s", prompt=np.array([10, 11]), max_new_tokens=9, output=[12, 13, 14])
    resumed.block_table.append(0)
    batch = StepBatch.of(StepPlan([StepEntry(resumed, 3, 4, [], 0, in_context=True)]))
    assert (batch.input_ids.tolist(), batch.position_ids.tolist()) == ([13], [3])


def test_a_step_without_sampled_rows_has_an_empty_array() -> None:
    scheduler = Scheduler(LIMITS, BlockManager(16, 4))
    scheduler.add(Sequence(id="s", prompt=np.zeros(12, dtype=np.int64), max_new_tokens=2), 0.0)
    plan = scheduler.schedule(0.0)
    assert plan is not None
    batch = StepBatch.of(plan)
    assert batch.sample_rows.shape == (0,)
    assert scheduler.advance(plan, np.empty(0, dtype=np.int64)) == []


def test_types_are_those_of_the_paged_attention_operation() -> None:
    scheduler = Scheduler(LIMITS, BlockManager(16, 4))
    scheduler.add(Sequence(id="s", prompt=np.array([0, 0, 0]), max_new_tokens=2), 0.0)
    plan = scheduler.schedule(0.0)
    assert plan is not None
    batch = StepBatch.of(plan)
    wide = (batch.input_ids, batch.position_ids, batch.sample_rows)
    narrow = (
        batch.past_lens,
        batch.subsequence_begins,
        batch.block_indices,
        batch.block_indices_begins,
    )
    assert {array.dtype for array in wide} == {np.dtype(np.int64)}
    assert {array.dtype for array in narrow} == {np.dtype(np.int32)}
    assert all(array.flags.c_contiguous and array.flags.writeable for array in wide + narrow)


def test_arrays_stay_as_they_are_when_the_step_is_advanced() -> None:
    scheduler = Scheduler(LIMITS, BlockManager(16, 4))
    sequence = Sequence(id="s", prompt=np.arange(3), max_new_tokens=1)
    scheduler.add(sequence, 0.0)
    plan = scheduler.schedule(0.0)
    assert plan is not None
    batch = StepBatch.of(plan)
    held = sequence.block_table.tolist()
    scheduler.advance(plan, [1])
    assert sequence.block_table.tolist() == []
    assert batch.block_indices.tolist() == held
