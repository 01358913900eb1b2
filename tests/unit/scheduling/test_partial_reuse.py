from __future__ import annotations

import numpy as np
import pytest

from python_backend.errors import EngineFault
from python_backend.scheduling import (
    BlockManager,
    BlockRetention,
    FinishReason,
    KvRetention,
    Sequence,
    StepBatch,
    TokenRange,
)
from tests.unit.scheduling.simulated_engine import (
    PAUSING,
    SimulatedEngine,
    config,
    engine,
    generate,
    spans,
    step_until_paused,
)

SIZE = 4


def manager(num_blocks: int = 8) -> BlockManager:
    return BlockManager(num_blocks, SIZE, enable_partial_reuse=True)


def sequence(tokens: list[int], salt: bytes = b"", retention: KvRetention | None = None) -> Sequence:
    return Sequence(id="s", prompt=np.array(tokens), max_new_tokens=8, cache_salt=salt, retention=retention)


def start(blocks: BlockManager, tokens: list[int], salt: bytes = b"", retention: KvRetention | None = None) -> Sequence:
    made = sequence(tokens, salt, retention)
    blocks.attach(made, blocks.match(made))
    return made


def compute(blocks: BlockManager, made: Sequence) -> Sequence:
    blocks.grow(made, made.num_tokens)
    made.computed = made.num_tokens
    blocks.commit(made)
    return made


def serve(blocks: BlockManager, tokens: list[int], salt: bytes = b"", retention: KvRetention | None = None) -> None:
    """A request whose tokens are all computed, from its beginning to its end."""
    blocks.release(compute(blocks, start(blocks, tokens, salt, retention)))
    blocks.check_integrity([])


def reusable(blocks: BlockManager, tokens: list[int], salt: bytes = b"") -> int:
    return blocks.match(sequence(tokens, salt)).tokens


class TestMatch:
    def test_a_continuation_goes_on_where_the_last_block_ends(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3, 4, 5, 6])
        following = start(blocks, [1, 2, 3, 4, 5, 6, 7])
        assert (following.computed, following.committed_blocks, len(following.block_table)) == (6, 1, 2)
        assert (following.reused_blocks, following.reused_tokens, following.allocated_blocks) == (2, 6, 0)
        assert blocks.statistics.reused_total == 2
        compute(blocks, following)
        assert following.allocated_blocks == 0
        blocks.check_integrity([following])

    def test_a_sequence_of_less_than_a_block_leaves_it_behind(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2])
        assert (blocks.statistics.cached, blocks.statistics.used) == (1, 0)
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7]) == 2

    def test_a_sequence_that_ends_with_a_full_block_leaves_no_other(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3, 4])
        assert blocks.statistics.cached == 1

    def test_the_last_token_of_a_known_prompt_is_computed_again_for_its_logits(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3, 4, 5, 6, 7])
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7]) == 6
        assert reusable(blocks, [1, 2, 3, 4, 5]) == 4

    def test_equal_tokens_behind_others_are_not_found(self) -> None:
        blocks = manager()
        serve(blocks, [1, 1, 1, 1, 5, 6, 7])
        assert reusable(blocks, [2, 2, 2, 2, 5, 6, 7, 8]) == 0
        assert reusable(blocks, [5, 6, 7, 8]) == 0

    def test_another_salt_shares_nothing(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3], salt=b"a")
        assert (reusable(blocks, [1, 2, 3, 4], b"b"), reusable(blocks, [1, 2, 3, 4], b"a")) == (0, 3)

    def test_no_salt_stands_for_the_blocks_of_another(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3, 4, 5, 6])
        first = sequence([1, 2, 3, 4])
        blocks.match(first)
        root = sequence([9])
        blocks.match(root)
        for forged in (b"", *first.block_hashes, first.prompt.tobytes()):
            assert reusable(blocks, [5, 6, 7], forged) == 0

    def test_the_most_tokens_in_common_win_and_then_the_block_with_the_least_to_lose(self) -> None:
        blocks = manager()
        first = [start(blocks, tokens) for tokens in ([1, 2, 9], [1, 2], [1, 5, 6])]  # side by side
        tables = [compute(blocks, each).block_table[0] for each in first]
        for each in first:
            blocks.release(each)
        assert blocks.match(sequence([1, 2, 3, 4, 5])) == ([tables[1]], 0, 2)
        assert blocks.match(sequence([1, 2, 9, 4, 5])) == ([tables[0]], 0, 3)
        assert blocks.match(sequence([1, 5, 7, 4, 5])) == ([tables[2]], 0, 2)

    @pytest.mark.parametrize(("known", "prompt", "tokens"), [(3, [1, 8, 8], 0), (3, [1, 1, 8], 2), (2, [1, 8, 8], 1)])
    def test_a_block_is_taken_over_for_at_least_half_of_its_tokens(
        self, known: int, prompt: list[int], tokens: int
    ) -> None:
        blocks = manager()
        serve(blocks, [1] * known)
        assert reusable(blocks, prompt) == tokens

    def test_a_full_block_is_not_taken_over(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3, 4, 5, 6, 7, 8])
        assert reusable(blocks, [1, 2, 3, 9]) == 0
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7, 9]) == 4
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7, 8]) == 4

    def test_it_is_off_unless_asked_for(self) -> None:
        blocks = BlockManager(8, SIZE)
        serve(blocks, [1, 2, 3, 4, 5, 6])
        assert blocks.statistics.cached == 1
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7]) == 4


