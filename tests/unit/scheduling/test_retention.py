from __future__ import annotations

import numpy as np
import pytest

from python_backend.errors import EngineFault, InvalidRequest
from python_backend.scheduling import BlockManager, BlockRetention, KvRetention, Sequence, TokenRange
from python_backend.scheduling.retention import DEFAULT_PRIORITY
from tests.unit.scheduling.simulated_engine import config, engine

SIZE = 4


def keep(priority: int, duration_ms: int | None = None) -> KvRetention:
    """The whole prompt at that priority."""
    return KvRetention((TokenRange(0, None, BlockRetention(priority, duration_ms)),))


def serve(blocks: BlockManager, token: int, retention: KvRetention | None = None, tokens: int = 4) -> None:
    """A request with a prompt of that token, from its beginning to its end."""
    made = Sequence(id="s", prompt=np.full(tokens, token), max_new_tokens=8, retention=retention)
    blocks.attach(made, blocks.match(made))
    blocks.grow(made, made.num_tokens)
    made.computed = made.num_tokens
    blocks.commit(made)
    blocks.release(made)
    blocks.check_integrity([])


def cached(blocks: BlockManager, *tokens: int) -> list[int]:
    """Those of the tokens whose first block is found."""
    prompts = {token: Sequence(id="s", prompt=np.full(SIZE + 1, token), max_new_tokens=1) for token in tokens}
    return [token for token, prompt in prompts.items() if blocks.match(prompt).blocks]


class TestEviction:
    def test_the_lowest_priority_goes_first_and_not_the_least_recently_used(self) -> None:
        blocks = BlockManager(3, SIZE)
        serve(blocks, 1)
        serve(blocks, 2, keep(80))
        serve(blocks, 3, keep(10))
        serve(blocks, 4)
        assert cached(blocks, 1, 2, 3, 4) == [1, 2, 4]
        serve(blocks, 5)
        assert cached(blocks, 1, 2, 3, 4, 5) == [2, 4, 5]

    def test_a_priority_that_has_run_out_is_the_default(self) -> None:
        blocks = BlockManager(2, SIZE)
        blocks.advance_time(100.0)
        serve(blocks, 1, keep(80, 1000))
        serve(blocks, 2)
        blocks.advance_time(100.9999)
        serve(blocks, 3)
        assert cached(blocks, 1, 2, 3) == [1, 3]
        blocks.advance_time(101.0)
        serve(blocks, 4)
        assert cached(blocks, 1, 3, 4) == [3, 4]

    def test_a_low_priority_that_has_run_out_rises(self) -> None:
        blocks = BlockManager(2, SIZE)
        serve(blocks, 1)
        serve(blocks, 2, keep(0, 1000))
        blocks.advance_time(2.0)
        serve(blocks, 3)
        assert cached(blocks, 1, 2, 3) == [2, 3]

    def test_the_duration_begins_anew_with_each_use(self) -> None:
        blocks = BlockManager(2, SIZE)
        serve(blocks, 1, keep(80, 1000), tokens=5)
        blocks.advance_time(0.9)
        serve(blocks, 1, tokens=5)
        blocks.advance_time(1.8)
        serve(blocks, 2)
        serve(blocks, 3)
        assert cached(blocks, 1, 2, 3) == [1, 3]

    def test_the_latest_request_that_says_anything_decides(self) -> None:
        blocks = BlockManager(3, SIZE)
        serve(blocks, 1, keep(80))
        serve(blocks, 1, keep(10), tokens=5)
        serve(blocks, 2)
        serve(blocks, 3)
        serve(blocks, 4)
        assert cached(blocks, 1, 2, 3, 4) == [2, 3, 4]

    def test_a_request_that_says_nothing_changes_nothing(self) -> None:
        blocks = BlockManager(2, SIZE)
        serve(blocks, 1, keep(80))
        serve(blocks, 1, tokens=5)
        serve(blocks, 2)
        serve(blocks, 3)
        serve(blocks, 4)
        assert cached(blocks, 1, 3, 4) == [1, 4]

    def test_an_evicted_block_leaves_its_priority_behind(self) -> None:
        blocks = BlockManager(2, SIZE)
        serve(blocks, 1, keep(80))
        serve(blocks, 2, keep(90))
        serve(blocks, 3)  # in the block that held 1
        serve(blocks, 4)
        assert cached(blocks, 2, 3, 4) == [2, 4]

    def test_generated_tokens_have_the_decode_priority(self) -> None:
        blocks = BlockManager(3, SIZE)
        made = Sequence(id="s", prompt=np.full(4, 1), max_new_tokens=8, retention=KvRetention(decode=BlockRetention(5)))
        made.output += [1] * 4
        blocks.grow(made, 8)
        made.computed = 8
        blocks.commit(made)
        blocks.release(made)
        serve(blocks, 2)
        assert len(blocks.match(Sequence(id="s", prompt=np.full(9, 1), max_new_tokens=1)).blocks) == 2
        serve(blocks, 3)
        assert len(blocks.match(Sequence(id="s", prompt=np.full(9, 1), max_new_tokens=1)).blocks) == 1
        assert cached(blocks, 2, 3) == [2, 3]

    def test_time_passes_in_the_scheduler(self) -> None:
        one = engine(config(), num_blocks=2)
        one.add([1] * 4, 1, retention=keep(80, 3000))
        for token in (2, 3):
            one.add([token] * 4, 1)
            one.drain()
        assert cached(one.blocks, 1, 2, 3) == [1, 3]
        one.now_s = 100.0
        one.add([4] * 4, 1)
        one.drain()
        assert cached(one.blocks, 1, 3, 4) == [3, 4]

    def test_integrity_check_reports_a_priority_that_never_ends(self) -> None:
        blocks = BlockManager(2, SIZE)
        serve(blocks, 1, keep(80, 1000))
        blocks._cached._ends.discard(next(iter(blocks._cached)))
        with pytest.raises(EngineFault, match="do not end"):
            blocks.check_integrity([])

    def test_integrity_check_reports_a_block_at_a_priority_not_its_own(self) -> None:
        blocks = BlockManager(2, SIZE)
        serve(blocks, 1, keep(80))
        blocks._cached._retention.clear()
        with pytest.raises(EngineFault, match="other priorities"):
            blocks.check_integrity([])


