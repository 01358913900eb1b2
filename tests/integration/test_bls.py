"""`tensorrt_llm_bls` over the CPU engine: the same answers as `ensemble`, with drafts and without; and who leaves."""

from __future__ import annotations

import json
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from python_backend.launcher.command import ServerOptions
from python_backend.launcher.ports import Ports
from python_backend.launcher.server import TritonServer
from tests.integration.conftest import edited_repository, serving
from tests.integration.triton_api import (
    Answer,
    Tensors,
    infer_inputs,
    metric,
    post,
    server_sent_events,
    stream,
    text_request,
    wait_until_idle,
)

pytestmark = pytest.mark.server

ENGINE, NGRAM, DRAFT = "tensorrt_llm_bls", "bls_ngram", "bls_draft"
DOORS = [ENGINE, NGRAM, DRAFT]


def edit(config: Path, **parameters: str) -> None:
    text = config.read_text()
    for key, value in parameters.items():
        text, count = re.subn(rf'(key: "{key}" value {{ string_value: )"[^"]*"', rf'\1"{value}"', text)
        assert count == 1, f"{config} has {count} parameters {key}"
    config.write_text(text)


def add_front_door(repository: Path, name: str, **parameters: str) -> None:
    shutil.copytree(repository / ENGINE, repository / name)
    for config in [repository / name / "config.pbtxt", *(repository / name / "configs").iterdir()]:
        config.write_text(config.read_text().replace(f'name: "{ENGINE}"', f'name: "{name}"', 1))
        edit(config, **parameters)


@contextmanager
def all_doors(folder: Path, engine: Path) -> Iterator[TritonServer]:
    """A front door for each drafter; the draft engine is the target once more, so its drafts are right."""
    repository = edited_repository(folder, execution_mode="exact", stats_check_period_ms="20")
    paths = {"gpt_model_path": str(engine), "tokenizer_dir": str(engine)}
    edit(repository / "tensorrt_llm_draft" / "configs" / "cpu.pbtxt", execution_mode="exact", **paths)
    add_front_door(repository, NGRAM, drafter="ngram")
    add_front_door(repository, DRAFT, drafter="draft_model", tensorrt_llm_draft_model_name="tensorrt_llm_draft")
    models = ("ensemble", "preprocessing", "tensorrt_llm", "tensorrt_llm_draft", *DOORS)
    options = ServerOptions(
        model_repository=repository, engine_dir=engine, ports=Ports.free(), models=models, exit_timeout_s=60
    )
    with TritonServer(options) as server:
        yield server