class TestTakeover:
    def test_what_was_taken_over_is_found_by_nobody_else_until_it_is_let_go(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3])
        taken = start(blocks, [1, 2, 9])
        assert reusable(blocks, [1, 2, 3, 4]) == 0
        compute(blocks, taken)
        assert reusable(blocks, [1, 2, 9, 4]) == 0
        blocks.release(taken)
        assert reusable(blocks, [1, 2, 3, 4]) == 2
        assert reusable(blocks, [1, 2, 9, 4]) == 3

    def test_a_block_that_its_new_holder_fills_is_shared_like_any_full_one(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3])
        first = compute(blocks, start(blocks, [1, 2, 3, 4, 5]))
        second = start(blocks, [1, 2, 3, 4, 6])
        assert (second.reused_tokens, second.block_table[0]) == (4, first.block_table[0])
        blocks.check_integrity([first, second])

    def test_a_block_that_somebody_else_has_filled_before_stays_private(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2], retention=KvRetention((TokenRange(0, None, BlockRetention(90)),)))
        taken, other = start(blocks, [1, 2, 3, 4]), start(blocks, [1, 2, 3, 4])
        for each in (other, taken):
            blocks.release(compute(blocks, each))
        assert blocks.statistics.cached == 1
        blocks.check_integrity([])

    def test_of_two_equal_blocks_each_serves_one(self) -> None:
        blocks = manager()
        twins = [compute(blocks, each) for each in [start(blocks, [1, 2, 3]), start(blocks, [1, 2, 3])]]
        for each in twins:
            blocks.release(each)
        following = [start(blocks, [1, 2, 3, token]) for token in (4, 5, 6)]
        assert [each.reused_tokens for each in following] == [3, 3, 0]
        blocks.check_integrity(following)

    def test_a_sequence_that_was_paused_goes_on_in_its_own_block(self) -> None:
        blocks = manager()
        paused = start(blocks, [1, 2, 3])
        paused.output += [4, 5, 6, 7]
        blocks.grow(paused, 6)
        paused.computed = 6
        blocks.commit(paused)
        blocks.release(paused)
        blocks.attach(paused, blocks.match(paused))
        assert (paused.computed, paused.reused_tokens) == (6, 6)
        blocks.check_integrity([paused])

    def test_a_block_counts_as_available_until_it_is_taken(self) -> None:
        blocks = manager(2)
        serve(blocks, [1, 2, 3])
        match = blocks.match(sequence([1, 2, 3, 4]))
        assert (len(match.blocks), match.referenced, blocks.available) == (1, 0, 2)
        start(blocks, [1, 2, 3, 4])
        assert blocks.available == 1

    def test_blocks_beyond_what_is_computed_are_not_offered(self) -> None:
        blocks = manager()
        cancelled = start(blocks, [1, 2, 3, 4, 5, 6, 7, 8, 9])
        blocks.grow(cancelled, 9)
        cancelled.computed = 6
        blocks.commit(cancelled)
        blocks.release(cancelled)
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == 6
        assert blocks.statistics.cached == 2


