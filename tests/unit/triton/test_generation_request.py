"""Tensors to typed requests: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from python_backend.contract import TENSORRT_LLM
from python_backend.errors import InvalidRequest, Unsupported
from python_backend.triton.generation_request import Limits, is_stop, parse

LIMITS = Limits(vocab_size=100, max_seq_len=20, streaming=True)
NUMPY = {
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "FP16": np.float16,
    "BOOL": np.bool_,
}


def tensors(prompt: list[int] | None = None, max_tokens: int = 5, **scalars: Any) -> dict[str, Any]:
    """A request of one row, scalars shaped as Triton hands them over."""
    ids = [1, 2, 3] if prompt is None else prompt
    values = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([len(ids)], np.int32),
        "request_output_len": np.array([max_tokens], np.int32),
    }
    for name, value in scalars.items():
        values[name] = np.array([value], NUMPY[TENSORRT_LLM.input(name).dtype.value])
    return values


def parse_one(values: dict[str, Any], limits: Limits = LIMITS) -> Any:
    (request,) = parse(values, limits, exclude_input_in_output=True)
    return request


def test_a_plain_request() -> None:
    request = parse_one(tensors([4, 5, 6], 7, end_id=2, streaming=True, priority=0.9))
    assert request.prompt.tolist() == [4, 5, 6]
    assert (request.max_tokens, request.end_id, request.streaming) == (7, 2, True)
    assert request.priority == pytest.approx(0.9)
    assert request.exclude_input_in_output


def test_absent_and_negative_end_id_mean_none() -> None:
    assert parse_one(tensors()).end_id is None
    assert parse_one(tensors(end_id=-1)).end_id is None


def test_rows_of_a_batch_are_cut_to_their_length() -> None:
    batch = {
        "input_ids": np.array([[1, 2, 3], [4, 0, 0]], np.int32),
        "input_lengths": np.array([3, 1], np.int32),
        "request_output_len": np.array([2, 9], np.int32),
    }
    first, second = parse(batch, LIMITS, exclude_input_in_output=False)
    assert (first.prompt.tolist(), first.max_tokens) == ([1, 2, 3], 2)
    assert (second.prompt.tolist(), second.max_tokens) == ([4], 9)
    with pytest.raises(Unsupported, match="2 prompts"):
        parse(batch, Limits(vocab_size=100, max_seq_len=20, streaming=False), exclude_input_in_output=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (tensors(max_tokens=0), "max_tokens .* is 0; ask for at least 1"),
        (tensors(max_tokens=-3), "is -3"),
        (tensors([]), "the prompt is empty"),
        (tensors([1] * 20), "20 tokens; this engine takes at most 20"),
        (tensors([1] * 18, 3), "together 21; this engine takes at most 20.*at most 2 tokens"),
        (tensors([1, 100, 2]), "token id 100 is not in the vocabulary.*between 0 and 99"),
        (tensors([1, -7]), "token id -7"),
        (tensors(priority=1.5), "priority is 1.5; it lies between 0 and 1"),
        (tensors() | {"input_lengths": np.array([9], np.int32)}, "input_lengths is 9, but input_ids holds 3"),
        ({k: v for k, v in tensors().items() if k != "input_ids"}, "input_ids is missing"),
    ],
)
def test_values_out_of_range_are_refused_with_the_value_and_the_limit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_one(values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime_top_k", 50),
        ("runtime_top_p", 0.9),
        ("beam_width", 4),
        ("num_return_sequences", 2),
        ("repetition_penalty", 1.2),
        ("frequency_penalty", 0.5),
        ("min_tokens", 5),
        ("return_log_probs", True),
        ("lora_task_id", 7),
    ],
)
def test_what_the_engine_lacks_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=name):
        parse_one(tensors(**{name: value}))


def test_neutral_values_of_what_it_lacks_are_accepted() -> None:
    neutral: dict[str, Any] = {
        "runtime_top_k": 1, "runtime_top_p": 0.9, "beam_width": 1, "num_return_sequences": 1, "temperature": 0.7,
        "repetition_penalty": 1.0, "frequency_penalty": 0.0, "return_log_probs": False, "seed": 7,
    }  # fmt: skip
    empty_words = np.zeros((1, 2, 0), np.int32)
    request = parse_one(tensors(**neutral) | {"stop_words_list": empty_words, "bad_words_list": empty_words})
    assert request.max_tokens == 5


def test_every_input_of_the_contract_is_either_understood_or_refused() -> None:
    """No tensor of the contract may be swallowed: asked for in earnest it changes the request or is refused."""
    ignored = set()
    for tensor in TENSORRT_LLM.inputs:
        value = np.array([[b"x"]], np.object_) if tensor.dtype.name == "STRING" else None
        if value is None:
            dtype = np.uint8 if tensor.dtype.name == "UINT8" else NUMPY[tensor.dtype.value]
            value = np.full((1, *(2 if dim < 0 else dim for dim in tensor.dims)), 3, dtype)
        values = tensors()
        if tensor.name in values:
            continue
        try:
            request = parse_one(values | {tensor.name: value})
        except InvalidRequest:
            continue
        plain = parse_one(values)
        if all(np.array_equal(getattr(request, f), getattr(plain, f)) for f in request.__dataclass_fields__):
            ignored.add(tensor.name)
    assert ignored == {
        "exclude_input_in_output",  # already the default here
        "stop",  # read by is_stop
        "pad_id", "temperature", "seed", "random_seed", "len_penalty", "early_stopping",
        "beam_search_diversity_rate", "decoder_input_ids", "decoder_input_lengths", "runtime_top_p_min",
        "runtime_top_p_decay", "runtime_top_p_reset_ids", "prompt_table_extra_ids",
    }  # fmt: skip


def test_streaming_needs_a_decoupled_model() -> None:
    unary = Limits(vocab_size=100, max_seq_len=20, streaming=False)
    assert not parse_one(tensors(streaming=False), unary).streaming
    with pytest.raises(Unsupported, match="decoupled"):
        parse_one(tensors(streaming=True), unary)


def test_stop() -> None:
    assert is_stop(tensors(stop=True))
    assert not is_stop(tensors(stop=False))
    assert not is_stop(tensors())
