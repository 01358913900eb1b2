"""The blocks of the KV cache: who holds which, and which hold something worth keeping.

It knows block numbers and tokens, not the memory behind them. A block is always in one of three places:

    free        nothing of value in it
    cached      nobody holds it, but its tokens are known: reusable, or evicted when no free block is left
    referenced  in the block table of one or more sequences, or pinned

Only full blocks whose KV has been computed are ever shared, and nobody writes to those. A block is found by
its hash (block_hash.py). The last block of a sequence, filled in part, is cached too once it is let go, for one other
sequence to go on in it (partial_blocks.py). Which cached block is evicted first is eviction_order.py's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from python_backend.errors import EngineFault, SetupError
from python_backend.scheduling.block_hash import block_hash, hash_before
from python_backend.scheduling.eviction_order import EvictionOrder
from python_backend.scheduling.partial_blocks import PartialBlocks
from python_backend.scheduling.sequence import Sequence


class Match(NamedTuple):
    """Blocks that hold the leading tokens of a sequence already. Valid until the block manager changes."""

    blocks: list[int]  #: the last one may be filled in part
    referenced: int  #: how many of them somebody holds; the others count as available until attached
    tokens: int  #: how many of the sequence's tokens they hold


@dataclass(frozen=True, slots=True)
class BlockStatistics:
    """Block counts now, and cumulative counts since the start."""

    max: int
    free: int  #: allocatable: free or cached
    used: int
    tokens_per: int
    cached: int
    pinned: int  #: of those used: kept for good, whether or not a sequence holds them
    reused_total: int  #: also those of which some tokens were reused, as TensorRT-LLM counts
    allocated_total: int
    evicted_total: int


class BlockManager:
    """Hands out the blocks of a KV cache of fixed size. Operations cost O(log blocks) for each block they touch.

    With `enable_partial_reuse`, `release` also offers the last block of the sequence, as far as it is computed.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int, *, enable_partial_reuse: bool = False) -> None:
        if num_blocks < 1 or tokens_per_block < 1:
            raise SetupError(
                f"a KV cache of {num_blocks} blocks of {tokens_per_block} tokens was asked for; "
                "both must be at least 1."
            )
        self.num_blocks = num_blocks
        self.tokens_per_block = tokens_per_block
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached = EvictionOrder()
        self._partial = PartialBlocks(tokens_per_block)  # those cached that are not full
        self._enable_partial_reuse = enable_partial_reuse
        self._pinned: set[int] = set()  # a pin is one reference that nobody gives back
        self._references = [0] * num_blocks
        self._block_of_hash: dict[bytes, int] = {}
        self._hash_of_block: dict[int, bytes] = {}
        self._reused_total = self._allocated_total = self._evicted_total = 0

    @property
    def available(self) -> int:
        """How many blocks `grow` could hand out now."""
        return len(self._free) + len(self._cached)

    @property
    def statistics(self) -> BlockStatistics:
        return BlockStatistics(
            max=self.num_blocks,
            free=self.available,
            used=self.num_blocks - self.available,
            tokens_per=self.tokens_per_block,
            cached=len(self._cached),
            pinned=len(self._pinned),
            reused_total=self._reused_total,
            allocated_total=self._allocated_total,
            evicted_total=self._evicted_total,
        )

    @property
    def unpinned(self) -> int:
        """How many blocks are there for sequences to come and go."""
        return self.num_blocks - len(self._pinned)

    def advance_time(self, now_s: float) -> None:
        """Time goes on: retention priorities whose duration is over fall back to the default."""
        self._cached.advance(now_s)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold that many tokens."""
        return -(-tokens // self.tokens_per_block)

    def match(self, sequence: Sequence) -> Match:
        """The longest run of blocks that already hold the sequence's leading tokens. Changes nothing.

        At least one token is left to compute, since its logits are needed.
        """
        blocks: list[int] = []
        referenced = 0
        most = sequence.num_tokens - 1
        for index in range(most // self.tokens_per_block):
            block = self._find(sequence, index)
            if block is None:
                break
            blocks.append(block)
            referenced += self._references[block] > 0
        tokens = len(blocks) * self.tokens_per_block
        following = tuple(sequence.tokens(tokens, min(tokens + self.tokens_per_block, most)).tolist())
        partial = self._partial.find(hash_before(sequence, len(blocks), self.tokens_per_block), following)
        if partial is None:
            return Match(blocks, referenced, tokens)
        return Match([*blocks, partial[0]], referenced, tokens + partial[1])

    def attach(self, sequence: Sequence, match: Match) -> None:
        """Start the empty block table with the matched blocks; their tokens count as computed."""
        assert not sequence.block_table, f"{sequence} holds blocks already"
        for index, block in enumerate(match.blocks):
            self._hold(block)
            self._retain(block, sequence, index)
        sequence.block_table.extend(match.blocks)
        sequence.committed_blocks = match.tokens // self.tokens_per_block
        sequence.computed = match.tokens
        sequence.reused_blocks += len(match.blocks)
        sequence.reused_tokens += match.tokens
        self._reused_total += len(match.blocks)

    def grow(self, sequence: Sequence, tokens: int) -> None:
        """Extend the block table to hold that many tokens. The caller has seen that enough is available."""
        missing = self.blocks_for(tokens) - len(sequence.block_table)
        if missing <= 0:
            return
        assert missing <= self.available, f"{sequence} needs {missing} blocks; {self.available} are available"
        for _ in range(missing):
            sequence.block_table.append(self._take())
        sequence.allocated_blocks += missing
        self._allocated_total += missing

    def commit(self, sequence: Sequence) -> None:
        """Offer for reuse every full block whose KV has been computed by now.

        Of two blocks with the same content the first stays the one that is found; the other stays private.
        """
        for index in range(sequence.committed_blocks, sequence.computed // self.tokens_per_block):
            digest = block_hash(sequence, index, self.tokens_per_block)
            block = self._block_of_hash.setdefault(digest, sequence.block_table[index])
            if block == sequence.block_table[index]:
                self._hash_of_block[block] = digest
            self._retain(block, sequence, index)
            sequence.committed_blocks = index + 1

    def pin(self, sequence: Sequence) -> int:
        """Keep for good the full blocks of the sequence's prompt, as far as they are found; returns how many.

        Tokens of the prompt behind its last full block are not kept.
        """
        for index in range(sequence.prompt_tokens // self.tokens_per_block):
            block = self._find(sequence, index)
            if block is None:
                return index
            if block not in self._pinned:
                self._hold(block)
                self._pinned.add(block)
        return sequence.prompt_tokens // self.tokens_per_block

    def pinned_prefix(self, sequence: Sequence) -> int:
        """How many pinned blocks the sequence will start with, whenever it starts."""
        return sum(block in self._pinned for block in self.match(sequence).blocks)

    def trim(self, sequence: Sequence) -> None:
        """Give back the blocks beyond the computed tokens (those of rejected draft tokens)."""
        keep = self.blocks_for(sequence.computed)
        while len(sequence.block_table) > keep:
            self._drop(sequence.block_table.pop())

    def release(self, sequence: Sequence) -> None:
        """Give back all blocks. Offered ones stay reusable until evicted, deep ones before shallow ones.

        With `enable_partial_reuse`, the block that it has filled in part is offered now: the tokens below `computed`
        have to be final, and their KV right.
        """
        if self._enable_partial_reuse:
            self._offer_partial(sequence)
        for block in reversed(sequence.block_table):
            self._drop(block)
        del sequence.block_table[:]
        sequence.computed = sequence.committed_blocks = 0

    def check_integrity(self, live: Iterable[Sequence]) -> None:
        """Recompute all bookkeeping from the block tables of the live sequences.

        Raises EngineFault, with figures, where it differs from what is kept.
        """
        sequences = list(live)
        held = Counter(block for s in sequences for block in s.block_table)
        held.update(self._pinned)
        self._check_partition(held)
        self._partial.check_integrity()
        self._cached.check_integrity(self._free)
        for sequence in sequences:
            self._check_table(sequence)

    def _find(self, sequence: Sequence, index: int) -> int | None:
        return self._block_of_hash.get(block_hash(sequence, index, self.tokens_per_block))

    def _offer_partial(self, sequence: Sequence) -> None:
        index, filled = divmod(sequence.computed, self.tokens_per_block)
        if filled:
            block = sequence.block_table[index]
            before = hash_before(sequence, index, self.tokens_per_block)
            tokens = sequence.tokens(sequence.computed - filled, sequence.computed)
            self._partial.add(block, before, tuple(tokens.tolist()))
            self._retain(block, sequence, index)

    def _retain(self, block: int, sequence: Sequence, index: int) -> None:
        if sequence.retention is None:
            return
        retention = sequence.retention.of_block(index * self.tokens_per_block, sequence.prompt_tokens)
        if retention is not None:
            self._cached.retain(block, retention)

    def _hold(self, block: int) -> None:
        if self._references[block] == 0:
            self._cached.remove(block)
            self._partial.discard(block)
        self._references[block] += 1

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block = self._cached.pop()
            if not self._partial.discard(block):
                del self._block_of_hash[self._hash_of_block.pop(block)]
            self._evicted_total += 1
        self._references[block] = 1
        return block

    def _drop(self, block: int) -> None:
        self._references[block] -= 1
        if self._references[block] == 0:
            if block in self._hash_of_block or block in self._partial:
                self._cached.add(block)
            else:
                self._cached.forget(block)
                self._free.append(block)

    def _check_partition(self, held: Counter[int]) -> None:
        if self._references != [held[block] for block in range(self.num_blocks)]:
            wrong = [(b, n, held[b]) for b, n in enumerate(self._references) if n != held[b]]
            raise EngineFault(f"reference counts differ from block tables (block, kept, counted): {wrong}")
        places = Counter([*self._free, *self._cached, *held.keys()])
        if places != Counter(range(self.num_blocks)):
            raise EngineFault(
                f"{len(self._free)} free + {len(self._cached)} cached + {len(held)} referenced blocks "
                f"are not each of the {self.num_blocks} blocks once"
            )
        if {block: digest for digest, block in self._block_of_hash.items()} != self._hash_of_block:
            raise EngineFault(
                f"{len(self._block_of_hash)} hashes and {len(self._hash_of_block)} hashed blocks do not agree"
            )
        hashed, partial = self._hash_of_block.keys(), set(self._partial)
        kept = self._pinned.union(self._cached)
        if kept - hashed != partial or not hashed.isdisjoint(self._free):
            raise EngineFault(
                f"cached or pinned blocks without hash: {sorted(kept - hashed)}, partly filled: {sorted(partial)}; "
                f"free blocks with hash: {sorted(hashed & set(self._free))}"
            )

    def _check_table(self, sequence: Sequence) -> None:
        table, full = sequence.block_table, sequence.computed // self.tokens_per_block
        if len(table) < self.blocks_for(sequence.computed) or len(set(table)) != len(table):
            raise EngineFault(f"block table {table.tolist()} cannot hold the computed tokens of {sequence}")
        if not sequence.committed_blocks <= full:
            raise EngineFault(f"{sequence} offers {sequence.committed_blocks} blocks, {full} are computed")
        fresh = Sequence(
            id=sequence.id,
            prompt=sequence.prompt,
            max_new_tokens=1,
            output=sequence.output,
            cache_salt=sequence.cache_salt,
        )
        for index, block in enumerate(table):
            digest = self._hash_of_block.get(block)
            if index < full and digest not in (None, block_hash(fresh, index, self.tokens_per_block)):
                raise EngineFault(f"block {block} at {index} of {sequence} has the hash of other tokens")
            if index >= full and (digest is not None or self._references[block] != 1):
                raise EngineFault(
                    f"block {block} at {index} of {sequence} is written to, but hashed or held by "
                    f"{self._references[block]} sequences"
                )