class TestEviction:
    def test_the_last_block_goes_before_those_it_follows(self) -> None:
        blocks = manager(2)
        serve(blocks, [1, 2, 3, 4, 5, 6])
        blocks.grow(sequence([9]), 1)
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7]) == 4
        assert blocks.statistics.evicted_total == 1

    def test_the_least_recently_released_goes_first_full_or_not(self) -> None:
        blocks = manager(3)
        serve(blocks, [1] * 2)
        serve(blocks, [2] * 4)
        serve(blocks, [3] * 2)
        serve(blocks, [1, 1, 8])  # goes on in the first one's
        blocks.grow(sequence([9]), 1)
        assert [reusable(blocks, [token] * 5) for token in (1, 2, 3)] == [2, 0, 2]

    def test_priorities_hold_for_it_and_run_out(self) -> None:
        blocks = manager(2)
        keep = KvRetention((TokenRange(0, 4, BlockRetention(10)), TokenRange(4, None, BlockRetention(80, 1000))))
        serve(blocks, [1, 1, 1, 1, 5], retention=keep)
        serve(blocks, [2])
        blocks.advance_time(2.0)
        serve(blocks, [1, 1, 1, 1, 5], retention=keep)
        serve(blocks, [3])
        assert [reusable(blocks, tokens) for tokens in ([1, 1, 1, 1, 5, 6], [2, 2], [3, 3])] == [0, 0, 1]

    def test_who_says_nothing_keeps_it_as_it_was(self) -> None:
        blocks = manager(2)
        serve(blocks, [1, 1], retention=KvRetention((TokenRange(0, None, BlockRetention(80)),)))
        serve(blocks, [1, 1, 1])
        serve(blocks, [2])
        serve(blocks, [3])
        assert [reusable(blocks, [token] * 4) for token in (1, 2, 3)] == [3, 0, 1]

    def test_generated_tokens_have_the_decode_priority(self) -> None:
        blocks = manager(2)
        made = start(blocks, [1] * 4, retention=KvRetention(decode=BlockRetention(5)))
        made.output += [1, 1]
        blocks.release(compute(blocks, made))
        blocks.grow(sequence([9]), 1)
        assert reusable(blocks, [1] * 9) == 4

    def test_it_is_never_pinned(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2, 3, 4, 5, 6])
        prompt = sequence([1, 2, 3, 4, 5, 6])
        assert (blocks.pin(prompt), blocks.pinned_prefix(prompt)) == (1, 1)
        assert reusable(blocks, [1, 2, 3, 4, 5, 6, 7]) == 6
        blocks.check_integrity([])


class TestIntegrity:
    def test_a_block_that_is_not_cached(self) -> None:
        blocks = manager()
        blocks._partial.add(3, b"before", (1,))
        with pytest.raises(EngineFault, match=r"partly filled: \[3\]"):
            blocks.check_integrity([])

    def test_a_cached_block_that_cannot_be_found(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2])
        blocks._partial.discard(next(iter(blocks._partial)))
        with pytest.raises(EngineFault, match="without hash"):
            blocks.check_integrity([])

    def test_an_index_that_disagrees(self) -> None:
        blocks = manager()
        serve(blocks, [1, 2])
        blocks._partial._alike.clear()
        with pytest.raises(EngineFault, match="1 partly filled blocks and the 0 that would be found"):
            blocks.check_integrity([])

    def test_a_priority_that_a_free_block_has(self) -> None:
        blocks = manager()
        blocks._cached.retain(2, BlockRetention(80))
        with pytest.raises(EngineFault, match=r"blocks \[2\] have one, but are free"):
            blocks.check_integrity([])


def finish(one: SimulatedEngine, made: Sequence) -> int:
    """Run it to its end; how many tokens were computed for it."""
    tokens = 0
    while made in one.live:
        plan = one.step()
        assert plan is not None
        tokens += sum(entry.num_tokens for entry in plan.entries if entry.sequence is made)
    return tokens


