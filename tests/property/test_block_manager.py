"""The block manager behaves like one that knows no hashes and searches lists of whole prefixes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from python_backend.scheduling import BlockManager, BlockRetention, KvRetention, Sequence, TokenRange

Prefix = tuple[bytes, tuple[int, ...]]
DEFAULT = BlockRetention()

# Few different values, so that priorities are often equal; whole seconds, so that sums of them are exact.
BLOCK_RETENTIONS = st.builds(BlockRetention, st.sampled_from([80, 0, 35]), st.sampled_from([2000, 5000, 0, None]))

PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=12)
SALTS = st.sampled_from([b"", b"", b"salt"])


@st.composite
def retentions(draw: st.DrawFn) -> KvRetention | None:
    if draw(st.integers(0, 2)) == 2:
        return None
    borders = draw(st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=3).map(sorted))
    ends = [*borders[1:], draw(st.sampled_from([None, 10]))]
    # Some leave a hole between them.
    ranges = [
        TokenRange(start, end, draw(BLOCK_RETENTIONS))
        for index, (start, end) in enumerate(zip(borders, ends, strict=True))
        if index % 2 == 0 or draw(st.booleans())
    ]
    return KvRetention(tuple(ranges), draw(BLOCK_RETENTIONS))


@dataclass(eq=False)
class NaiveBlock:
    holders: int = 1
    pinned: bool = False
    private: bool = False  #: computed when another block was found for its tokens: never offered
    offered: Prefix | None = None  #: all tokens up to the last one in this block, once it may be found
    retention: BlockRetention = DEFAULT
    since_s: int = 0  #: when its duration began

    def age(self, now_s: int) -> None:
        duration_ms = self.retention.duration_ms
        if duration_ms is not None and now_s - self.since_s >= duration_ms / 1000:
            self.retention = DEFAULT


@dataclass
class NaiveManager:
    num_blocks: int
    size: int
    partial_reuse: bool
    cached: list[NaiveBlock] = field(default_factory=list)  #: least recently used first
    pinned: list[NaiveBlock] = field(default_factory=list)
    tables: dict[Sequence, list[NaiveBlock]] = field(default_factory=dict)
    evicted: int = 0
    now_s: int = 0

    @property
    def held(self) -> list[NaiveBlock]:
        tables = [self.pinned, *self.tables.values()]
        return list({id(block): block for table in tables for block in table}.values())

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

    def match_partial(self, sequence: Sequence) -> tuple[int, list[NaiveBlock]]:
        """How many tokens behind the full blocks are found, and the blocks that are as good as any for that."""
        known = sequence.prompt.tolist() + sequence.output
        start = len(self.match(sequence)) * self.size
        found = []
        for block in self.cached:
            assert block.offered is not None
            salt, tokens = block.offered
            filled = len(tokens) - start
            if salt == sequence.cache_salt and list(tokens[:start]) == known[:start] and 0 < filled < self.size:
                pairs = zip(known[start:-1], tokens[start:], strict=False)
                common = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
                if common and 2 * common >= filled:
                    found.append((common, -filled, block))
        most = max((each[:2] for each in found), default=(0, 0))
        return most[0], [block for *key, block in found if tuple(key) == most]

    def attach(self, sequence: Sequence, partial: NaiveBlock | None) -> None:
        """Start with the full blocks that are found, and behind them with that partly filled one."""
        found = self.match(sequence)
        if partial is not None:
            partial.offered = None
            found.append(partial)
        self.cached = [block for block in self.cached if block not in found]
        for index, block in enumerate(found):
            block.holders += 1
            self.retain(block, sequence, index)
        self.tables[sequence] = found

    def grow(self, sequence: Sequence, blocks: int) -> None:
        while len(self.tables[sequence]) < blocks:
            if len(self.held) + len(self.cached) == self.num_blocks:
                self.cached.remove(min(self.cached, key=lambda block: block.retention.priority))
                self.evicted += 1
            self.tables[sequence].append(NaiveBlock())

    def commit(self, sequence: Sequence) -> None:
        for index in range(sequence.computed // self.size):
            block, prefix = self.tables[sequence][index], self.prefix(sequence, index)
            if block.offered is None and not block.private:
                block.private = self.find(prefix) is not None
                block.offered = None if block.private else prefix
                known = self.find(prefix)
                assert known is not None
                self.retain(known, sequence, index)

    def retain(self, block: NaiveBlock, sequence: Sequence, index: int) -> None:
        token, prompt = index * self.size, sequence.prompt_tokens
        if sequence.retention is None:
            return
        wishes = [
            each.retention
            for each in sequence.retention.ranges
            if token < prompt and token in range(each.start, prompt if each.end is None else each.end)
        ]
        if token >= prompt:
            wishes = [sequence.retention.decode]
        for wish in wishes:
            block.retention, block.since_s = wish, self.now_s

    def pin(self, sequence: Sequence) -> int:
        count = 0
        for index in range(sequence.prompt_tokens // self.size):
            block = self.find(self.prefix(sequence, index))
            if block is None:
                break
            if block not in self.pinned:
                self.pinned.append(block)
                block.holders += 1
            if block in self.cached:
                self.cached.remove(block)
            count += 1
        return count

    def pass_time(self, seconds: int) -> None:
        self.now_s += seconds
        for block in self.cached:
            block.age(self.now_s)

    def release(self, sequence: Sequence) -> None:
        index, filled = divmod(sequence.computed, self.size)
        if filled and self.partial_reuse:
            tokens = sequence.prompt.tolist() + sequence.output
            block = self.tables[sequence][index]
            block.offered = sequence.cache_salt, tuple(tokens[: sequence.computed])
            self.retain(block, sequence, index)
        self.cut(sequence, 0)
        del self.tables[sequence]

    def cut(self, sequence: Sequence, keep: int) -> None:
        while len(self.tables[sequence]) > keep:
            block = self.tables[sequence].pop()
            block.holders -= 1
            if block.holders == 0 and block.offered:
                block.since_s = self.now_s
                self.cached.append(block)


class Blocks(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(1, 10),
        tokens_per_block=st.integers(1, 5),
        partial_reuse=st.sampled_from([True, True, True, False]),
    )
    def start(self, num_blocks: int, tokens_per_block: int, partial_reuse: bool) -> None:
        self.manager = BlockManager(num_blocks, tokens_per_block, enable_partial_reuse=partial_reuse)
        self.naive = NaiveManager(num_blocks, tokens_per_block, partial_reuse)
        self.twins: dict[int, NaiveBlock] = {}  # of all blocks that were in a table, as they were last in one

    @rule(prompt=PROMPTS, salt=SALTS, retention=retentions())
    def begin(self, prompt: list[int], salt: bytes, retention: KvRetention | None) -> None:
        self.start_one(prompt, salt, retention)

    def start_one(self, prompt: list[int], salt: bytes, retention: KvRetention | None) -> Sequence:
        sequence = Sequence(id="s", prompt=np.array(prompt), max_new_tokens=99, cache_salt=salt, retention=retention)
        self.attach(sequence)
        return sequence

    def attach(self, sequence: Sequence) -> None:
        """Start, or go on after a pause, with what is in the cache."""
        reused = sequence.reused_blocks, sequence.reused_tokens
        match, full = self.manager.match(sequence), self.naive.match(sequence)
        tokens, best = self.naive.match_partial(sequence)
        assert match.tokens == len(full) * self.naive.size + tokens < sequence.num_tokens
        assert len(match.blocks) == len(full) + (tokens > 0)
        assert match.referenced == sum(block.holders > 0 for block in full)
        assert [self.twins[block] for block in match.blocks[: len(full)]] == full
        partial = self.twins[match.blocks[-1]] if tokens else None
        assert partial is None or partial in best
        self.manager.attach(sequence, match)
        self.naive.attach(sequence, partial)
        assert sequence.computed == match.tokens
        assert (sequence.reused_blocks - reused[0], sequence.reused_tokens - reused[1]) == (
            len(match.blocks),
            match.tokens,
        )

    @rule(prompt=PROMPTS, salt=SALTS, retention=retentions(), seconds=st.integers(0, 3))
    def visit(self, prompt: list[int], salt: bytes, retention: KvRetention | None, seconds: int) -> None:
        """A whole request, as far as there is room for it: what fills the cache and evicts."""
        sequence = self.start_one(prompt, salt, retention)
        self.compute_some(sequence, len(prompt), 0)
        self.end(sequence)
        self.pass_time(seconds)

    @rule(which=st.integers(0, 9), tokens=st.integers(1, 9), guesses=st.integers(0, 4))
    def compute(self, which: int, tokens: int, guesses: int) -> None:
        """Compute some known tokens and draft tokens behind them, none of which is accepted."""
        sequence = self.pick(which)
        if sequence is not None:
            self.compute_some(sequence, tokens, guesses)

    def compute_some(self, sequence: Sequence, tokens: int, guesses: int) -> None:
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
        self.twins.update(zip(sequence.block_table, self.naive.tables[sequence], strict=True))

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
        self.end(sequence)
        if pause:  # and resume at once
            self.attach(sequence)

    @rule(which=st.integers(0, 9), tokens=st.integers(1, 9))
    def cancel_in_step(self, which: int, tokens: int) -> None:
        """It has blocks for tokens that were to be computed and were not."""
        sequence = self.pick(which)
        if sequence is not None:
            blocks = self.manager.blocks_for(sequence.computed + tokens)
            if blocks - len(sequence.block_table) <= self.manager.available:
                self.manager.grow(sequence, sequence.computed + tokens)
                self.naive.grow(sequence, blocks)
            self.end(sequence)

    def end(self, sequence: Sequence) -> None:
        self.twins.update(zip(sequence.block_table, self.naive.tables[sequence], strict=True))
        self.naive.release(sequence)
        self.manager.release(sequence)

    @rule(seconds=st.integers(0, 3))
    def pass_time(self, seconds: int) -> None:
        self.naive.pass_time(seconds)
        self.manager.advance_time(float(self.naive.now_s))

    @rule(which=st.integers(0, 9))
    def pin(self, which: int) -> None:
        sequence = self.pick(which)
        if sequence is not None and len(self.naive.pinned) < 3:
            assert self.manager.pin(sequence) == self.naive.pin(sequence)

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
        assert statistics.pinned == len(self.naive.pinned)
        assert statistics.evicted_total == self.naive.evicted
        twin: dict[int, NaiveBlock] = {}
        for sequence, table in self.naive.tables.items():
            assert len(sequence.block_table) == len(table)
            for block, naive in zip(sequence.block_table, table, strict=True):
                assert twin.setdefault(block, naive) is naive
        assert statistics.used == len(self.naive.held)
        for kept in self.naive.pinned + self.naive.cached:
            assert kept.offered is not None
            self.find_again(kept.offered)

    def find_again(self, prefix: Prefix) -> None:
        """Whatever else was evicted, a prompt that begins so is found up to where the oracle finds it."""
        salt, tokens = prefix
        reader = Sequence(id="reader", prompt=np.array([*tokens, 9]), max_new_tokens=1, cache_salt=salt)
        full, partial = self.naive.match(reader), self.naive.match_partial(reader)
        assert self.manager.match(reader).tokens == len(full) * self.naive.size + partial[0]


Blocks.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBlocks = Blocks.TestCase
