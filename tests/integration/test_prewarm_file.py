"""Prompts of the prewarm file are in the KV cache before the first request comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from python_backend.errors import SetupError
from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import stream, text_request

pytestmark = pytest.mark.server

Serve = Callable[..., AbstractContextManager[TritonServer]]
TEXT = "the quick brown fox jumps over the lazy dog while seven wizards quietly judge my quartz vow " * 5
SYSTEM = {"role": "system", "content": TEXT.upper()}


def test_first_requests_reuse_texts_and_conversations(serve: Serve, tiny_engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "prewarm.yaml"
    path.write_text(json.dumps([{"text": TEXT}, {"messages": [SYSTEM]}]))
    with serve(tiny_engine, execution_mode="exact", prewarm_file=str(path)) as server:
        ask = text_request(TEXT + "and then", 4, return_perf_metrics=True, return_num_input_tokens=True)
        (response,) = stream(server, "ensemble", ask).responses
        full_blocks = int(response["num_input_tokens"].item()) // 32
        assert full_blocks >= 2
        assert response["kv_cache_reused_blocks"].item() >= full_blocks - 1
        raw = json.dumps([SYSTEM, {"role": "user", "content": "Hello"}]).encode()
        chat = text_request("", 4, return_perf_metrics=True, return_num_input_tokens=True)
        (response,) = stream(server, "ensemble", chat | {"messages": np.array([[raw]], np.object_)}).responses
        assert response["kv_cache_reused_blocks"].item() >= int(response["num_input_tokens"].item()) // 32 - 2


def test_a_file_that_cannot_be_used_is_told_at_the_start(serve: Serve, tiny_engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "prewarm.yaml"
    path.write_text(json.dumps([{"text": "fine"}, {"message": []}]))
    with (
        pytest.raises(SetupError, match=r'entry 2, message.*did you mean "messages"'),
        serve(tiny_engine, prewarm_file=str(path)),
    ):
        pass
