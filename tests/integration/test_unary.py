"""The profile `cpu-unary`: one response a request, for unary gRPC and HTTP infer, batching in flight all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from python_backend.launcher.server import TritonServer
from tests.integration.conftest import edited_repository, serving
from tests.integration.triton_api import (
    Tensors,
    infer_inputs,
    metric,
    post,
    stream,
    text_request,
    token_request,
    wait_for_metric,
    wait_until_idle,
)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def unary_server(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = edited_repository(tmp_path_factory.mktemp("unary"), execution_mode="exact")
    with serving(repository, tiny_engine, "cpu-unary") as server:
        yield server


def infer(server: TritonServer, model: str, arrays: Tensors, **options: object) -> triton.InferResult:
    with triton.InferenceServerClient(server.grpc_url) as client:
        return client.infer(model, infer_inputs(arrays), **options)


def test_unary_grpc_and_http_infer_give_what_the_stream_gives(
    unary_server: TritonServer, tiny_server: TritonServer
) -> None:
    ids = [5, 80, 31, 7]
    expected = stream(tiny_server, "tensorrt_llm", token_request(ids, 20)).ids
    assert infer(unary_server, "tensorrt_llm", token_request(ids, 20)).as_numpy("output_ids").tolist() == [[expected]]
    body = {
        "inputs": [
            {"name": "input_ids", "datatype": "INT32", "shape": [1, 4], "data": ids},
            {"name": "input_lengths", "datatype": "INT32", "shape": [1, 1], "data": [4]},
            {"name": "request_output_len", "datatype": "INT32", "shape": [1, 1], "data": [20]},
        ]
    }
    outputs = {output["name"]: output for output in post(unary_server, "tensorrt_llm/infer", body).json()["outputs"]}
    assert outputs["output_ids"]["shape"] == [1, 1, 20]
    assert outputs["output_ids"]["data"] == expected


def test_the_ensemble_answers_unary_calls(unary_server: TritonServer) -> None:
    result = infer(unary_server, "ensemble", text_request("hello", 8))
    text = result.as_numpy("text_output").item().decode()
    over_http = post(unary_server, "ensemble/generate", {"text_input": "hello", "max_tokens": 8})
    assert text == over_http.json()["text_output"]


def test_requests_batch_in_flight(unary_server: TritonServer) -> None:
    steps = metric(unary_server, "nv_trt_llm_general_metrics", general_type="iteration_counter")
    answered: SimpleQueue[tuple[triton.InferResult, InferenceServerException | None]] = SimpleQueue()
    with triton.InferenceServerClient(unary_server.grpc_url) as client:
        asked = [infer_inputs(token_request([token], 400)) for token in range(3, 11)]
        for inputs in asked:
            client.async_infer("tensorrt_llm", inputs, lambda result, error: answered.put((result, error)))
        results = [answered.get(timeout=60) for _ in asked]
    wait_until_idle(unary_server)
    assert [error for _, error in results] == [None] * 8
    assert [result.as_numpy("sequence_length").item() for result, _ in results] == [400] * 8
    taken = metric(unary_server, "nv_trt_llm_general_metrics", general_type="iteration_counter") - steps
    assert taken < 8 * 400 / 2, "one after the other would take 3200 steps"


def test_errors_come_with_their_status(unary_server: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match="ask for at least 1") as refused:
        infer(unary_server, "tensorrt_llm", token_request([5], 0))
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="beam_width = 2 is not available") as unavailable:
        infer(unary_server, "tensorrt_llm", token_request([5], 5, beam_width=np.int32(2)))
    assert unavailable.value.status() == "StatusCode.UNIMPLEMENTED"
    with pytest.raises(InferenceServerException, match="streaming needs a decoupled model"):
        infer(unary_server, "tensorrt_llm", token_request([5], 5, streaming=True))
    with pytest.raises(InferenceServerException, match="num_return_sequences is 2; a model that is not decoupled"):
        infer(unary_server, "tensorrt_llm", token_request([5], 5, num_return_sequences=np.int32(2)))
    with pytest.raises(InferenceServerException, match="timeout 0 ms passed") as late:
        infer(unary_server, "tensorrt_llm", token_request([5], 5), timeout=1)
    assert late.value.status() == "StatusCode.UNAVAILABLE"
    inputs = [
        {"name": name, "datatype": "INT32", "shape": [1, 1], "data": [value]}
        for name, value in (("input_ids", 5), ("input_lengths", 1), ("request_output_len", 5))
    ]
    over_http = post(unary_server, "tensorrt_llm/infer", {"inputs": inputs, "parameters": {"timeout": 1}})
    assert over_http.status_code == 503
    assert "timeout 0 ms passed" in over_http.json()["error"]


def test_what_comes_besides_tokens_comes_in_the_one_response(unary_server: TritonServer) -> None:
    plain = infer(unary_server, "tensorrt_llm", token_request([5, 80, 31], 20)).as_numpy("output_ids")[0, 0].tolist()
    stop = {"stop_words_list": np.array([[plain[8:11], [3, -1, -1]]], np.int32)}
    wanted = {"return_log_probs": True, "return_generation_logits": True, "return_num_output_tokens": True}
    result = infer(unary_server, "tensorrt_llm", token_request([5, 80, 31], 20, **wanted) | stop)
    assert result.as_numpy("finish_reason").item() == b"stop"
    assert result.as_numpy("stop_word") is not None
    count = result.as_numpy("num_output_tokens").item()
    assert count <= 12  # the text of the word's tokens is certain one token later at most
    assert result.as_numpy("output_ids").tolist() == [[plain[:count]]]
    assert result.as_numpy("output_log_probs").shape == (1, 1, count)
    assert result.as_numpy("cum_log_probs").item() == pytest.approx(result.as_numpy("output_log_probs").sum(), abs=1e-4)
    assert result.as_numpy("generation_logits").shape == (1, 1, count, 320)


def test_a_client_that_gives_up_frees_its_blocks(unary_server: TritonServer) -> None:
    time.sleep(0.5)  # What requests before this one counted is published every 0.1 s.
    cancelled = metric(unary_server, "slipstream_requests_total", finish_reason="cancelled")
    with pytest.raises(InferenceServerException, match="Deadline"):
        infer(unary_server, "tensorrt_llm", token_request([5], 900), client_timeout=0.2)
    wait_until_idle(unary_server)
    wait_for_metric(unary_server, cancelled + 1, "slipstream_requests_total", finish_reason="cancelled")
