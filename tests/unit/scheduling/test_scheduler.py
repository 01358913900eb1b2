from __future__ import annotations

import pytest

from python_backend.errors import EngineFault
from python_backend.scheduling import CapacityPolicy, FinishReason, SequenceState, StepBatch, Urgency
from tests.unit.scheduling.simulated_engine import PAUSING, config, engine, generate, spans, step_until_paused


class TestContext:
    def test_a_prompt_beyond_the_token_budget_is_computed_in_chunks_and_sampled_in_the_last(self) -> None:
        one = engine(config(tokens=6))
        one.add(list(range(5)) * 3, 1)
        assert [spans(one.step()) for _ in range(3)] == [[(0, 6, 0)], [(6, 12, 0)], [(12, 15, 1)]]
        one.check_results()

    def test_generation_goes_first_then_running_contexts_then_new_ones(self) -> None:
        one = engine(config(tokens=6))
        generating = one.add([1, 2], 5)
        one.step()
        running = one.add([1] * 7, 5)
        one.step()
        new = one.add([2, 3], 5)
        plan = one.step()
        assert plan is not None
        assert [entry.sequence for entry in plan.entries] == [generating, running, new]
        assert [entry.in_context for entry in plan.entries] == [False, True, True]

    def test_without_chunked_context_a_prompt_waits_until_a_step_takes_it_whole(self) -> None:
        one = engine(config(tokens=6, chunked=False))
        one.add([4, 4], 2)
        one.step()
        one.add([1, 2, 3, 4, 1, 2], 1)
        assert [spans(one.step()) for _ in range(2)] == [[(2, 3, 1)], [(0, 6, 1)]]

    def test_nobody_overtakes_the_head_of_the_queue_that_does_not_fit(self) -> None:
        one = engine(config(), num_blocks=4)
        first = one.add([1] * 8, 4)
        big = one.add([2] * 8, 4)
        small = one.add([3], 1)
        one.step()
        assert (first.is_running, big.is_running, small.is_running) == (True, False, False)
        one.drain()


class TestReuse:
    def test_a_second_request_computes_only_what_differs(self) -> None:
        one = engine(config())
        one.add([1] * 8 + [2], 1)
        one.drain()
        one.add([1] * 8 + [3], 1)
        assert spans(one.step()) == [(8, 9, 1)]

    def test_a_following_turn_reuses_prompt_and_answer(self) -> None:
        one = engine(config())
        first = one.add([1, 2, 3, 4, 1], 8)
        one.drain()
        one.add([*first.prompt.tolist(), *first.output, 4], 1)
        assert spans(one.step()) == [(12, 14, 1)]

    def test_reuse_can_be_switched_off(self) -> None:
        one = engine(config(reuse=False))
        for _ in range(2):
            one.add([1] * 9, 1)
            assert spans(one.step()) == [(0, 9, 1)]
        assert one.blocks.statistics.cached == 0

    def test_requests_of_one_prefix_side_by_side_never_read_what_is_not_computed(self) -> None:
        one = engine(config(tokens=5), tokens_per_block=2)
        for end in range(4):
            one.add([1, 2, 3, 4, 1, 2, 3, end], 3)
        one.drain()


class TestGuaranteedNoEvict:
    def test_a_request_waits_until_its_last_block_is_certain(self) -> None:
        one = engine(config(), num_blocks=5)
        one.add([1] * 4, 9)  # 12 tokens of KV: 3 blocks, 1 of them now
        one.add([2] * 4, 6)  # 9 tokens: 3 blocks
        plan = one.step()
        assert len(spans(plan)) == 1
        one.drain()
        assert one.pauses == 0

    def test_a_shared_block_is_counted_once(self) -> None:
        one = engine(config(), num_blocks=5)
        one.add([1] * 4 + [2], 8)  # 3 blocks
        one.step()
        one.add([1] * 4 + [3], 8)  # 3 blocks, the first of them shared
        assert len(spans(one.step())) == 2
        one.drain()

    def test_a_cached_block_is_not_counted_twice(self) -> None:
        one = engine(config(), num_blocks=5)
        one.add([1] * 4 + [2], 1)
        one.drain()
        one.add([2] * 4 + [2], 8)  # takes 2 of 5 blocks and is promised a third
        one.add([1] * 4 + [3], 8)  # its cached block is one of the 2 that are left: it needs 3
        assert len(spans(one.step())) == 1
        one.drain()


