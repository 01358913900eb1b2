"""More requests than the engine can serve at once: who is refused, who comes next, and whose time is up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from tests import tiny_llama
from tests.integration.conftest import edited_repository, serving
from tests.integration.triton_api import Answer, metric, settle, stream, token_request, wait_for_metric, wait_until_idle

pytestmark = pytest.mark.server

ENDLESS = 60_000  # tokens: minutes


@pytest.fixture(scope="module")
def engine_of_long_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_llama.config(max_position_embeddings=1 << 16)
    return tiny_llama.engine(tmp_path_factory.mktemp("long_answers"), config)


@contextmanager
def one_at_a_time(engine: Path, folder: Path, **settings: str) -> Iterator[TritonServer]:
    settings |= {"max_running_sequences": "1", "max_tokens_in_paged_kv_cache": "65536", "stats_check_period_ms": "10"}
    with serving(edited_repository(folder, **settings), engine) as server:
        yield server


@pytest.fixture(scope="module")
def server(engine_of_long_answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with one_at_a_time(engine_of_long_answers, tmp_path_factory.mktemp("one_at_a_time")) as started:
        yield started


def wait_for_active(server: TritonServer, count: int) -> None:
    wait_for_metric(server, count, "nv_trt_llm_request_metrics", request_type="active")


def stop(server: TritonServer, request_id: str) -> None:
    stream(server, "tensorrt_llm", token_request([5], 1, stop=True), request_id)


class Crowd:
    """Requests that wait behind a long one, in the order in which they came."""

    def __init__(self, server: TritonServer, clients: ThreadPoolExecutor, **blocker: Any) -> None:
        self._server = server
        self._clients = clients
        self._answers: dict[str, Future[Answer]] = {}
        self.add("blocker", ENDLESS, **blocker)

    def add(self, name: str, max_tokens: int = 3, **extra: Any) -> None:
        tensors = {key: np.array([[value]], np.object_) if isinstance(value, bytes) else np.array([[value]])
                   for key, value in extra.items()}  # fmt: skip
        request = token_request([5, 6, 7], max_tokens, return_perf_metrics=True) | tensors
        self._answers[name] = self._clients.submit(stream, self._server, "tensorrt_llm", request, name)
        wait_for_active(self._server, len(self._answers))

    def served(self) -> list[str]:
        """Stop the long request, and tell in which order the others were scheduled."""
        stop(self._server, "blocker")
        self._answers.pop("blocker").result()
        answers = {name: answer.result() for name, answer in self._answers.items()}
        assert [answer.error for answer in answers.values()] == [None] * len(answers)
        times = {name: answer.responses[-1]["first_scheduled_time_ns"].item() for name, answer in answers.items()}
        wait_until_idle(self._server)
        return sorted(times, key=times.__getitem__)


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def test_a_full_queue_refuses_at_once_and_those_before_are_served(
    engine_of_long_answers: Path, tmp_path: Path, clients: ThreadPoolExecutor
) -> None:
    with one_at_a_time(engine_of_long_answers, tmp_path, max_queue_size="4") as server:
        crowd = Crowd(server, clients)
        for index in range(4):
            crowd.add(f"waiting {index}")
        expected = (
            "4 requests are waiting; max_queue_size is 4. Try again later, add instances, or raise max_queue_size."
        )
        for _ in range(10):
            assert stream(server, "tensorrt_llm", token_request([5, 6, 7], 3)).error == expected
        wait_for_active(server, 5)
        assert crowd.served() == [f"waiting {index}" for index in range(4)]
        wait_for_metric(server, 10, "slipstream_requests_total", finish_reason="rejected")


def test_a_tenant_waits_for_one_more_turn_of_a_greedy_one(server: TritonServer, clients: ThreadPoolExecutor) -> None:
    crowd = Crowd(server, clients, tenant=b"greedy")
    for index in range(40):
        crowd.add(f"greedy {index}", tenant=b"greedy")
    crowd.add("modest", tenant=b"modest")
    assert "modest" in crowd.served()[:2]


def test_a_tenant_may_fill_its_part_of_the_queue_only(
    engine_of_long_answers: Path, tmp_path: Path, clients: ThreadPoolExecutor
) -> None:
    limits = {"max_queue_size": "10", "max_queue_size_per_tenant": "2"}
    with one_at_a_time(engine_of_long_answers, tmp_path, **limits) as server:
        crowd = Crowd(server, clients, tenant=b"greedy")
        crowd.add("greedy 0", tenant=b"greedy")
        crowd.add("greedy 1", tenant=b"greedy")
        greedy = token_request([5, 6, 7], 3) | {"tenant": np.array([[b"greedy"]], np.object_)}
        assert stream(server, "tensorrt_llm", greedy).error == (
            '2 requests of tenant "greedy" are waiting; max_queue_size_per_tenant is 2. Try again later, or raise '
            "max_queue_size_per_tenant."
        )
        crowd.add("modest", tenant=b"modest")
        assert len(crowd.served()) == 3


def test_an_urgent_request_overtakes_those_that_wait(server: TritonServer, clients: ThreadPoolExecutor) -> None:
    crowd = Crowd(server, clients)
    for index in range(3):
        crowd.add(f"patient {index}", priority=np.float32(0))
    crowd.add("urgent", priority=np.float32(1))
    assert crowd.served() == ["urgent", "patient 0", "patient 1", "patient 2"]


def test_waiting_makes_up_for_priority(server: TritonServer, clients: ThreadPoolExecutor) -> None:
    """A priority that is higher by 0.05 is worth half a second of waiting."""
    crowd = Crowd(server, clients)
    crowd.add("patient", priority=np.float32(0))
    time.sleep(1)
    crowd.add("a little more urgent", priority=np.float32(0.05))
    assert crowd.served() == ["patient", "a little more urgent"]


def test_a_deadline_in_the_queue_refuses_and_leaves_the_others_alone(
    server: TritonServer, clients: ThreadPoolExecutor
) -> None:
    settle(server)
    timed_out = metric(server, "slipstream_requests_total", finish_reason="timed_out")
    crowd = Crowd(server, clients)
    crowd.add("patient")
    late = stream(server, "tensorrt_llm", token_request([5, 6, 7], 3), timeout_us=50_000)
    assert late.error == (
        "timeout 50 ms passed while the request waited to be scheduled. Allow more time, ask for less, or try again "
        "when the load is lower."
    )
    assert crowd.served() == ["patient"]
    wait_for_metric(server, timed_out + 1, "slipstream_requests_total", finish_reason="timed_out")


def test_a_stop_takes_a_request_out_of_the_queue(server: TritonServer, clients: ThreadPoolExecutor) -> None:
    settle(server)
    cancelled = metric(server, "slipstream_requests_total", finish_reason="cancelled")
    prompts = metric(server, "slipstream_tokens_total", type="prompt")
    crowd = Crowd(server, clients)
    crowd.add("patient")
    waiting = threading.Thread(target=stream, args=(server, "tensorrt_llm", token_request([8, 9], 3), "gives up"))
    waiting.start()
    wait_for_active(server, 3)
    stop(server, "gives up")
    waiting.join()
    wait_for_active(server, 2)
    assert crowd.served() == ["patient"]
    wait_for_metric(server, cancelled + 2, "slipstream_requests_total", finish_reason="cancelled")
    assert metric(server, "slipstream_tokens_total", type="prompt") == prompts + 2 * 3
