"""Inputs whose effect shows between requests: who runs first, who is refused, what is stopped, which blocks are kept.

The server runs one sequence at a time, lets a tenant have two waiting requests, and has 32 blocks of 32 tokens.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np

from python_backend.contract import TENSORRT_LLM
from tests.integration.conformance import Door, own_words
from tests.integration.triton_api import Answer, Tensors, token_request, wait_for_metric

SETTINGS = {
    "execution_mode": "exact",
    "max_running_sequences": "1",
    "max_queue_size_per_tenant": "2",
    "max_tokens_in_paged_kv_cache": "1024",
    "stats_check_period_ms": "10",
}
BLOCK = 32


def the_urgent_one_overtakes(door: Door) -> None:
    answers, errors = door.wire.burst(
        _occupant(door),
        door.model,
        {"patient": _asks(door, 5, tenant="a", priority=0.1), "urgent": _asks(door, 5, tenant="a", priority=1.0)},
    )
    assert errors == []
    assert _in_turn(answers) == ["first", "urgent", "patient"]


def one_tenant_fills_its_own_queue_only(door: Door) -> None:
    tenants = {"a 1": "a", "a 2": "a", "a 3": "a", "b": "b"}
    answers, errors = door.wire.burst(
        _occupant(door), door.model, {name: _asks(door, 5, tenant=tenant) for name, tenant in tenants.items()}
    )
    assert [own_words(error, door.model.name) for error in errors] == [
        '2 requests of tenant "a" are waiting; max_queue_size_per_tenant is 2. '
        "Try again later, or raise max_queue_size_per_tenant."
    ]
    assert [name[0] for name in _in_turn(answers)] in (["f", "a", "b", "a"], ["f", "b", "a", "a"])


def stop_ends_the_request_of_the_same_id(door: Door) -> None:
    answers: list[Answer] = []
    long = _asks(door, 900, streaming=True)
    thread = threading.Thread(target=lambda: answers.append(door.wire.ask(door.model, long, "stopped")))
    thread.start()
    wait_for_metric(door.wire.server, 1, "nv_trt_llm_request_metrics", request_type="active")
    stop = door.ask(request_id="stopped", stop=True)
    thread.join()
    assert (stop.error, stop.responses) == (None, [])
    (answer,) = answers
    assert all("finish_reason" not in response for response in answer.responses)
    assert (answer.error, len(answer.ids) < 900) == (None, True)


def _occupant(door: Door) -> Tensors:
    """Has the only place in the batch for a while, straight from the engine."""
    return _asks(replace(door, model=TENSORRT_LLM), 900, tenant="first", streaming=True)


def _asks(door: Door, length: int, **inputs: Any) -> Tensors:
    """An answer of exactly that length."""
    return door.tensors("quartz vow", length, min_tokens=length, return_perf_metrics=True, **inputs)


def _in_turn(answers: dict[str, Answer]) -> list[str]:
    """Who ran first."""
    at = {name: answer.responses[-1]["first_scheduled_time_ns"].item() for name, answer in answers.items()}
    return sorted(at, key=at.__getitem__)


class Blocks:
    """Prompts that no other test has, and how much of one is still in the KV cache."""

    def __init__(self, door: Door, seed: int) -> None:
        self._door = door
        self._random = np.random.default_rng(seed)

    def prompt(self, blocks: int) -> list[int]:
        return [int(token) for token in self._random.integers(3, 250, blocks * BLOCK)]

    def ask(self, prompt: list[int], length: int = 1, **retention: Any) -> Answer:
        tensors = token_request(prompt, length, return_perf_metrics=True)
        typed = {name: np.array([value], np.int32) for name, value in retention.items()}
        answer = self._door.wire.ask(self._door.model, tensors | typed)
        assert answer.error is None, answer.error
        return answer

    def press(self) -> None:
        """Use 30 of the 32 blocks: of what was there before, most must go."""
        self.ask(self.prompt(10))
        self.ask(self.prompt(20))

    def left_of(self, prompt: list[int]) -> int:
        """Blocks of the prompt that need not be computed again, before one more token."""
        return int(self.ask([*prompt, 7]).responses[0]["kv_cache_reused_blocks"].item())


def ranges(*spans: tuple[int, int, int, int]) -> dict[str, Any]:
    """Start, end, priority and duration in ms of each."""
    names = ("starts", "ends", "priorities", "durations_ms")
    return {
        f"retention_token_range_{name}": list(column)
        for name, column in zip(names, zip(*spans, strict=True), strict=True)
    }


def blocks_are_kept_as_asked(door: Door) -> None:
    """Of a prompt of 10 blocks. Each experiment outranks what the ones before it have left in the cache."""
    blocks = Blocks(door, seed=0)
    kept: dict[str, dict[str, Any]] = {
        "said nothing": {},
        "all": ranges((0, -1, 41, -1)),
        "first half": ranges((0, 5 * BLOCK, 42, -1)),
        "second half": ranges((5 * BLOCK, -1, 43, -1)),
        "not for long": ranges((0, -1, 44, 0)),
    }
    left = {}
    for name, retention in kept.items():
        prompt = blocks.prompt(10)
        blocks.ask(prompt, **retention)
        blocks.press()
        left[name] = blocks.left_of(prompt)
    assert (left["all"], left["first half"], left["second half"]) == (10, 5, 0)
    assert max(left["said nothing"], left["not for long"]) <= 2, "what 30 of 32 blocks leave room for"


def generated_blocks_are_kept_as_asked(door: Door) -> None:
    blocks = Blocks(door, seed=1)
    kept: dict[str, dict[str, Any]] = {
        "said nothing": {},
        "always": {"retention_decode_priority": [60]},
        "not for long": {"retention_decode_priority": [61], "retention_decode_duration_ms": [0]},
    }
    left = {}
    for name, decode in kept.items():
        prompt = blocks.prompt(2)
        answer = blocks.ask(prompt, 8 * BLOCK, **(decode | ranges((0, -1, 70, -1))))
        blocks.press()
        left[name] = blocks.left_of(prompt + answer.ids)
    # The last token generated was never computed, so the last block is not full.
    assert left == {"said nothing": 2, "always": 10, "not for long": 2}