class TestMaxUtilization:
    def test_more_run_at_once_than_could_finish_together(self) -> None:
        crowds = {}
        for policy in CapacityPolicy:
            crowd = engine(config(policy=policy), num_blocks=6)
            for start in range(3):
                crowd.add([start] * 3, 14)
            crowd.step()
            crowds[policy] = len(crowd.scheduler.running)
            crowd.drain()
        assert crowds == {CapacityPolicy.GUARANTEED_NO_EVICT: 1, PAUSING: 3}

    def test_the_last_to_come_is_paused_and_loses_no_token(self) -> None:
        one = engine(config(policy=PAUSING), num_blocks=4)
        first, last = one.add([1] * 4, 11), one.add([2] * 4, 11)
        step_until_paused(one)
        assert (first.state, last.state) == (SequenceState.GENERATION, SequenceState.PAUSED)
        assert last.output
        assert not last.block_table
        one.drain()
        assert one.reasons == {first: FinishReason.LENGTH, last: FinishReason.LENGTH}

    def test_the_less_urgent_is_paused_even_when_it_came_first(self) -> None:
        one = engine(config(policy=PAUSING, urgency=Urgency(priority_s=1000)), num_blocks=5)
        low = one.add([1] * 4, 11, priority=0.0)
        one.step()
        high = one.add([2] * 4, 11, priority=1.0)
        step_until_paused(one)
        assert (low.state, high.state) == (SequenceState.PAUSED, SequenceState.GENERATION)
        one.drain()

    def test_a_resumed_sequence_finds_its_own_blocks_again(self) -> None:
        one = engine(config(policy=PAUSING), num_blocks=6)
        one.add([1] * 4, 12)
        last = one.add([2] * 4, 18)
        step_until_paused(one)
        one.cancel(next(s for s in one.live if s is not last))
        plan = one.step()
        assert plan is not None
        assert (plan.entries[0].sequence, plan.entries[0].in_context) == (last, True)
        assert plan.entries[0].start > 0
        one.drain()

    def test_a_paused_sequence_resumes_before_a_new_one_starts(self) -> None:
        one = engine(config(policy=PAUSING, batch=2), num_blocks=4)
        one.add([1] * 4, 11)
        last = one.add([2] * 4, 11)
        step_until_paused(one)
        new = one.add([3], 1, priority=1.0)
        while not (last.is_running or new.is_running):
            assert one.step()
        assert (last.is_running, new.is_running) == (True, False)
        one.drain()

    def test_a_sequence_is_admitted_with_a_block_to_generate_into(self) -> None:
        one = engine(config(policy=PAUSING), num_blocks=2)
        one.add([1] * 4, 5)
        one.add([2] * 4, 5)
        one.drain()
        assert one.pauses == 0

    def test_what_was_just_paused_is_not_admitted_in_the_same_step(self) -> None:
        one = engine(config(policy=PAUSING), num_blocks=4)
        one.add([1] * 4, 11)
        one.add([2] * 4, 11)
        plan = step_until_paused(one)
        assert not {entry.sequence for entry in plan.entries} & set(plan.paused)
        one.drain()


