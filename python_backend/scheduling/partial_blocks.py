"""Cached blocks that are filled in part: what sequences leave behind their last full block.

A sequence whose next tokens begin like those of such a block can start behind what they have in common. It then
writes into the block, and memory is not copied here, so the block is taken over: it leaves the cache, and whoever
would have come back for the rest of its tokens computes them again. Hence two rules.

    A block is taken over only where at least half of its tokens are reused: no more is lost than gained. Without
    it, a conversation would lose its last tokens to any other that begins with the same words of a template.

    Full blocks are not taken over: with one, all blocks behind it would be lost too.

TensorRT-LLM (enable_partial_reuse without copy_on_partial_reuse) takes any block that nobody holds and none
continues, for whatever it has in common.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from python_backend.errors import EngineFault

Tokens = tuple[int, ...]


class PartialBlocks:
    """Which of them begin with given tokens. One entry a block.

    `add` and `discard` cost O(log n) comparisons among the blocks of equal predecessor and length, and the shift of a
    list; `find` costs O(log n) for each length that a partly filled block can have.
    """

    def __init__(self, tokens_per_block: int) -> None:
        self._tokens_per_block = tokens_per_block
        self._keys: dict[int, tuple[bytes, Tokens]] = {}  # hash of what is before the block, and its tokens
        self._alike: dict[tuple[bytes, int], list[tuple[Tokens, int]]] = {}  # by that hash and length, sorted

    def add(self, block: int, before: bytes, tokens: Tokens) -> None:
        """The block holds the KV of these tokens, which follow what `before` is the hash of."""
        assert 0 < len(tokens) < self._tokens_per_block, f"block {block} holds {len(tokens)} tokens"
        assert block not in self._keys, f"block {block} is in already"
        self._keys[block] = before, tokens
        insort(self._alike.setdefault((before, len(tokens)), []), (tokens, block))

    def discard(self, block: int) -> bool:
        """The block is taken over or evicted; False if it is not in."""
        if block not in self._keys:
            return False
        before, tokens = self._keys.pop(block)
        alike = self._alike[before, len(tokens)]
        del alike[bisect_left(alike, (tokens, block))]
        if not alike:
            del self._alike[before, len(tokens)]
        return True

    def find(self, before: bytes, tokens: Tokens) -> tuple[int, int] | None:
        """The block to take over for the tokens that follow `before`, and how many of them it holds.

        It is the one that holds most of them and, among equals, is filled least; None when no block will do.
        """
        best = None
        most = 0
        for filled in range(1, min(self._tokens_per_block - 1, 2 * len(tokens)) + 1):
            alike = self._alike.get((before, filled), [])
            at = bisect_left(alike, (tokens,))  # Nothing has more in common than a neighbour in sorted order.
            for known, block in alike[max(at - 1, 0) : at + 1]:
                common = _common_prefix(known, tokens)
                if common > most and 2 * common >= filled:
                    best, most = block, common
        return None if best is None else (best, most)

    def check_integrity(self) -> None:
        """Raises EngineFault where the index disagrees with the blocks that are in."""
        listed = {block: (key[0], tokens) for key, alike in self._alike.items() for tokens, block in alike}
        unsorted = [key for key, alike in self._alike.items() if alike != sorted(alike)]
        lengths = {(before, len(tokens)) for before, tokens in self._keys.values()}
        if listed != self._keys or unsorted or self._alike.keys() != lengths:
            raise EngineFault(
                f"{len(self._keys)} partly filled blocks and the {len(listed)} that would be found do not agree"
            )

    def __contains__(self, block: object) -> bool:
        return block in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)


def _common_prefix(one: Tokens, other: Tokens) -> int:
    """How many leading tokens are equal."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