class TestPins:
    def pin(self, blocks: BlockManager, token: int, tokens: int) -> int:
        return blocks.pin(Sequence(id="pin", prompt=np.full(tokens, token), max_new_tokens=1))

    def test_a_pinned_block_outlives_all_pressure_and_counts_as_used(self) -> None:
        blocks = BlockManager(3, SIZE)
        serve(blocks, 1, keep(0), tokens=5)
        assert self.pin(blocks, 1, 5) == 1
        for token in range(2, 9):
            serve(blocks, token, keep(100))
        assert cached(blocks, 1) == [1]
        assert (blocks.statistics.pinned, blocks.statistics.used, blocks.available, blocks.unpinned) == (1, 1, 2, 2)

    def test_a_block_that_holds_no_full_part_of_the_prompt_is_not_pinned(self) -> None:
        blocks = BlockManager(3, SIZE)
        serve(blocks, 1, tokens=7)
        assert self.pin(blocks, 1, 7) == 1
        serve(blocks, 2, tokens=8)
        assert self.pin(blocks, 2, 8) == 2
        assert blocks.available == 0

    def test_pinning_twice_holds_once(self) -> None:
        blocks = BlockManager(3, SIZE)
        serve(blocks, 1)
        assert (self.pin(blocks, 1, 4), self.pin(blocks, 1, 4)) == (1, 1)
        blocks.check_integrity([])

    def test_what_is_not_there_cannot_be_pinned(self) -> None:
        blocks = BlockManager(3, SIZE)
        assert self.pin(blocks, 1, 8) == 0

    def test_integrity_check_knows_pins(self) -> None:
        blocks = BlockManager(3, SIZE)
        serve(blocks, 1)
        self.pin(blocks, 1, 4)
        blocks.check_integrity([])
        blocks._pinned.clear()
        with pytest.raises(EngineFault, match="reference counts"):
            blocks.check_integrity([])


