"""A request carries the contract's tensors, and nothing that was not asked for."""

from __future__ import annotations

from dataclasses import fields

import pytest

import client
from client import Chunk, Completion, GenerateRequest, chatml
from client.grpc_messages import infer_inputs
from client.http_client import body_of
from python_backend.contract import ENSEMBLE, DataType


def test_only_what_is_given_is_sent() -> None:
    request = GenerateRequest("hi", max_tokens=5, exclude_input_in_output=None)
    assert {tensor.name: value for tensor, value in request.tensors()} == {
        "text_input": "hi",
        "max_tokens": 5,
        "stream": True,
    }


def test_a_conversation_goes_with_an_empty_text() -> None:
    sent = {tensor.name: value for tensor, value in GenerateRequest("", messages='[{"role": "user"}]').tensors()}
    assert (sent["text_input"], sent["messages"]) == ("", '[{"role": "user"}]')


def test_zero_and_false_are_values() -> None:
    request = GenerateRequest("hi", stream=False, temperature=0.0, seed=0)
    sent = {tensor.name: value for tensor, value in request.tensors()}
    assert (sent["stream"], sent["temperature"], sent["seed"]) == (False, 0.0, 0)


def test_every_argument_is_an_input_of_the_ensemble() -> None:
    """All but the draft length, which only the BLS model takes."""
    elsewhere = {"model", "request_id", "timeout_s", "text", "num_draft_tokens"}
    arguments = {field.name for field in fields(GenerateRequest)} - elsewhere
    assert arguments <= {tensor.name for tensor in ENSEMBLE.inputs}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "empty"),
        ({"messages": "[]"}, "both text and messages"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 99_999_999_999}, "max_tokens is 99999999999; it must lie between"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"top_k": 2**31}, "top_k is"),
        ({"text": "a\udcff"}, "text holds half of a surrogate pair"),
        ({"stop_words": ("ok", "\ud800")}, "stop_words holds half"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
    ],
)
def test_what_no_server_could_take_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateRequest(**{"text": "hi", **arguments})  # type: ignore[arg-type]


def test_grpc_tensors_have_the_contract_s_types_and_a_batch_of_one() -> None:
    request = GenerateRequest("héllo", max_tokens=7, top_p=0.5, seed=2**63, stop_words=("a", "bc"))
    sent = {tensor.name(): (tensor.datatype(), tensor.shape()) for tensor in infer_inputs(request)}
    assert sent == {
        "text_input": ("BYTES", [1, 1]),
        "max_tokens": ("INT32", [1, 1]),
        "stream": ("BOOL", [1, 1]),
        "top_p": ("FP32", [1, 1]),
        "seed": ("UINT64", [1, 1]),
        "stop_words": ("BYTES", [1, 2]),
        "exclude_input_in_output": ("BOOL", [1, 1]),
    }
    types = {tensor.name: tensor.dtype for tensor in ENSEMBLE.inputs}
    assert all(DataType(datatype) is types[name] for name, (datatype, _) in sent.items())


def test_http_body_is_json_in_utf8() -> None:
    body = body_of(GenerateRequest("é", max_tokens=2, stop_words=("x",), request_id="7"))
    assert body.decode() == (
        '{"text_input": "é", "max_tokens": 2, "stream": true, "stop_words": ["x"], '
        '"exclude_input_in_output": true, "id": "7"}'
    )


def test_a_completion_sums_its_chunks_up() -> None:
    chunks = [
        Chunk(text="a", index=0, received_s=10.5, num_output_tokens=1, num_input_tokens=4),
        Chunk(text="bc", index=1, received_s=11.0, num_output_tokens=2, num_input_tokens=4, finish_reason="stop"),
    ]
    assert Completion.of(chunks, started_s=10.0) == Completion(
        text="abc",
        chunks=2,
        duration_s=1.0,
        ttft_s=0.5,
        finish_reason="stop",
        num_input_tokens=4,
        num_output_tokens=3,
    )


def test_an_answer_without_chunks_has_no_first_token() -> None:
    completion = Completion.of([], started_s=10.0)
    assert (completion.text, completion.chunks, completion.ttft_s) == ("", 0, None)


def test_chatml_is_one_user_turn() -> None:
    assert chatml("Hi?", system="Be brief.") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_exports_are_sorted_and_exist() -> None:
    assert client.__all__ == sorted(client.__all__)
    assert all(hasattr(client, name) for name in client.__all__)
