"""/metrics: NVIDIA's names and labels, and figures that add up."""

from __future__ import annotations

import time

import httpx
import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from python_backend.metrics import COUNTERS, GAUGES, HISTOGRAMS
from tests.integration.triton_api import metric, settle, stream, token_request, wait_until_idle

pytestmark = pytest.mark.server


def test_every_metric_is_there_with_its_labels(tiny_server: TritonServer) -> None:
    text = httpx.get(tiny_server.metrics_url).text
    for family in (*GAUGES, *COUNTERS, *HISTOGRAMS):
        assert f"# TYPE {family.name} {family.kind}" in text
        for member in family.members:
            labels = {"model": "tensorrt_llm", "version": "1"} | ({family.label: member} if family.label else {})
            metric(tiny_server, family.name + ("_count" if family.kind == "histogram" else ""), **labels)


def test_observations_add_up_to_what_was_served(tiny_server: TritonServer) -> None:
    series = {
        "generated": ("slipstream_tokens_total", {"type": "generated"}),
        "prompt": ("slipstream_tokens_total", {"type": "prompt"}),
        "length": ("slipstream_requests_total", {"finish_reason": "length"}),
        "ttft": ("slipstream_time_to_first_token_seconds_count", {}),
        "queue": ("slipstream_queue_time_seconds_count", {}),
        "itl": ("slipstream_inter_token_latency_seconds_count", {}),
        "output": ("nv_llm_output_token_len_sum", {}),
        "input": ("nv_llm_input_token_len_sum", {}),
    }

    def read() -> dict[str, float]:
        wait_until_idle(tiny_server)
        return {key: metric(tiny_server, name, **labels) for key, (name, labels) in series.items()}

    settle(tiny_server)
    before = read()
    for length in (5, 9, 14):
        ids = np.random.default_rng(length).integers(3, 250, length).tolist()
        stream(tiny_server, "tensorrt_llm", token_request(ids, 10, streaming=True))
    expected = {
        "generated": 30, "prompt": 28, "length": 3, "ttft": 3, "queue": 3, "itl": 27, "output": 30, "input": 28,
    }  # fmt: skip
    gained: dict[str, float] = {}
    for _ in range(50):  # the last figures are published a moment after the last token, and not all at once
        gained = {key: value - before[key] for key, value in read().items()}
        if gained == expected:
            break
        time.sleep(0.1)
    assert gained == expected