class TestBlocksOfRanges:
    """What TensorRT-LLM's own tests ask of getPerBlockRetentionPriorityDuration, among others."""

    @pytest.mark.parametrize(
        ("ranges", "size", "tokens", "priorities"),
        [
            ([(0, 64, 80), (64, 128, 50)], 64, 256, [80, 50, None, None]),
            ([(0, 63, 80), (63, 127, 30)], 32, 127, [80, 80, 30, 30]),
            ([(0, 1, 80), (1, 2, 5)], 32, 128, [80, None, None, None]),
            ([(0, 128, 80)], 256, 192, [80]),
            ([(0, 65, 80), (65, 129, 30)], 64, 192, [80, 80, 30]),
            ([(0, 64, 80), (129, None, 50)], 64, 256, [80, None, None, 50]),
            ([(127, 193, 80)], 64, 256, [None, None, 80, 80]),
            ([(1, None, 80)], 64, 128, [None, 80]),
            ([(64, None, 50), (0, 64, 80)], 64, 128, [80, 50]),
            ([], 64, 128, [None, None]),
        ],
    )
    def test_a_block_belongs_to_the_range_of_its_first_token(
        self, ranges: list[tuple[int, int | None, int]], size: int, tokens: int, priorities: list[int | None]
    ) -> None:
        retention = KvRetention(tuple(TokenRange(start, end, BlockRetention(p)) for start, end, p in ranges))
        found = [retention.of_block(first, tokens) for first in range(0, tokens, size)]
        assert [each and each.priority for each in found] == priorities

    def test_ranges_end_with_the_prompt(self) -> None:
        assert keep(80).of_block(64, 64) == BlockRetention(DEFAULT_PRIORITY)


class TestTensors:
    def test_minus_one_stands_for_no_end(self) -> None:
        made = KvRetention.of_tensors([0, 64], [64, -1], [90, 10], [-1, 500], 20, -1)
        assert made == KvRetention(
            (TokenRange(0, 64, BlockRetention(90)), TokenRange(64, None, BlockRetention(10, 500))), BlockRetention(20)
        )

    def test_all_but_the_ranges_may_be_left_out(self) -> None:
        assert KvRetention.of_tensors([0], [8], [90]) == KvRetention((TokenRange(0, 8, BlockRetention(90)),))
        assert KvRetention.of_tensors([], [], [], None, 20, 700) == KvRetention(decode=BlockRetention(20, 700))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([0], [8, 9], [50]), r"retention_token_range_ends has 2 values.*_starts 1; send one"),
            (([0], [8], []), "retention_token_range_priorities has 0 values"),
            (([0], [8], [50], [1, 2]), "retention_token_range_durations_ms has 2 values"),
            (([0], [8], [101]), r"priority is 101; it must lie between 0 .* and 100"),
            (([0], [8], [50], None, -1), "priority is -1"),
            (([0], [8], [50], [-2]), r"duration is -2 ms; it must be at least 0"),
            (([8], [8], [50]), r"\[8, 8\) holds no token"),
            (([-1], [8], [50]), r"\[-1, 8\) holds no token"),
            (([0, 4], [5, 8], [50, 50]), r"\[0, 5\) and \[4, 8\) overlap.*End the first at 4"),
            (([4, 0], [8, -1], [50, 50]), r"\[0, end of prompt\) and \[4, 8\) overlap"),
        ],
    )
    def test_what_makes_no_sense_is_refused_with_its_figures(
        self, arguments: tuple[list[int], list[int], list[int]], message: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=message):
            KvRetention.of_tensors(*arguments)
