"""Stop words, conversations, guided decoding, deadlines and KV retention, through the real server."""

from __future__ import annotations

import json
import re
import threading
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from python_backend.text.tokenizer import Tokenizer
from tests.integration.triton_api import (
    Answer,
    Tensors,
    metric,
    post,
    server_sent_events,
    settle,
    stream,
    text_request,
    token_request,
    wait_for_metric,
    wait_until_idle,
)

pytestmark = pytest.mark.server

PROMPT = [5, 80, 31, 7, 120, 44]
LENGTH = 60
CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which fox jumps?"}]


@pytest.fixture(scope="module")
def tokenizer(tiny_server: TritonServer) -> Tokenizer:
    return Tokenizer.load(tiny_server.options.engine_dir or "")


@pytest.fixture(scope="module")
def plain(tiny_server: TritonServer) -> Answer:
    return stream(tiny_server, "tensorrt_llm", token_request(PROMPT, LENGTH))


def word_across_tokens(plain: Answer, tokenizer: Tokenizer) -> str:
    """Three characters of the answer that no single token holds, from its second half where possible."""
    pieces = [tokenizer.decode([token], skip_special_tokens=True) for token in plain.ids]
    text = plain.text
    words = [text[at : at + 3] for at in range(len(text) - 2)]
    fit = [word for word in words if word.isprintable() and "\ufffd" not in word and not any(word in p for p in pieces)]
    late = [word for word in fit if text.index(word) > len(text) // 2]
    return (late or fit)[0]


def word_table(tokenizer: Tokenizer, *words: str) -> Tensors:
    ids = [tokenizer.encode(word, add_special_tokens=False).tolist() for word in words]
    ends = list(accumulate(map(len, ids)))
    row0 = [token for word in ids for token in word]
    return {"stop_words_list": np.array([[row0, ends + [-1] * (len(row0) - len(ends))]], np.int32)}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_stop_word_across_tokens_ends_the_answer_and_never_shows(
    tiny_server: TritonServer, tokenizer: Tokenizer, plain: Answer, streaming: bool
) -> None:
    word = word_across_tokens(plain, tokenizer)
    request = token_request(PROMPT, LENGTH, streaming=streaming, return_num_output_tokens=True, return_log_probs=True)
    answer = stream(tiny_server, "tensorrt_llm", request | word_table(tokenizer, "never occurs", word))
    assert answer.error is None, answer.error
    assert answer.text == plain.text[: plain.text.index(word)]
    assert (answer.finish_reason, answer.responses[-1]["stop_word"].item().decode()) == ("stop", word)
    assert answer.ids == plain.ids[: len(answer.ids)]
    assert word in tokenizer.decode(answer.ids, skip_special_tokens=True)
    counts = [response["num_output_tokens"].item() for response in answer.responses]
    assert sum(counts) == len(answer.ids) < LENGTH
    log_probs = np.concatenate([response["output_log_probs"][0, 0] for response in answer.responses])
    assert log_probs.size == len(answer.ids)
    assert answer.responses[-1]["cum_log_probs"].item() == pytest.approx(log_probs.sum(), abs=1e-3)
    assert (len(answer.responses) > 1) == streaming


def test_stop_words_as_text_through_the_ensemble(tiny_server: TritonServer, tokenizer: Tokenizer) -> None:
    text = "the quick brown"
    plain = stream(tiny_server, "ensemble", text_request(text, LENGTH))
    ids = tokenizer.encode(text, add_special_tokens=True).tolist()
    end = np.int32(tokenizer.end_id)
    tokens = stream(tiny_server, "tensorrt_llm", token_request(ids, LENGTH, end_id=end))
    word = word_across_tokens(tokens, tokenizer)
    stop = {"stop_words": np.array([[word.encode(), b"", b"never occurs"]], np.object_)}
    expected = plain.text[: plain.text.index(word)]
    for streaming in (False, True):
        answer = stream(tiny_server, "ensemble", text_request(text, LENGTH, stream=streaming) | stop)
        assert (answer.text, answer.finish_reason) == (expected, "stop")
        assert answer.responses[-1]["stop_word"].item().decode() == word
    body = {"text_input": text, "max_tokens": LENGTH, "stop_words": [word]}
    whole = post(tiny_server, "ensemble/generate", body).json()
    assert (whole["text_output"], whole["finish_reason"], whole["stop_word"]) == (expected, "stop", word)
    events = server_sent_events(tiny_server, "ensemble", {**body, "stream": True})
    assert "".join(event["text_output"] for event in events) == expected
    echoed = stream(tiny_server, "ensemble", text_request(text, LENGTH, exclude_input_in_output=False) | stop)
    assert echoed.text == text + expected


def test_stop_words_free_the_engine_and_count_as_stopped(
    tiny_server: TritonServer, tokenizer: Tokenizer, plain: Answer
) -> None:
    settle(tiny_server)
    stopped = metric(tiny_server, "slipstream_requests_total", finish_reason="stop")
    word = word_across_tokens(plain, tokenizer)
    answers: list[Answer] = []
    request = token_request(PROMPT, 900) | word_table(tokenizer, word)
    threads = [
        threading.Thread(target=lambda: answers.append(stream(tiny_server, "tensorrt_llm", request))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.text for answer in answers} == {plain.text[: plain.text.index(word)]}
    wait_until_idle(tiny_server)
    wait_for_metric(tiny_server, stopped + 6, "slipstream_requests_total", finish_reason="stop")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text_input": "hi", "messages": "[]"}, "both text_input and messages are there"),
        ({"text_input": "", "messages": "[{"}, "messages is not valid JSON"),
        ({"text_input": "", "messages": '{"messages": [{"role": "user"}], "tool": []}'}, 'did you mean "tools"?'),
        ({"text_input": "", "messages": '[{"content": "hi"}]'}, "role"),
        (
            {"text_input": "hi", "guided_decoding_guide_type": "jsn_schema", "guided_decoding_guide": "{}"},
            "json_schema",
        ),
        ({"text_input": "hi", "guided_decoding_guide_type": "regex"}, "needs a guided_decoding_guide"),
        ({"text_input": "hi", "guided_decoding_guide_type": "regex", "guided_decoding_guide": "(a"}, "cannot be used"),
        ({"text_input": "hi", "timeout": -1}, "timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors_over_http(tiny_server: TritonServer, body: dict[str, Any], message: str) -> None:
    response = post(tiny_server, "ensemble/generate", {"max_tokens": 5, **body})
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]


def guided(kind: str, guide: str, max_tokens: int = 200, **extra: Any) -> Tensors:
    texts = {"guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
    return text_request("the quick brown", max_tokens, **extra) | {
        name: np.array([[text.encode()]], np.object_) for name, text in texts.items() if text
    }


def test_guided_answers_obey_among_others_that_do_not(tiny_server: TritonServer) -> None:
    schema = {
        "type": "object",
        "properties": {"fox": {"enum": ["quick", "lazy"]}, "jumps": {"type": "boolean"}},
        "required": ["fox", "jumps"],
    }
    hot: dict[str, Any] = {"top_k": np.int32(100), "temperature": np.float32(2.0)}
    free = stream(tiny_server, "ensemble", text_request("the quick brown", LENGTH)).text
    requests = [
        guided("regex", "[ab]{5}c+d"),
        guided("regex", "[ab]{5}c?d", stream=True, **hot),
        guided("json_schema", json.dumps(schema), **hot),
        guided("json_schema", json.dumps(schema), stream=True),
        guided("ebnf_grammar", 'root ::= ("fox" | "dog") " " [0-9]', **hot),
        text_request("the quick brown", LENGTH),
    ]
    answers: dict[int, Answer] = {}

    def ask(index: int) -> None:
        answers[index] = stream(tiny_server, "ensemble", requests[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[index].error for index in range(6)] == [None] * 6
    assert re.match("[ab]{5}c", answers[0].text)
    assert re.fullmatch("[ab]{5}c?d", answers[1].text)
    for index in (2, 3):
        assert json.loads(answers[index].text)["fox"] in ("quick", "lazy")
    assert re.fullmatch("(fox|dog) [0-9]", answers[4].text)
    assert [answers[index].finish_reason for index in (1, 2, 3, 4)] == ["stop"] * 4
    assert answers[5].text == free


def test_time_that_is_up_leaves_what_there_is(tiny_server: TritonServer) -> None:
    answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 900), timeout_us=60_000_000)
    assert len(answer.ids) == 900
    answer = stream(tiny_server, "tensorrt_llm", token_request(PROMPT, 900, streaming=True), timeout_us=100_000)
    assert_timed_out(answer)
    assert_timed_out(stream(tiny_server, "ensemble", text_request("the quick", 900), timeout_us=100_000))
    response = post(tiny_server, "ensemble/generate", {"text_input": "the quick", "max_tokens": 900, "timeout": 1})
    assert response.status_code == 400  # Triton gives every backend's error on /generate this status
    assert "timeout 0 ms passed while the request waited" in response.json()["error"]
    wait_until_idle(tiny_server)


def assert_timed_out(answer: Answer) -> None:
    """The time may be up before the first token on a busy machine."""
    if answer.error is None:
        assert answer.finish_reason == "cancelled"
    else:
        assert "timeout 100 ms passed" in answer.error


def test_nothing_is_left_in_use(tiny_server: TritonServer) -> None:
    wait_until_idle(tiny_server)
