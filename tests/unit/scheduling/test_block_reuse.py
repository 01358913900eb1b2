from __future__ import annotations

import numpy as np
import pytest

from python_backend.errors import EngineFault, SetupError
from python_backend.scheduling import BlockManager, Sequence

SIZE = 4


def sequence(tokens: list[int], salt: bytes = b"") -> Sequence:
    return Sequence(id="s", prompt=np.array(tokens), max_new_tokens=8, cache_salt=salt)


def compute(blocks: BlockManager, tokens: list[int], salt: bytes = b"") -> Sequence:
    """A sequence whose tokens have all been computed and committed."""
    made = sequence(tokens, salt)
    blocks.attach(made, blocks.match(made))
    blocks.grow(made, made.num_tokens)
    made.computed = made.num_tokens
    blocks.commit(made)
    return made


def test_full_blocks_of_an_equal_prefix_are_shared() -> None:
    blocks = BlockManager(8, SIZE)
    first = compute(blocks, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    second = compute(blocks, [1, 2, 3, 4, 5, 6, 7, 8, 10])
    assert second.block_table[:2] == first.block_table[:2]
    assert second.block_table[2] != first.block_table[2]
    assert (second.reused_blocks, second.allocated_blocks) == (2, 1)
    assert (blocks.statistics.used, blocks.statistics.reused_total, blocks.statistics.allocated_total) == (4, 2, 4)


def test_blocks_outlive_the_sequence_that_computed_them() -> None:
    blocks = BlockManager(8, SIZE)
    blocks.release(compute(blocks, [1, 2, 3, 4, 5]))
    assert (blocks.statistics.used, blocks.statistics.cached) == (0, 1)
    match = blocks.match(sequence([1, 2, 3, 4, 6]))
    assert (len(match.blocks), match.referenced) == (1, 0)


def test_equal_tokens_after_another_prefix_are_not_shared() -> None:
    blocks = BlockManager(8, SIZE)
    compute(blocks, [1, 1, 1, 1, 5, 6, 7, 8, 0])
    assert blocks.match(sequence([2, 2, 2, 2, 5, 6, 7, 8, 0])).blocks == []
    assert blocks.match(sequence([5, 6, 7, 8, 0])).blocks == []


def test_another_salt_shares_nothing() -> None:
    blocks = BlockManager(8, SIZE)
    compute(blocks, [1, 2, 3, 4, 5], salt=b"tenant a")
    assert blocks.match(sequence([1, 2, 3, 4, 5], salt=b"tenant b")).blocks == []
    assert len(blocks.match(sequence([1, 2, 3, 4, 5], salt=b"tenant a")).blocks) == 1


def test_the_last_token_of_a_known_prompt_is_computed_again_for_its_logits() -> None:
    blocks = BlockManager(8, SIZE)
    compute(blocks, [1, 2, 3, 4, 5, 6, 7, 8])
    assert len(blocks.match(sequence([1, 2, 3, 4, 5, 6, 7, 8])).blocks) == 1


def test_a_block_is_not_found_before_its_tokens_are_computed() -> None:
    blocks = BlockManager(8, SIZE)
    computing = sequence([1, 2, 3, 4, 5, 6, 7, 8, 9])
    blocks.grow(computing, 9)
    computing.computed = 6
    blocks.commit(computing)
    assert len(blocks.match(sequence([1, 2, 3, 4, 5, 6, 7, 8, 9])).blocks) == 1


def test_of_two_blocks_with_equal_tokens_the_second_stays_private() -> None:
    blocks = BlockManager(8, SIZE)
    first, second = sequence([1, 2, 3, 4, 5]), sequence([1, 2, 3, 4, 5])
    for each in (first, second):  # side by side, so neither could find the other's block
        blocks.grow(each, 5)
    for each in (first, second):
        each.computed = 5
        blocks.commit(each)
    blocks.release(second)
    assert blocks.statistics.cached == 0
    assert blocks.match(sequence([1, 2, 3, 4, 5])).blocks == [first.block_table[0]]
    blocks.check_integrity([first])


def test_eviction_takes_the_least_recently_released_and_the_deepest_block_first() -> None:
    blocks = BlockManager(4, SIZE)
    blocks.release(compute(blocks, [1] * 8))
    blocks.release(compute(blocks, [2] * 8))
    blocks.grow(sequence([3, 3, 3, 3]), 4)
    assert [len(blocks.match(sequence([token] * 9)).blocks) for token in (1, 2)] == [1, 2]
    assert blocks.statistics.evicted_total == 1


def test_a_reused_block_moves_to_the_end_of_the_eviction_order() -> None:
    blocks = BlockManager(2, SIZE)
    blocks.release(compute(blocks, [1] * 4))
    blocks.release(compute(blocks, [2] * 4))
    again = sequence([1] * 5)
    blocks.attach(again, blocks.match(again))
    blocks.release(again)
    blocks.grow(sequence([3]), 1)
    assert [len(blocks.match(sequence([token] * 5)).blocks) for token in (1, 2)] == [1, 0]


def test_free_blocks_are_used_before_cached_ones_are_evicted() -> None:
    blocks = BlockManager(3, SIZE)
    blocks.release(compute(blocks, [1] * 4))
    blocks.grow(sequence([3] * 8), 8)
    assert (blocks.statistics.cached, blocks.statistics.evicted_total, blocks.statistics.free) == (1, 0, 1)


def test_trim_gives_back_the_blocks_of_rejected_draft_tokens() -> None:
    blocks = BlockManager(4, SIZE)
    drafting = sequence([1, 2, 3])
    blocks.grow(drafting, 12)
    drafting.computed = 5
    blocks.trim(drafting)
    assert (len(drafting.block_table), blocks.available) == (2, 2)


def test_a_released_sequence_has_nothing_computed() -> None:
    blocks = BlockManager(4, SIZE)
    made = compute(blocks, [1, 2, 3, 4, 5])
    blocks.release(made)
    assert (made.computed, made.committed_blocks, len(made.block_table)) == (0, 0, 0)


@pytest.mark.parametrize(("num_blocks", "tokens_per_block"), [(0, 4), (4, 0)])
def test_an_empty_cache_is_refused(num_blocks: int, tokens_per_block: int) -> None:
    with pytest.raises(SetupError, match="at least 1"):
        BlockManager(num_blocks, tokens_per_block)


def test_integrity_check_reports_a_leaked_block() -> None:
    blocks = BlockManager(4, SIZE)
    blocks.grow(sequence([1, 2, 3]), 3)
    with pytest.raises(EngineFault, match=r"reference counts differ .*\(0, 1, 0\)"):
        blocks.check_integrity([])


def test_integrity_check_reports_a_block_that_is_held_twice_and_written_to() -> None:
    blocks = BlockManager(4, SIZE)
    first, second = compute(blocks, [1, 2, 3, 4, 5]), compute(blocks, [1, 2, 3, 4, 6])
    second.computed = 2
    second.committed_blocks = 0
    with pytest.raises(EngineFault, match="written to"):
        blocks.check_integrity([first, second])


def test_integrity_check_reports_a_hash_of_other_tokens() -> None:
    blocks = BlockManager(4, SIZE)
    made = compute(blocks, [1, 2, 3, 4, 5])
    made.prompt = np.array([9, 2, 3, 4, 5])
    with pytest.raises(EngineFault, match="hash of other tokens"):
        blocks.check_integrity([made])


def test_integrity_check_reports_a_block_in_two_places() -> None:
    blocks = BlockManager(4, SIZE)
    blocks._free.append(0)
    with pytest.raises(EngineFault, match="5 free"):
        blocks.check_integrity([])
