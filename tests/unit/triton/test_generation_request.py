"""Tensors to typed requests: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from python_backend.contract import TENSORRT_LLM
from python_backend.engine.guided import Guide, GuideType
from python_backend.errors import InvalidRequest, Unsupported
from python_backend.triton.generation_request import WITHOUT_EFFECT, Limits, is_stop, parse

LIMITS = Limits(
    vocab_size=100,
    tokenizer_vocab_size=90,
    max_seq_len=20,
    max_return_sequences=8,
    streaming=True,
    max_draft_len=4,
)
UNARY = replace(LIMITS, streaming=False)
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
        parse(batch, UNARY, exclude_input_in_output=False)


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


@pytest.mark.parametrize(("name", "value"), [("beam_width", 4), ("lookahead_window_size", 5), ("lora_task_id", 7)])
def test_what_the_engine_lacks_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=f"{name} = {value} is not available"):
        parse_one(tensors(**{name: value}))


def test_values_that_ask_for_nothing_leave_plain_greedy() -> None:
    neutral: dict[str, Any] = {
        "runtime_top_k": 1, "runtime_top_p": 0.9, "beam_width": 1, "num_return_sequences": 1, "temperature": 0.7,
        "repetition_penalty": 1.0, "frequency_penalty": 0.0, "return_log_probs": False, "seed": 7, "min_tokens": 0,
        "runtime_top_p_min": 0.0, "runtime_top_p_reset_ids": -1,
    }  # fmt: skip
    empty_words = np.zeros((1, 2, 0), np.int32)
    empty = {"stop_words_list": empty_words, "bad_words_list": empty_words, "embedding_bias": np.zeros((1, 0))}
    request = parse_one(tensors(**neutral) | empty)
    assert request.sampling is None
    assert (request.num_return_sequences, request.stop_words, request.guide, request.retention) == (1, (), None, None)


def test_sampling_parameters_are_read_under_the_contracts_names() -> None:
    said = parse_one(
        tensors(
            runtime_top_k=40, runtime_top_p=0.5, runtime_top_p_min=0.25, runtime_top_p_decay=0.75,
            runtime_top_p_reset_ids=9, temperature=1.5, repetition_penalty=2.0, presence_penalty=0.5,
            frequency_penalty=-0.5, min_tokens=3, seed=2**64 - 1, return_log_probs=True, return_context_logits=True,
            return_generation_logits=True,
        )
    ).sampling  # fmt: skip
    assert (said.top_k, said.top_p, said.top_p_min, said.top_p_decay, said.top_p_reset_ids) == (40, 0.5, 0.25, 0.75, 9)
    assert (said.temperature, said.repetition_penalty, said.presence_penalty) == (1.5, 2.0, 0.5)
    assert (said.frequency_penalty, said.min_tokens, said.seed) == (-0.5, 3, 2**64 - 1)
    assert said.return_log_probs
    assert said.return_context_logits
    assert said.return_generation_logits


def test_older_names_mean_the_same_and_may_not_contradict() -> None:
    said = parse_one(tensors(random_seed=5, min_length=4, runtime_top_k=9)).sampling
    assert (said.seed, said.min_tokens) == (5, 4)
    assert parse_one(tensors(random_seed=5, seed=5, runtime_top_k=9)).sampling.seed == 5
    with pytest.raises(InvalidRequest, match="min_tokens is 3 and min_length, its older name, is 4"):
        parse_one(tensors(min_tokens=3, min_length=4))


def test_a_bias_fits_the_model_or_its_tokenizer() -> None:
    bias = np.arange(90, dtype=np.float32)
    said = parse_one(tensors() | {"embedding_bias": bias[None]}).sampling
    assert said.embedding_bias.tolist() == [*range(90), *[0] * 10]
    whole = np.ones(100, np.float32)
    assert parse_one(tensors() | {"embedding_bias": whole[None]}).sampling.embedding_bias.tolist() == [1] * 100
    with pytest.raises(InvalidRequest, match="embedding_bias has 95 values; this model's vocabulary has 100"):
        parse_one(tensors() | {"embedding_bias": np.ones((1, 95), np.float32)})


def test_words_guides_and_retention() -> None:
    words = np.array([[[5, 6, 7], [2, 3, -1]]], np.int32)
    guide = {
        "guided_decoding_guide_type": np.array([[b"regex"]], np.object_),
        "guided_decoding_guide": np.array([["é+".encode()]], np.object_),
    }
    ranges = {
        "retention_token_range_starts": np.array([[0, 2]], np.int32),
        "retention_token_range_ends": np.array([[2, -1]], np.int32),
        "retention_token_range_priorities": np.array([[80, 10]], np.int32),
        "retention_decode_priority": np.array([[1]], np.int32),
    }
    request = parse_one(tensors() | {"stop_words_list": words, "bad_words_list": words} | guide | ranges)
    assert request.stop_words == request.sampling.bad_words == ((5, 6), (7,))
    assert request.guide == Guide(GuideType.REGEX, "é+")
    assert [each.retention.priority for each in request.retention.ranges] == [80, 10]
    assert request.retention.decode.priority == 1
    with pytest.raises(InvalidRequest, match="guided_decoding_guide is not valid UTF-8"):
        parse_one(tensors() | guide | {"guided_decoding_guide": np.array([[b"\xff"]], np.object_)})


def test_several_sequences() -> None:
    assert parse_one(tensors(num_return_sequences=3)).num_return_sequences == 3
    for count in (0, -1, 9):
        with pytest.raises(InvalidRequest, match=f"num_return_sequences is {count}; it lies between 1 and 8"):
            parse_one(tensors(num_return_sequences=count))
    with pytest.raises(Unsupported, match="num_return_sequences is 2; a model that is not decoupled"):
        parse_one(tensors(num_return_sequences=2), UNARY)


def draft_of(*ids: int, logits: Any = None, **scalars: Any) -> dict[str, Any]:
    values = tensors(**scalars) | {"draft_input_ids": np.array([ids], np.int32)}
    return values if logits is None else values | {"draft_logits": np.asarray(logits, np.float32)[np.newaxis]}


def test_a_draft() -> None:
    request = parse_one(draft_of(5, 6, 7))
    assert (request.draft, request.draft_acceptance, request.num_draft_tokens) == ((5, 6, 7), None, 0)
    logits = np.arange(200, dtype=np.float32).reshape(2, 100)
    logits[1, :50] = -np.inf
    request = parse_one(draft_of(5, 6, logits=logits))
    np.testing.assert_array_equal(request.draft_acceptance.logits, logits)
    assert request.draft_acceptance.threshold is None
    request = parse_one(draft_of(5, 6, logits=logits, draft_acceptance_threshold=0.25))
    assert request.draft_acceptance.threshold == 0.25
    assert parse_one(tensors(num_draft_tokens=4)).num_draft_tokens == 4


def test_an_empty_draft_is_none() -> None:
    empty = {"draft_input_ids": np.zeros((1, 0), np.int32), "draft_logits": np.zeros((1, 0, 100), np.float32)}
    request = parse_one(tensors(num_draft_tokens=0) | empty)
    assert (request.draft, request.draft_acceptance, request.num_draft_tokens) == ((), None, 0)
    assert parse_one(tensors(num_return_sequences=2) | empty).num_return_sequences == 2


FLAT = np.zeros((2, 100), np.float32)
NOT_NUMBERS = np.concatenate((FLAT[:1], np.full((1, 100), np.nan, np.float32)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            draft_of(1, 2, 3, 4, 5),
            r"Number of draft tokens \(5\) is larger than maximum number of draft tokens \(4\).*raise max_draft_len",
        ),
        (draft_of(1, 100), "token id 100 in draft_input_ids is not in the vocabulary.*between 0 and 99"),
        (draft_of(-1), "token id -1 in draft_input_ids"),
        (draft_of(1, 2, 3, logits=FLAT), r"shape \[2, 100\]; 3 draft tokens .* make \[3, 100\]"),
        (draft_of(1, 2, logits=FLAT[:, :90]), r"shape \[2, 90\]; .* make \[2, 100\]\. .*same vocabulary"),
        (draft_of(1, 2, logits=NOT_NUMBERS), "largest value is nan"),
        (draft_of(1, 2, logits=FLAT + np.inf), "largest value is inf"),
        (draft_of(1, 2, logits=FLAT - np.inf), "largest value is -inf"),
        (tensors() | {"draft_logits": FLAT[np.newaxis]}, "draft_logits is there, but draft_input_ids is not"),
        (draft_of(1, draft_acceptance_threshold=0.5), "threshold is 0.5, but draft_logits is missing"),
        (tensors(draft_acceptance_threshold=0.5), "threshold is 0.5, but draft_logits is missing"),
        (draft_of(1, 2, logits=FLAT, draft_acceptance_threshold=1.5), "threshold is 1.5; it lies between 0 and 1"),
        (draft_of(1, 2, logits=FLAT, draft_acceptance_threshold=-0.5), "threshold is -0.5"),
        (draft_of(1, 2, logits=FLAT, draft_acceptance_threshold=np.nan), "threshold is nan"),
        (tensors(num_draft_tokens=5), "num_draft_tokens is 5; it lies between 0 and 4, max_draft_len"),
        (tensors(num_draft_tokens=-1), "num_draft_tokens is -1"),
        (draft_of(1, num_draft_tokens=2), "num_draft_tokens is 2, but draft_input_ids brings a draft already"),
        (draft_of(1, num_return_sequences=2), "num_return_sequences is 2, but the draft .* continues one sequence"),
    ],
)
def test_a_draft_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_one(values)


def test_an_engine_without_drafts_refuses_them() -> None:
    none = replace(LIMITS, max_draft_len=0)
    assert parse_one(tensors(num_draft_tokens=0), none).draft == ()
    with pytest.raises(InvalidRequest, match=r"maximum number of draft tokens \(0\)"):
        parse_one(draft_of(1), none)
    with pytest.raises(InvalidRequest, match="num_draft_tokens is 1"):
        parse_one(tensors(num_draft_tokens=1), none)


def test_each_row_of_a_batch_has_its_draft() -> None:
    batch = {
        "input_ids": np.array([[1, 2, 3], [4, 0, 0]], np.int32),
        "input_lengths": np.array([3, 1], np.int32),
        "request_output_len": np.array([2, 9], np.int32),
        "draft_input_ids": np.array([[5, 6], [7, 8]], np.int32),
    }
    assert [each.draft for each in parse(batch, LIMITS, exclude_input_in_output=False)] == [(5, 6), (7, 8)]


def test_logits_that_no_response_could_carry_are_refused() -> None:
    large = replace(LIMITS, vocab_size=150_000, max_seq_len=8192)
    ids = [1] * 2000
    with pytest.raises(InvalidRequest, match=r"up to 1144 MiB in one response \(2000 tokens.*at most 1024 MiB"):
        parse_one(tensors(ids, return_context_logits=True), large)
    with pytest.raises(InvalidRequest, match="or stream"):
        parse_one(tensors(max_tokens=2000, return_generation_logits=True), large)
    assert parse_one(tensors(max_tokens=2000, return_generation_logits=True, streaming=True), large).streaming


def test_every_input_of_the_contract_is_either_understood_or_refused() -> None:
    """No tensor of the contract may be swallowed: asked for in earnest it changes the request or is refused."""
    ignored = set()
    for tensor in TENSORRT_LLM.inputs:
        value = np.array([[b"x"]], np.object_) if tensor.dtype.name == "STRING" else None
        if value is None:
            dtype = np.uint8 if tensor.dtype.name == "UINT8" else NUMPY[tensor.dtype.value]
            value = np.full((1, *(2 if dim < 0 else dim for dim in tensor.dims)), 3, dtype)
        values = tensors(runtime_top_k=5)  # at random: so that a seed means something
        if tensor.name in ("input_ids", "input_lengths", "request_output_len"):
            continue
        try:
            request = parse_one(values | {tensor.name: value})
        except InvalidRequest:
            continue
        if shown(request) == shown(parse_one(values)):
            ignored.add(tensor.name)
    assert ignored == {"exclude_input_in_output", "stop"} | WITHOUT_EFFECT  # the default here; read by is_stop
    assert {
        "pad_id", "len_penalty", "early_stopping", "beam_search_diversity_rate", "decoder_input_ids",
        "decoder_input_lengths", "prompt_table_extra_ids",
    } == WITHOUT_EFFECT  # fmt: skip


def shown(request: Any) -> str:
    """All fields, for comparison: parameters compare by identity, since arrays are among them."""
    return repr(request)


def test_streaming_needs_a_decoupled_model() -> None:
    assert not parse_one(tensors(streaming=False), UNARY).streaming
    with pytest.raises(Unsupported, match="decoupled"):
        parse_one(tensors(streaming=True), UNARY)


def test_stop() -> None:
    assert is_stop(tensors(stop=True))
    assert not is_stop(tensors(stop=False))
    assert not is_stop(tensors())