class TestEnds:
    def test_length_ends_after_exactly_max_new_tokens(self) -> None:
        one = engine(config())
        sequence = one.add([1], 5)
        one.drain()
        assert (len(sequence.output), sequence.finish_reason) == (5, FinishReason.LENGTH)

    def test_the_end_id_is_part_of_the_output_and_wins_over_length(self) -> None:
        truth = generate([1], 1)
        one = engine(config())
        sequence = one.add([1], 1, end_id=truth[0])
        one.drain()
        assert (sequence.output, sequence.finish_reason) == (truth, FinishReason.STOP)

    def test_cancelling_returns_the_end_once_and_the_blocks_at_once(self) -> None:
        one = engine(config())
        waiting, running = one.add([1] * 20, 3), one.add([2] * 5, 3)
        one.step()
        assert one.scheduler.cancel(running) == (running, [], FinishReason.CANCELLED)
        assert one.scheduler.cancel(running) is None
        assert one.scheduler.cancel(waiting) == (waiting, [], FinishReason.CANCELLED)
        assert one.scheduler.is_idle
        assert one.blocks.statistics.used == 0

    def test_a_sequence_cancelled_during_its_step_is_not_heard_of_again(self) -> None:
        one = engine(config())
        leaver, stayer = one.add([1], 3), one.add([2], 3)
        plan = one.begin_step()
        assert plan is not None
        sampled = one.execute(plan, StepBatch.of(plan))
        one.cancel(leaver)
        assert [progress.sequence for progress in one.end_step(plan, sampled)] == [stayer]
        one.drain()
        assert leaver.output == []

    def test_a_paused_sequence_can_be_cancelled(self) -> None:
        one = engine(config(policy=PAUSING), num_blocks=4)
        one.add([1] * 4, 11)
        last = one.add([2] * 4, 11)
        step_until_paused(one)
        one.cancel(last)
        assert one.scheduler.gauges.paused == 0
        one.drain()

    def test_the_caller_can_end_a_sequence_for_a_stop_word(self) -> None:
        one = engine(config())
        sequence = one.add([1], 5)
        one.step()
        ended = one.scheduler.finish(sequence, FinishReason.STOP)
        assert ended == (sequence, [], FinishReason.STOP)
        assert one.scheduler.is_idle

    def test_a_failed_step_ends_its_sequences_only_and_leaves_nothing_to_reuse(self) -> None:
        one = engine(config(batch=1))
        broken, waiting = one.add([1] * 9, 3), one.add([1] * 9, 3)
        plan = one.begin_step()
        assert plan is not None
        one.fail_step(plan, StepBatch.of(plan))
        assert one.reasons == {broken: FinishReason.ERROR}
        one.drain()
        assert one.reasons[waiting] is FinishReason.LENGTH

    def test_a_wrong_number_of_sampled_tokens_is_an_engine_fault(self) -> None:
        one = engine(config())
        one.add([1], 3)
        plan = one.begin_step()
        assert plan is not None
        with pytest.raises(EngineFault, match="2 tokens for 1 sampled rows"):
            one.scheduler.advance(plan, [1, 2])


class TestFairness:
    @pytest.mark.parametrize("policy", CapacityPolicy)
    def test_a_long_request_of_low_priority_is_served_under_an_endless_stream_of_urgent_ones(
        self, policy: CapacityPolicy
    ) -> None:
        one = engine(config(batch=2, policy=policy, urgency=Urgency(priority_s=20, length_s=1)), num_blocks=12)
        patient = one.add([1] * 30, 10, priority=0.0)
        for arrival in range(400):
            one.add([arrival % 5, 2], 4, priority=1.0)
            one.step()
            if patient in one.reasons:
                break
        assert one.reasons.get(patient) is FinishReason.LENGTH
        for sequence in one.live:
            one.cancel(sequence)
        one.drain()


def test_a_corrupted_batch_is_reported_with_its_sequence() -> None:
    one = engine(config())
    sequence = one.add([1] * 5, 3)
    one.step()
    sequence.state = SequenceState.WAITING
    with pytest.raises(EngineFault, match=r"request-0.* is in the batch"):
        one.scheduler.check_integrity()
