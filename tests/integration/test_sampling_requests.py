"""Choices that are none, and several sequences of one prompt. What each tensor does: test_conformance.py."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import (
    post,
    server_sent_events,
    stream,
    token_request,
    wait_until_idle,
)

pytestmark = pytest.mark.server

PROMPT = [5, 80, 31, 7, 120, 44]


def tokens(server: TritonServer, max_tokens: int = 24, **extra: Any) -> list[int]:
    answer = stream(server, "tensorrt_llm", token_request(PROMPT, max_tokens, **extra))
    assert answer.error is None, answer.error
    return answer.ids


@pytest.mark.parametrize(
    "extra",
    [
        {"runtime_top_k": np.int32(1), "temperature": np.float32(3)},
        {"runtime_top_k": np.int32(50), "temperature": np.float32(0)},
        {"runtime_top_p": np.float32(1e-6)},
        {"runtime_top_p": np.float32(0), "runtime_top_p_min": np.float32(0), "runtime_top_p_reset_ids": np.int32(-1)},
        {"return_log_probs": np.True_},
    ],
    ids=lambda extra: "-".join(extra),
)
def test_what_leaves_no_choice_is_greedy(tiny_server: TritonServer, extra: dict[str, Any]) -> None:
    assert tokens(tiny_server, **extra) == tokens(tiny_server)


def test_several_sequences_of_one_prompt(tiny_server: TritonServer) -> None:
    random: dict[str, Any] = {
        "runtime_top_k": np.int32(50),
        "temperature": np.float32(1.5),
        "num_return_sequences": np.int32(3),
    }
    request = token_request(PROMPT, 16, seed=np.uint64(11), streaming=True, return_num_output_tokens=True, **random)
    answer = stream(tiny_server, "tensorrt_llm", request)
    assert answer.error is None, answer.error
    found: dict[int, list[int]] = {0: [], 1: [], 2: []}
    reasons: dict[int, str] = {}
    for response in answer.responses:
        index = int(response["sequence_index"].item())
        found[index] += response["output_ids"].reshape(-1).tolist()
        assert response["num_output_tokens"].item() == response["output_ids"].size
        if "finish_reason" in response:
            reasons[index] = response["finish_reason"].item().decode()
    assert reasons == {0: "length", 1: "length", 2: "length"}
    assert [len(ids) for ids in found.values()] == [16] * 3
    assert len({tuple(ids) for ids in found.values()}) == 3
    alone = {name: value for name, value in random.items() if name != "num_return_sequences"}
    assert found[1] == tokens(tiny_server, 16, seed=np.uint64(12), **alone)


def test_several_sequences_over_http(tiny_server: TritonServer) -> None:
    body = {"text_input": "quick fox", "max_tokens": 5, "num_return_sequences": 3, "top_k": 50, "stream": True}
    events = server_sent_events(tiny_server, "ensemble", body)
    assert [event["sequence_index"] for event in events if "finish_reason" in event] in permutations_of_three()
    refused = post(tiny_server, "ensemble/generate", {**body, "stream": False})
    assert "generate expects model to produce exactly 1 response" in refused.json()["error"]  # Triton's own limit
    wait_until_idle(tiny_server)


def permutations_of_three() -> list[list[int]]:
    return [list(order) for order in permutations(range(3))]


def test_nothing_is_left_in_use(tiny_server: TritonServer) -> None:
    wait_until_idle(tiny_server)