@pytest.fixture(scope="module")
def server(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with all_doors(tmp_path_factory.mktemp("bls"), tiny_engine) as running:
        yield running


@pytest.fixture(scope="module")
def unary_server(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = edited_repository(tmp_path_factory.mktemp("bls_unary"), execution_mode="exact")
    with serving(repository, tiny_engine, "cpu-unary") as running:
        yield running


def words(*values: str) -> Any:
    return np.array([[value.encode() for value in values]], np.object_)


def text_tensor(value: str) -> Any:
    return np.array([[value.encode()]], np.object_)


TEXT = "the quick brown fox jumps over the lazy dog; the quick brown fox jumps"
MESSAGES = json.dumps([{"role": "user", "content": "judge my vow"}])
RANDOM: Tensors = {"top_k": np.array([[20]], np.int32), "temperature": np.array([[1.3]], np.float32)}
ROWS: Tensors = {
    "text_input": words("the lazy dog", "seven wizards", "my quartz").reshape(3, 1),
    "max_tokens": np.array([[40], [9], [25]], np.int32),
}
FEATURES: dict[str, Tensors] = {
    "greedy": text_request(TEXT, 60),
    "one token": text_request(TEXT, 1),
    "seeded": text_request(TEXT, 60, seed=np.uint64(11)) | RANDOM,
    "seeded by its old name": text_request(TEXT, 30, random_seed=np.uint64(12)) | RANDOM,
    "penalties": text_request(
        TEXT,
        60,
        presence_penalty=np.float32(0.7),
        frequency_penalty=np.float32(0.3),
        repetition_penalty=np.float32(2),
    ),
    "bad words": text_request(TEXT, 40) | {"bad_words": words("e", "q", "a", "o", "qu")},
    "bias": text_request(TEXT, 40)
    | {"embedding_bias_words": words("z"), "embedding_bias_weights": np.array([[3.0]], np.float32)},
    "stop words": text_request(TEXT, 90) | {"stop_words": words("no such", "e", "th", "f", "q")},
    "an end id": text_request(TEXT, 90, end_id=np.int32(71), min_tokens=np.int32(5)),
    "a guide": text_request(TEXT, 40)
    | {"guided_decoding_guide_type": text_tensor("regex"), "guided_decoding_guide": text_tensor("(ab|cd){6,12}")},
    "log probabilities": text_request(TEXT, 40, return_log_probs=True),
    "log probabilities of draws": text_request(TEXT, 40, return_log_probs=True, seed=np.uint64(3)) | RANDOM,
    "logits": text_request(TEXT, 20, return_generation_logits=True, return_context_logits=True),
    "sequences": text_request(TEXT, 30, num_return_sequences=np.int32(3), seed=np.uint64(5)) | RANDOM,
    "rows": ROWS,
    "messages": text_request("", 30) | {"messages": text_tensor(MESSAGES)},
    "the prompt too": text_request(TEXT, 20, exclude_input_in_output=False),
}


def told(answer: Answer) -> dict[tuple[int, int], dict[str, Any]]:
    """By row and sequence, all that the client was told, joined over responses."""
    assert answer.error is None, answer.error
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for response in answer.responses:
        which = tuple(response[name].item() if name in response else 0 for name in ("batch_index", "sequence_index"))
        one = found.setdefault((which[0], which[1]), {"text": b""})
        one["text"] += response["text_output"].item()
        for name in ("finish_reason", "stop_word", "cum_log_probs"):
            one |= {name: response[name].item()} if name in response else {}
        for name, axis in (("output_log_probs", 2), ("generation_logits", 2), ("context_logits", 1)):
            if name in response:
                one[name] = np.concatenate([one[name], response[name]], axis) if name in one else response[name]
    return found


def check_same(found: Answer, expected: Answer) -> None:
    ours, theirs = told(found), told(expected)
    assert ours.keys() == theirs.keys()
    for which, one in ours.items():
        assert one.keys() == theirs[which].keys()
        for name, value in one.items():
            if isinstance(value, bytes):
                assert value == theirs[which][name], (which, name)
            else:
                np.testing.assert_allclose(value, theirs[which][name], atol=1e-3, err_msg=f"{which} {name}")


@pytest.mark.parametrize("feature", FEATURES)
def test_every_door_answers_as_the_ensemble_does(server: TritonServer, feature: str) -> None:
    request = FEATURES[feature]
    rows = len(request["text_input"])
    expected = stream(server, "ensemble", request)
    for model in DOORS:
        for streams, count in ((False, None), (True, 16), (False, 0)):
            extra = {"stream": np.array([[streams]] * rows)}
            if count is not None:
                extra["num_draft_tokens"] = np.array([[count]] * rows, np.int32)
            shown = {"exclude_input_in_output"} & request.keys() and streams
            if not shown:  # a stream never repeats the prompt
                check_same(stream(server, model, request | extra), expected)


def test_many_requests_at_once_get_the_answers_they_get_alone(server: TritonServer) -> None:
    """With them, rounds of all kinds run beside each other: each door tries drafts before it knows what they cost."""
    random = np.random.default_rng(1)
    requests = [text_request(TEXT[: int(random.integers(1, 60))], int(random.integers(20, 90))) for _ in range(12)]
    answers: dict[tuple[str, int], Answer] = {}

    def ask(model: str, index: int) -> None:
        answers[model, index] = stream(server, model, requests[index] | {"stream": np.array([[bool(index % 2)]])})

    threads = [threading.Thread(target=ask, args=(model, index)) for model in DOORS for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, request in enumerate(requests):
        alone = stream(server, "ensemble", request)
        for model in DOORS:
            check_same(answers[model, index], alone)
    wait_until_idle(server)


def test_drafts_of_a_repeated_text_are_accepted_and_change_nothing(exact_server: TritonServer) -> None:
    """Over the demo model, whose steps are slow enough for drafts to pay."""
    colours = "red, green, blue, red, green, blue, red, green, blue, red, green,"
    expected = stream(exact_server, "ensemble", text_request(colours, 60))
    for count in (16, 0):
        request = text_request(colours, 60, num_draft_tokens=np.int32(count), return_perf_metrics=True)
        found = stream(exact_server, ENGINE, request)
        assert found.text == expected.text
        assert (found.responses[-1]["total_accepted_draft_tokens"].item() > 0) is bool(count)


def test_over_http_too(server: TritonServer) -> None:
    body = {"text_input": TEXT, "max_tokens": 40}
    whole = post(server, "ensemble/generate", body).json()
    for model in DOORS:
        assert post(server, f"{model}/generate", body).json()["text_output"] == whole["text_output"]
        events = server_sent_events(server, model, {**body, "stream": True})
        assert "".join(event["text_output"] for event in events) == whole["text_output"]


def test_unary_calls_are_answered_and_what_takes_more_is_refused(
    unary_server: TritonServer, server: TritonServer
) -> None:
    expected = stream(server, "ensemble", FEATURES["greedy"]).text
    with triton.InferenceServerClient(unary_server.grpc_url) as client:
        result = client.infer(ENGINE, infer_inputs(FEATURES["greedy"]))
    assert result.as_numpy("text_output").item().decode() == expected
    for refused in (ROWS, FEATURES["sequences"], FEATURES["greedy"] | {"stream": np.array([[True]])}):
        error = stream(unary_server, ENGINE, refused).error
        assert error is not None
        assert "not decoupled" in error
    wait_until_idle(unary_server)


@pytest.mark.parametrize("model", DOORS)
@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"max_tokens": np.array([[0]], np.int32)}, "ask for at least 1"),
        ({"max_tokens": np.array([[5000]], np.int32), "num_draft_tokens": np.array([[0]], np.int32)}, "at most 1024"),
        ({"num_draft_tokens": np.array([[17]], np.int32)}, "between 0 and 16 (max_draft_len)"),
        ({"text_input": np.array([[b"\xff\xfe"]], np.object_)}, "not valid UTF-8"),
        ({"text_input": np.array([[b""]], np.object_)}, "the prompt is empty"),
        ({"beam_width": np.array([[2]], np.int32)}, "beam"),
        ({"temperature": np.array([[-1]], np.float32)}, "temperature is -1"),
        ({"image_url_input": np.array([[b"http://x"]], np.object_)}, "image_url_input is not available"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    server: TritonServer, model: str, extra: Tensors, reason: str
) -> None:
    answer = stream(server, model, text_request(TEXT, 40) | extra)
    assert answer.responses == []
    assert answer.error is not None
    assert reason in answer.error


LONG = 1000
Leave = Callable[[TritonServer, str, int, int], None]


def leave_grpc(server: TritonServer, model: str, max_tokens: int, after: int, request_id: str = "") -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        arrived: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: arrived.put(result))
        client.async_stream_infer(
            model, infer_inputs(text_request("fox", max_tokens, stream=True)), request_id=request_id
        )
        for _ in range(after):
            assert arrived.get(timeout=60) is not None
        client.stop_stream(cancel_requests=True)


