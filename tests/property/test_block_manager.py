"""The block manager behaves like one that knows no hashes and searches lists of whole prefixes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from python_backend.scheduling import BlockManager, Sequence

Prefix = tuple[bytes, tuple[int, ...]]


@dataclass(eq=False)
class NaiveBlock:
    holders: int = 1
    private: bool = False  #: computed when another block was found for its tokens: never offered
    offered: Prefix | None = None  #: all tokens up to the end of this block, once it may be found


@dataclass
class NaiveManager:
    num_blocks: int
    size: int
    cached: list[NaiveBlock] = field(default_factory=list)  #: oldest first
    tables: dict[Sequence, list[NaiveBlock]] = field(default_factory=dict)
    evicted: int = 0

    @property
    def held(self) -> list[NaiveBlock]:
        return list({id(block): block for table in self.tables.values() for block in table}.values())

    @property
    def available(self) -> int:
        return self.num_blocks - len(self.held)

    def prefix(self, sequence: Sequence, index: int) -> Prefix:
        tokens = sequence.prompt.tolist() + sequence.output
        return sequence.cache_salt, tuple(tokens[: (index + 1) * self.size])

    def find(self, prefix: Prefix) -> NaiveBlock | None:
        return next((block for block in self.held + self.cached if block.offered == prefix), None)

    def match(self, sequence: Sequence) -> list[NaiveBlock]:
        found = []
        for index in range((sequence.num_tokens - 1) // self.size):
            block = self.find(self.prefix(sequence, index))
            if block is None:
                break
            found.append(block)
        return found

    def attach(self, sequence: Sequence) -> None:
        found = self.match(sequence)
        self.cached = [block for block in self.cached if block not in found]
        for block in found:
            block.holders += 1
        self.tables[sequence] = found

    def grow(self, sequence: Sequence, blocks: int) -> None:
        while len(self.tables[sequence]) < blocks:
            if len(self.held) + len(self.cached) == self.num_blocks:
                self.cached.pop(0)
                self.evicted += 1
            self.tables[sequence].append(NaiveBlock())

    def commit(self, sequence: Sequence) -> None:
        for index in range(sequence.computed // self.size):
            block, prefix = self.tables[sequence][index], self.prefix(sequence, index)
            if block.offered is None and not block.private:
                block.private = self.find(prefix) is not None
                block.offered = None if block.private else prefix

    def cut(self, sequence: Sequence, keep: int) -> None:
        while len(self.tables[sequence]) > keep:
            block = self.tables[sequence].pop()
            block.holders -= 1
            if block.holders == 0 and block.offered:
                self.cached.append(block)


class Blocks(RuleBasedStateMachine):
    @initialize(num_blocks=st.integers(1, 10), tokens_per_block=st.integers(1, 3))
    def start(self, num_blocks: int, tokens_per_block: int) -> None:
        self.manager = BlockManager(num_blocks, tokens_per_block)
        self.naive = NaiveManager(num_blocks, tokens_per_block)

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12), salt=st.sampled_from([b"", b"", b"salt"]))
    def begin(self, prompt: list[int], salt: bytes) -> None:
        sequence = Sequence(id="s", prompt=np.array(prompt), max_new_tokens=99, cache_salt=salt)
        match, expected = self.manager.match(sequence), self.naive.match(sequence)
        assert len(match.blocks) == len(expected)
        assert match.referenced == sum(block.holders > 0 for block in expected)
        self.manager.attach(sequence, match)
        self.naive.attach(sequence)
        assert sequence.computed == len(expected) * self.manager.tokens_per_block < sequence.num_tokens

    @rule(which=st.integers(0, 9), tokens=st.integers(1, 9), guesses=st.integers(0, 4))
    def compute(self, which: int, tokens: int, guesses: int) -> None:
        """Compute some known tokens and draft tokens behind them, none of which is accepted."""
        sequence = self.pick(which)
        if sequence is None:
            return
        computed = min(sequence.computed + tokens, sequence.num_tokens)
        blocks = self.manager.blocks_for(computed + guesses)
        if blocks - len(sequence.block_table) > self.manager.available:
            return
        self.manager.grow(sequence, computed + guesses)
        self.naive.grow(sequence, blocks)
        self.manager.check_integrity(self.naive.tables)
        sequence.computed = computed
        self.manager.commit(sequence)
        self.naive.commit(sequence)
        self.manager.trim(sequence)
        self.naive.cut(sequence, self.manager.blocks_for(computed))

    @rule(which=st.integers(0, 9), tokens=st.lists(st.integers(0, 1), max_size=4))
    def generate(self, which: int, tokens: list[int]) -> None:
        sequence = self.pick(which)
        if sequence is not None:
            sequence.output += tokens

    @rule(which=st.integers(0, 9), pause=st.booleans())
    def release(self, which: int, pause: bool) -> None:
        sequence = self.pick(which)
        if sequence is None:
            return
        self.manager.release(sequence)
        self.naive.cut(sequence, 0)
        del self.naive.tables[sequence]
        if pause:  # and resume at once
            self.manager.attach(sequence, self.manager.match(sequence))
            self.naive.attach(sequence)

    def pick(self, which: int) -> Sequence | None:
        live = list(self.naive.tables)
        return live[which % len(live)] if live else None

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "manager"):
            return
        self.manager.check_integrity(self.naive.tables)
        statistics = self.manager.statistics
        assert statistics.free == self.manager.available == self.naive.available
        assert statistics.cached == len(self.naive.cached)
        assert statistics.evicted_total == self.naive.evicted
        twin: dict[int, NaiveBlock] = {}
        for sequence, table in self.naive.tables.items():
            assert len(sequence.block_table) == len(table)
            for block, naive in zip(sequence.block_table, table, strict=True):
                assert twin.setdefault(block, naive) is naive
        assert len(twin) == len(self.naive.held) == statistics.used


Blocks.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBlocks = Blocks.TestCase