class TestScheduler:
    def test_a_round_of_speculation_computes_the_newest_token_and_its_draft(self) -> None:
        one = engine(config())
        known = [1, 2, 3, 4, 2, 1]
        finish(one, one.add(known[:-1], 1))
        for right in (2, 0, 3, 1, 3, 3, 2, 0, 1, 2):
            draft = generate(known, right)
            draft += [(generate(known, right + 1)[-1] + 1) % 5] * (3 - right)
            made = one.add(known, 4)
            made.draft, made.ends_after_draft = draft, True
            assert finish(one, made) == 1 + len(draft)
            assert len(made.output) == right + 1
            known += made.output

    def test_the_kv_of_rejected_drafts_is_not_offered(self) -> None:
        one = engine(config())
        wrong = [(generate([1, 2], 1)[0] + 1) % 5] * 2
        made = one.add([1, 2], 4)
        made.draft, made.ends_after_draft = wrong, True
        finish(one, made)
        follower = one.add([1, 2, *wrong], 1)
        assert (finish(one, follower), follower.reused_tokens) == (2, 2)

    def test_one_that_does_not_read_the_cache_computes_all_and_leaves_its_block(self) -> None:
        one = engine(config())
        finish(one, one.add([1, 2, 3], 1))
        reader = one.add([1, 2, 3, 4, 1, 2], 1)
        reader.reads_cache = False
        assert finish(one, reader) == 6
        assert finish(one, one.add([1, 2, 3, 4, 1, 2, 3], 1)) == 1

    @pytest.mark.parametrize(("reuse", "partial"), [(True, False), (False, True)])
    def test_switched_off_nothing_is_kept_of_a_block_that_is_not_full(self, reuse: bool, partial: bool) -> None:
        one = engine(config(reuse=reuse, partial=partial))
        finish(one, one.add([1, 2, 3], 1))
        assert one.blocks.statistics.cached == 0
        assert finish(one, one.add([1, 2, 3, 4], 1)) == 4

    def test_the_prompt_left_to_compute_decides_whether_it_fits_into_a_step(self) -> None:
        one = engine(config(tokens=6, batch=5, chunked=False))
        finish(one, one.add([1, 2, 3], 1))
        for token in (0, 2, 3, 4):
            one.add([token], 2)
        one.step()
        one.add([1, 2, 3, 4, 1, 2], 1)
        assert spans(one.step()) == [(1, 2, 1)] * 4  # which leaves two tokens, for three
        assert spans(one.step()) == [(3, 6, 1)]

    def test_the_last_block_serves_within_a_cache_that_is_all_promised(self) -> None:
        one = engine(config(), num_blocks=4)
        finish(one, one.add([1, 2, 3], 1))
        first, second = one.add([1, 2, 3, 4, 1], 4), one.add([4, 4, 4, 4, 4], 4)
        one.step()
        assert (first.reused_tokens, len(one.scheduler.running)) == (3, 2)
        one.drain()
        assert [one.reasons[each] for each in (first, second)] == [FinishReason.LENGTH] * 2

    def test_a_paused_sequence_loses_its_last_block_first(self) -> None:
        one = engine(config(policy=PAUSING), num_blocks=4)
        urgent, other = one.add([1] * 3, 8), one.add([2] * 2, 8)
        assert step_until_paused(one).paused == [other]
        known = other.num_tokens
        one.cancel(urgent)
        assert spans(one.step()) == [(4, known, 1)]
        one.drain()

    def test_what_is_cancelled_in_its_step_leaves_what_was_computed_before(self) -> None:
        one = engine(config(tokens=6))
        made = one.add([1, 2, 3, 4, 1, 2, 3, 4, 1], 3)
        one.step()
        plan = one.begin_step()
        assert plan is not None
        sampled = one.execute(plan, StepBatch.of(plan))
        one.cancel(made)
        one.end_step(plan, sampled)
        follower = one.add([1, 2, 3, 4, 1, 2, 3, 4, 1], 3)
        one.drain()
        assert follower.reused_tokens == 6

    def test_of_a_step_that_failed_nothing_is_reused(self) -> None:
        one = engine(config(tokens=6))
        one.add([1, 2, 3, 4, 1, 2, 3, 4, 1], 3)
        one.step()
        plan = one.begin_step()
        assert plan is not None
        one.fail_step(plan, StepBatch.of(plan))
        follower = one.add([1, 2, 3, 4, 1, 2, 3, 4, 1], 3)
        one.drain()
        assert follower.reused_tokens == 6
