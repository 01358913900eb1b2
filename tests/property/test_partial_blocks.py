"""The index of partly filled blocks finds what a look at all of them finds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.scheduling.partial_blocks import PartialBlocks

TOKENS_PER_BLOCK = 8
BEFORE = st.sampled_from([b"a", b"b"])


def tokens(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 1), min_size=1, max_size=most).map(tuple)


BLOCKS = st.lists(st.tuples(BEFORE, tokens(TOKENS_PER_BLOCK - 1)), max_size=40)


@given(blocks=BLOCKS, gone=st.sets(st.integers(0, 39)), before=BEFORE, asked=tokens(TOKENS_PER_BLOCK))
@settings(max_examples=500, deadline=None)
def test_the_best_block_of_many_is_found(
    blocks: list[tuple[bytes, tuple[int, ...]]], gone: set[int], before: bytes, asked: tuple[int, ...]
) -> None:
    index = PartialBlocks(TOKENS_PER_BLOCK)
    for block, (place, known) in enumerate(blocks):
        index.add(block, place, known)
    for block in gone:
        assert index.discard(block) == (block < len(blocks))
    index.check_integrity()
    best = (0, 0)
    for block, (place, known) in enumerate(blocks):
        common = max(n for n in range(len(known) + 1) if known[:n] == asked[:n])
        if block not in gone and place == before and common and 2 * common >= len(known):
            best = max(best, (common, -len(known)))
    found = index.find(before, asked)
    assert (found is None) == (best == (0, 0))
    if found is not None:
        block, common = found
        place, known = blocks[block]
        assert block not in gone
        assert (place, known[:common]) == (before, asked[:common])
        assert (common, -len(known)) == best


@given(blocks=BLOCKS)
def test_what_is_discarded_leaves_nothing_behind(blocks: list[tuple[bytes, tuple[int, ...]]]) -> None:
    index = PartialBlocks(TOKENS_PER_BLOCK)
    for block, (place, known) in enumerate(blocks):
        index.add(block, place, known)
    assert len(index) == len(blocks)
    for block in range(len(blocks)):
        assert index.discard(block)
        index.check_integrity()
    assert not index._alike
