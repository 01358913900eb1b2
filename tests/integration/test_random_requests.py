"""Requests of random right and wrong combinations against one server, eight clients at a time.

Nothing breaks, hangs or leaks, whatever is asked; every answer is well-formed; and valid neighbours get what they get
alone, byte for byte. 600 requests by default, the same ones each time. More, and others each time:

    SLIPSTREAM_RANDOM_REQUESTS=10000 pytest tests/integration/test_random_requests.py -s --timeout=0

A failure names the batch of requests that it happened in, and how to ask for the same batch again
(``@reproduce_failure``).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from python_backend.launcher.server import TritonServer
from python_backend.metrics import FINISHED
from tests.integration.attempt import LEFT, Attempt, Outcome, check_outcome, send
from tests.integration.conftest import edited_repository, serving
from tests.integration.request_strategies import attempts
from tests.integration.triton_api import metric, text_request, token_request, wait_until_idle

pytestmark = pytest.mark.server

ASKED = os.environ.get("SLIPSTREAM_RANDOM_REQUESTS")
REQUESTS = int(ASKED or 600)
CLIENTS = 8
PROMPT = [5, 80, 31, 7, 120, 44]

#: Valid neighbours, under ids that no random `stop` names.
NEIGHBOURS = (
    Attempt(model="tensorrt_llm", tensors=token_request(PROMPT, 60, streaming=True), request_id="greedy"),
    Attempt(
        model="tensorrt_llm",
        tensors=token_request(
            PROMPT * 9, 30, seed=np.uint64(3), runtime_top_k=np.int32(40), temperature=np.float32(1.3),
            frequency_penalty=np.float32(0.5), return_log_probs=True,
        ),
        request_id="drawn",
    ),
    Attempt(
        model="ensemble",
        tensors=text_request("seven wizards", 40, stream=True) | {"stop_words": np.array([[b"e", b"zz"]], np.object_)},
        request_id="stopped",
    ),
    Attempt(
        model="ensemble",
        tensors=text_request("the lazy dog", 60) | {
            "guided_decoding_guide_type": np.array([[b"regex"]], np.object_),
            "guided_decoding_guide": np.array([[b"(fox|dog){9}"]], np.object_),
        },
        door="generate",
        request_id="guided",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Exact, and too small for eight clients: sequences wait, are paused and are resumed all the time."""
    repository = edited_repository(
        tmp_path_factory.mktemp("random_requests"),
        execution_mode="exact",
        batch_scheduler_policy="max_utilization",
        max_tokens_in_paged_kv_cache="1500",
        max_running_sequences="6",
        max_num_tokens="96",
    )
    with serving(repository, tiny_engine) as server:
        yield server


@pytest.fixture(scope="module")
def alone(server: TritonServer) -> dict[str, list[bytes]]:
    """What each neighbour gets with the server to itself."""
    answers = {neighbour.request_id: send(server, neighbour) for neighbour in NEIGHBOURS}
    assert not [error for answer in answers.values() for error in answer.errors]
    return {name: fingerprint(answer) for name, answer in answers.items()}


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """How the requests ended, told at the end (pytest -s)."""
    counts: Counter[str] = Counter()
    yield counts
    print(*(f"\n{count:7} {ending}" for ending, count in sorted(counts.items())))


@pytest.fixture(scope="module")
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CLIENTS) as pool:
        yield pool


def fingerprint(outcome: Outcome) -> list[bytes]:
    names = ("output_ids", "text_output", "finish_reason", "stop_word")
    return [*map(outcome.joined, names), *(error.encode() for error in outcome.errors)]


@settings(
    max_examples=-(-REQUESTS // CLIENTS),
    derandomize=ASKED is None,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate],  # a server that runs on is no ground to shrink on
    suppress_health_check=list(HealthCheck),
)
@given(
    batch=st.lists(attempts(), min_size=CLIENTS, max_size=CLIENTS, unique_by=repr),
    neighbour=st.sampled_from(NEIGHBOURS),
)
def test_whatever_is_asked(
    server: TritonServer,
    alone: dict[str, list[bytes]],
    clients: ThreadPoolExecutor,
    tally: Counter[str],
    batch: list[Attempt],
    neighbour: Attempt,
) -> None:
    *outcomes, undisturbed = clients.map(lambda attempt: send(server, attempt), [*batch, neighbour])
    for attempt, outcome in zip(batch, outcomes, strict=True):
        check_outcome(attempt, outcome)
        ending = "left" if outcome.status == LEFT else "refused" if outcome.errors else "answered"
        tally[f"{attempt.model} {attempt.door} {ending} {outcome.status}"] += 1
    assert fingerprint(undisturbed) == alone[neighbour.request_id]


def test_afterwards_nothing_is_left_and_nothing_broke(server: TritonServer) -> None:
    wait_until_idle(server)
    ends = [reason for reason in FINISHED.members if reason != "rejected"]
    deadline_s = time.monotonic() + 30  # counters come a moment after what they count
    while True:
        accepted = metric(server, "nv_llm_input_token_len_count")
        ended = sum(metric(server, FINISHED.name, finish_reason=reason) for reason in ends)
        if accepted == ended or time.monotonic() > deadline_s:
            break
    assert accepted == ended, "a sequence was accepted and never ended, or ended twice"
    log = server.log_path.read_text(errors="replace")
    assert "Traceback" not in log
    assert [line for line in log.splitlines() if line.startswith(("E ", "C "))] == []
