"""A request that is refused does no harm to any other. What is refused, and how: test_errors.py."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import Answer, stream, text_request, wait_until_idle

pytestmark = pytest.mark.server


def test_bad_requests_do_not_change_the_answers_of_good_ones(exact_server: TritonServer) -> None:
    good = text_request("The three primary colours are", 24, stream=True)
    alone = stream(exact_server, "ensemble", good)
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(stream(exact_server, "ensemble", good))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for i in range(40):
        bad = [text_request(b"\xff", 5), text_request("hi", 0), text_request("hi", 5, beam_width=np.int32(9))][i % 3]
        assert stream(exact_server, "ensemble", bad).error
    for thread in threads:
        thread.join()
    assert [answer.text for answer in answers] == [alone.text] * 8
    wait_until_idle(exact_server)


def test_one_bad_row_of_a_batch_refuses_the_request_and_leaves_nothing_running(demo_server: TritonServer) -> None:
    batch = {"text_input": np.array([[b"good"], [b"bad"]], np.object_), "max_tokens": np.array([[5], [0]], np.int32)}
    answer = stream(demo_server, "ensemble", batch)
    assert answer.error is not None
    assert "ask for at least 1" in answer.error
    wait_until_idle(demo_server)