def leave_http(server: TritonServer, model: str, max_tokens: int, after: int) -> None:
    body = {"text_input": "fox", "max_tokens": max_tokens, "stream": True}
    url = f"{server.http_url}/v2/models/{model}/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = (line for line in response.iter_lines() if line)
        for _ in range(after):
            assert next(lines)


@pytest.mark.parametrize("leave", [leave_grpc, leave_http])
def test_a_client_that_leaves_frees_its_blocks_long_before_its_limit(demo_server: TritonServer, leave: Leave) -> None:
    before = metric(demo_server, "slipstream_tokens_total", type="generated")
    leave(demo_server, ENGINE, 4000, 3)
    wait_until_idle(demo_server)
    time.sleep(0.2)  # what was counted is published a moment later
    assert metric(demo_server, "slipstream_tokens_total", type="generated") - before < 1000


@pytest.mark.parametrize("model", DOORS)
def test_who_leaves_takes_nobody_along_whose_request_has_the_same_id(server: TritonServer, model: str) -> None:
    request = text_request(TEXT, LONG, end_id=np.int32(-1), num_draft_tokens=np.int32(0))
    answers: list[Answer] = []
    stays = threading.Thread(target=lambda: answers.append(stream(server, model, request, request_id="same")))
    stays.start()
    leave_grpc(server, model, LONG, 3, request_id="same")
    stays.join()
    assert answers[0].text == stream(server, "ensemble", text_request(TEXT, LONG, end_id=np.int32(-1))).text
    wait_until_idle(server)


@pytest.mark.parametrize("model", DOORS)
def test_when_time_is_up_the_client_keeps_what_there_is(server: TritonServer, model: str) -> None:
    whole = stream(server, "ensemble", text_request(TEXT, 900, end_id=np.int32(-1))).text
    answer = stream(server, model, text_request(TEXT, 900, end_id=np.int32(-1), stream=True), timeout_us=200_000)
    if answer.error is None:
        assert whole.startswith(answer.text.rstrip("\ufffd"))
    else:
        assert "timeout 200 ms passed" in answer.error
    wait_until_idle(server)


def test_a_storm_of_clients_that_leave_does_no_harm(tiny_engine: Path, tmp_path: Path) -> None:
    """64 at once, of all doors and both protocols, after no response or some; then the server ends by itself."""
    with all_doors(tmp_path, tiny_engine) as server:
        expected = stream(server, "ensemble", text_request(TEXT, 50)).text
        (first,) = stream(server, DRAFT, text_request(TEXT, 100, return_perf_metrics=True)).responses
        assert first["acceptance_rate"].item() == 1.0, (
            "what drafts cost is not known yet: they are tried, and are right"
        )

        def storm(index: int) -> None:
            leave: Leave = (leave_grpc, leave_http)[index % 2]
            leave(server, DOORS[index % 3], LONG, index % 5)

        threads = [threading.Thread(target=storm, args=(index,)) for index in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until_idle(server)
        for model in DOORS:
            assert stream(server, model, text_request(TEXT, 50)).text == expected
        server.terminate()
        deadline_s = time.monotonic() + server.options.exit_timeout_s
        while server.exit_code() is None:
            assert time.monotonic() < deadline_s, "a model does not unload"
            time.sleep(0.05)
        assert server.exit_code() == 0
        log = server.log_path.read_text()
        unloaded = set(re.findall(r"successfully unloaded '(\w+)'", log))
        assert unloaded >= {*DOORS, "ensemble", "preprocessing", "tensorrt_llm", "tensorrt_llm_draft"}
