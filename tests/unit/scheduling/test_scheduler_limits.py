from __future__ import annotations

import numpy as np
import pytest

from python_backend.errors import InvalidRequest, Overloaded, SetupError
from python_backend.scheduling import BlockManager, Scheduler, SchedulerConfig, Sequence
from tests.unit.scheduling.simulated_engine import PAUSING, config, engine


class TestLimits:
    def scheduler(self, settings: SchedulerConfig, num_blocks: int = 16) -> Scheduler:
        return Scheduler(settings, BlockManager(num_blocks, 4))

    def request(self, prompt_tokens: int, max_new_tokens: int) -> Sequence:
        return Sequence(id="r", prompt=np.zeros(prompt_tokens, dtype=np.int64), max_new_tokens=max_new_tokens)

    def test_a_request_that_uses_the_whole_cache_is_served(self) -> None:
        one = engine(config(), num_blocks=4)
        one.add([1] * 9, 8)  # the 17th token is never fed back
        one.drain()

    def test_a_request_beyond_the_whole_cache_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"9 prompt \+ 9 new tokens need 5 KV cache blocks.* has 4 of 4"):
            self.scheduler(config(), num_blocks=4).add(self.request(9, 9), 0.0)

    def test_a_request_beyond_max_seq_len_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"60 prompt \+ 5 new tokens make 65; max_seq_len is 64"):
            self.scheduler(config(), num_blocks=99).add(self.request(60, 5), 0.0)

    def test_without_chunked_context_a_prompt_beyond_a_step_is_refused(self) -> None:
        scheduler = self.scheduler(config(tokens=8, chunked=False))
        scheduler.add(self.request(8, 8), 0.0)
        with pytest.raises(InvalidRequest, match=r"context of 9 tokens.*at most 8 \(max_num_tokens\)"):
            scheduler.add(self.request(9, 1), 0.0)

    def test_one_that_may_be_paused_must_fit_a_step_with_its_output(self) -> None:
        scheduler = self.scheduler(config(tokens=8, chunked=False, policy=PAUSING))
        scheduler.add(self.request(5, 4), 0.0)
        with pytest.raises(InvalidRequest, match="context of 9 tokens"):
            scheduler.add(self.request(5, 5), 0.0)

    def test_a_full_queue_refuses_and_leaves_no_trace(self) -> None:
        scheduler = self.scheduler(config(queue=1))
        scheduler.add(self.request(1, 1), 0.0)
        with pytest.raises(Overloaded):
            scheduler.add(self.request(1, 1), 0.0)
        assert scheduler.gauges.active == 1

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ((0, 8, 8, 0), "max_batch_size is 0"),
            ((4, 8, 1, 0), "max_seq_len is 1"),
            ((4, 8, 8, -1), "max_queue_size is -1"),
            ((9, 8, 8, 0), "Raise max_num_tokens to 9"),
        ],
    )
    def test_limits_that_cannot_work_are_refused(self, limits: tuple[int, int, int, int], message: str) -> None:
        batch, tokens, length, queue = limits
        with pytest.raises(SetupError, match=message):
            SchedulerConfig(max_batch_size=batch, max_num_tokens=tokens, max_seq_len=length, max_queue_size=queue)


class TestGauges:
    def test_they_count_requests_as_nvidia_does(self) -> None:
        one = engine(config(batch=2, tokens=8))
        one.add([1, 2], 5)
        one.step()
        one.add([1] * 9, 5)
        one.add([2], 5)
        one.step()
        gauges = one.scheduler.gauges
        assert (gauges.active, gauges.max, gauges.scheduled, gauges.waiting) == (3, 2, 2, 1)
        assert (gauges.context, gauges.generation_requests, gauges.total_context_tokens) == (1, 1, 7)
        one.drain()
        gauges = one.scheduler.gauges
        assert (gauges.active, gauges.scheduled, gauges.waiting, gauges.context) == (0, 0, 0, 0)

    def test_the_first_schedule_time_survives_a_pause(self) -> None:
        one = engine(config(policy=PAUSING), num_blocks=4)
        one.now_s = 7.0
        one.add([1] * 4, 11)
        last = one.add([2] * 4, 11)
        one.drain()
        assert one.pauses
        assert (last.arrival_s, last.first_scheduled_s) == (7.0, 7.0)
