"""Text in, text out, through every door that clients use; what streams is what comes whole."""

from __future__ import annotations

import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.conftest import DEMO_ENGINE
from tests.integration.triton_api import post, server_sent_events, stream, text_request, token_request, wait_until_idle

pytestmark = pytest.mark.server

PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def test_whole_answer_over_http(demo_server: TritonServer) -> None:
    response = post(demo_server, "ensemble/generate", {"text_input": PROMPT, "max_tokens": 32})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert "Paris" in answer["text_output"]
    assert answer["finish_reason"] == "stop"


def test_stream_over_http_is_the_whole_answer_in_pieces(exact_server: TritonServer) -> None:
    body = {"text_input": PROMPT, "max_tokens": 24}
    whole = post(exact_server, "ensemble/generate", body).json()["text_output"]
    events = server_sent_events(exact_server, "ensemble", {**body, "stream": True})
    assert len(events) > 1
    assert "".join(event["text_output"] for event in events) == whole
    assert [event["finish_reason"] for event in events if "finish_reason" in event] == ["stop"]


def test_stream_over_grpc_is_the_whole_answer_in_pieces(exact_server: TritonServer) -> None:
    whole = stream(exact_server, "ensemble", text_request(PROMPT, 24))
    pieces = stream(exact_server, "ensemble", text_request(PROMPT, 24, stream=True))
    assert len(whole.responses) == 1
    assert len(pieces.responses) > 1
    assert pieces.text == whole.text
    assert pieces.finish_reason == whole.finish_reason == "stop"


def test_the_engine_door_speaks_token_ids(exact_server: TritonServer) -> None:
    tokenizer = Tokenizer.load(DEMO_ENGINE)
    ids = tokenizer.encode(PROMPT, add_special_tokens=True).tolist()
    text = stream(exact_server, "ensemble", text_request(PROMPT, 24)).text
    request = token_request(ids, 24, end_id=np.int32(tokenizer.end_id), streaming=True, return_num_output_tokens=True)
    pieces = stream(exact_server, "tensorrt_llm", request)
    assert pieces.ids[-1] == tokenizer.end_id
    assert tokenizer.decode(pieces.ids, skip_special_tokens=True) == text
    assert sum(int(response["num_output_tokens"].item()) for response in pieces.responses) == len(pieces.ids)
    assert [response["output_ids"].shape[:2] for response in pieces.responses] == [(1, 1)] * len(pieces.responses)


def test_a_batch_is_answered_row_by_row(exact_server: TritonServer) -> None:
    prompts = ["The sea", "Two and two", "A long time ago there"]
    rows = np.array([[prompt.encode()] for prompt in prompts], np.object_)
    batch = {"text_input": rows, "max_tokens": np.array([[5], [9], [3]], np.int32), "stream": np.array([[True]] * 3)}
    answer = stream(exact_server, "ensemble", batch)
    texts = ["", "", ""]
    for response in answer.responses:
        texts[int(response["batch_index"].item())] += response["text_output"].item().decode()
    alone = [
        stream(exact_server, "ensemble", text_request(prompt, count)).text
        for prompt, count in zip(prompts, (5, 9, 3), strict=True)
    ]
    assert texts == alone


def test_perf_metrics_tell_when_and_how_much(exact_server: TritonServer) -> None:
    ids = list(range(1000, 1100))
    stream(exact_server, "tensorrt_llm", token_request(ids, 2))
    answer = stream(exact_server, "tensorrt_llm", token_request(ids, 5, return_perf_metrics=True))
    (response,) = answer.responses
    times = [response[f"{name}_time_ns"].item() for name in ("arrival", "first_scheduled", "first_token", "last_token")]
    assert times == sorted(times)
    assert times[0] > 0
    assert response["kv_cache_reused_blocks"].item() == 4  # 99 of the 100 tokens, in blocks of 32
    assert response["kv_cache_alloc_total_blocks"].item() == 4


@pytest.mark.parametrize("seed", range(4))
def test_streamed_text_is_the_decoded_ids_whatever_they_are(tiny_server: TritonServer, seed: int) -> None:
    """A random model emits any bytes: halves of characters, broken UTF-8, special tokens."""
    prompt = np.random.default_rng(seed).integers(3, 250, 12).tolist()
    pieces = stream(tiny_server, "tensorrt_llm", token_request(prompt, 200, streaming=True))
    tokenizer = Tokenizer.load(tiny_server.options.engine_dir or "")
    assert len(pieces.ids) == 200
    assert len(pieces.responses) > 1
    assert pieces.text == tokenizer.decode(pieces.ids, skip_special_tokens=True)
    whole = stream(tiny_server, "tensorrt_llm", token_request(prompt, 200))
    assert (whole.ids, whole.text) == (pieces.ids, pieces.text)


@pytest.mark.parametrize(
    "text", ["naïve café", "汉字かな交じり文", "🙂👩‍👩‍👧 emoji", "  two  spaces\n\n\ttab", "é combining"]
)
def test_prompts_of_every_script_come_back_unchanged(exact_server: TritonServer, text: str) -> None:
    body = {"text_input": text, "max_tokens": 3, "exclude_input_in_output": False}
    assert post(exact_server, "ensemble/generate", body).json()["text_output"].startswith(text)


def test_nothing_is_left_in_use(exact_server: TritonServer) -> None:
    stream(exact_server, "ensemble", text_request("Some last request", 3))
    wait_until_idle(exact_server)
