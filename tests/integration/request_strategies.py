"""Hypothesis strategies of requests, made from the contract: right ones, wrong ones, and clients that do as they like.

Each input of a request is drawn by its name where the name says what makes sense (``SENSIBLE``), or by its type and
dims alone, from values that somebody's bug may send.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from tritonclient.utils import triton_to_np_dtype

from python_backend.contract import ENGINE_INPUT_OF, MODELS, DataType, Model, Tensor
from tests.integration.attempt import Attempt, Door
from tests.integration.triton_api import Tensors
from tests.tiny_llama import VOCAB_SIZE

Array = npt.NDArray[Any]
Values = st.SearchStrategy[Any]

TOKENS = st.integers(3, VOCAB_SIZE - 1)
FLAGS = st.booleans()
TEXTS = st.sampled_from(
    [
        "the quick brown",
        "fox",
        "seven wizards quietly judge",
        "naïve 汉字 🙂",
        "<|im_start|>user\nfox<|im_end|>\n",
        " ",
        "a" * 400,
    ]
)
WORDS = st.sampled_from(["fox", " lazy", "e", "\n", "", "vow", "zz", "🙂"])
TENANTS = st.sampled_from(["", "a", "b"])
#: Shared, so that a `stop` meets requests that run. No valid neighbour uses them.
IDS = st.sampled_from(["", "", "one", "two"])

_GUIDES = st.sampled_from([
    ("regex", "[ab]{3}c+"), ("regex", "(fox|dog)"), ("regex", "(a"), ("regex", "a{1,100000}"), ("regex", "(a*)*b"),
    ("regex", "((a{100}){100}){100}"), ("regex", "[^"), ("regex", ""), ("regex", "(?=a)b"),
    ("json", ""), ("json", "{}"),
    ("json_schema", json.dumps({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]})),
    ("json_schema", '{"$ref": "#"}'), ("json_schema", "{"), ("json_schema", "null"), ("json_schema", "false"),
    ("json_schema", '{"minLength": -1}'), ("json_schema", '{"type": "array", "minItems": 1000000}'),
    ("json_schema", '{"type": "string", "pattern": "("}'), ("json_schema", '{"enum": []}'),
    ("json_schema", '{"allOf": [{"type": "string"}, {"type": "integer"}]}'),
    ("json_schema", "[" * 500 + "]" * 500), ("json_schema", '{"a":' * 2000 + "1" + "}" * 2000),
    ("ebnf_grammar", 'root ::= "a" root | "b"'), ("ebnf_grammar", "root ::= root"),
    ("ebnf_grammar", "root ::= nowhere"), ("ebnf_grammar", "root ::="), ("ebnf_grammar", 'other ::= "a"'),
    ("ebnf_grammar", 'root ::= ("a" | "b")* [0-9]+'),
    ("ebnf_grammar", "root ::= " + "(" * 400 + '"a"' + ")" * 400), ("ebnf_grammar", 'root ::= "a"{0,100000}'),
    ("jsn", "{}"), ("", "orphan"), ("structural_tag", "x"), ("regex", "\x00"), ("regex", "\\"),
])  # fmt: skip

_MESSAGES = st.sampled_from([
    json.dumps([{"role": "user", "content": "fox"}]),
    json.dumps({"messages": [{"role": "user", "content": "fox"}]}),
    json.dumps([{"role": "user", "content": [{"type": "text", "text": "fox"}]}]),
    json.dumps([{"role": "user", "content": "\ud800"}]), "[]", "null", "{", '[{"role": "user"}]', '[{"content": "x"}]',
    '[{"role": 1, "content": 2}]', '{"messages": 3}', "[[[]]]", '"text"', "NaN", "[" * 3000,
    '[{"role": "user", "content": 1e999}]',
])  # fmt: skip


def per_row(values: Values) -> Callable[[st.DrawFn, int], Array]:
    """[rows, 1], each row its own value."""

    def draw_rows(draw: st.DrawFn, rows: int) -> Array:
        drawn = [draw(values) for _ in range(rows)]
        return np.array([[v.encode(errors="surrogatepass") if isinstance(v, str) else v] for v in drawn], object)

    return draw_rows


def alike(values: Values) -> Callable[[st.DrawFn, int], Array]:
    """[rows, ...], the same in every row: Triton takes no ragged request."""

    def draw_row(draw: st.DrawFn, rows: int) -> Array:
        row = np.asarray(draw(values))
        return np.broadcast_to(row, (rows, *row.shape))

    return draw_row


@st.composite
def word_table(draw: st.DrawFn) -> Array:
    """[2, n] of word ids and their ends, mostly a right one."""
    words = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=3), max_size=3))
    ids = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words], dtype=np.int64).tolist()
    table = np.array([ids, ends + [-1] * (len(ids) - len(ends))]).reshape(2, len(ids))
    if ids and draw(st.integers(0, 4)) == 0:
        table[draw(st.integers(0, 1)), draw(st.integers(0, len(ids) - 1))] = draw(EXTREME_INTS)
    return table


@st.composite
def bias(draw: st.DrawFn) -> Array:
    kind = draw(st.sampled_from(["random", "random", "none", "banned", "huge", "nan", "short"]))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(0, 3, VOCAB_SIZE)
    match kind:
        case "none":
            values[:] = 0
        case "banned":
            values[draw(st.integers(1, VOCAB_SIZE - 1)) :] = -np.inf
        case "huge":
            values[7] = draw(EXTREME_FLOATS)
        case "nan":
            values[9] = np.nan
        case "short":
            values = values[: draw(st.integers(0, VOCAB_SIZE - 1))]
    return values


@st.composite
def encoded(draw: st.DrawFn, texts: Values) -> Array:
    return np.array([text.encode() for text in draw(st.lists(texts, max_size=3))], object)


INT32 = np.iinfo(np.int32)
EXTREME_INTS = st.sampled_from([0, 1, -1, 2, 7, 319, 320, 1024, 65536, INT32.max, INT32.min])
EXTREME_FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 1e10, 1e30, -1e30, np.nan, np.inf, -np.inf])
EXTREME_TEXTS = st.sampled_from(
    [
        b"",
        b"\xff\xfe",
        b"\x00",
        b"a\x00b",
        b"\xed\xa0\x80",
        b"x" * 5000,
        b"fox",
        b"<|im_end|>",
        b'{"a": 1}',
        "é́".encode(),
    ]
)


def floats(least: float, most: float) -> Values:
    return st.floats(least, most, width=32)


#: Of the engine's inputs, and of the ensemble's that it does not pass on: values that mostly make sense.
SENSIBLE: dict[str, Callable[[st.DrawFn, int], Array]] = {
    "num_return_sequences": per_row(st.integers(1, 3)),
    "draft_input_ids": alike(st.lists(TOKENS, max_size=6)),
    "draft_acceptance_threshold": per_row(floats(0, 1)),
    "num_draft_tokens": per_row(st.integers(0, 8)),
    "end_id": per_row(st.integers(-1, VOCAB_SIZE)),
    "pad_id": per_row(TOKENS),
    "stop_words_list": alike(word_table()),
    "bad_words_list": alike(word_table()),
    "embedding_bias": alike(bias()),
    "beam_width": per_row(st.just(1)),
    "temperature": per_row(floats(0, 3)),
    "runtime_top_k": per_row(st.integers(0, 60)),
    "runtime_top_p": per_row(floats(0, 1)),
    "runtime_top_p_min": per_row(floats(0, 1)),
    "runtime_top_p_decay": per_row(floats(0.0625, 1)),
    "runtime_top_p_reset_ids": per_row(st.integers(-1, VOCAB_SIZE - 1)),
    "len_penalty": per_row(floats(0, 2)),
    "repetition_penalty": per_row(floats(0.5, 2)),
    "presence_penalty": per_row(floats(-2, 2)),
    "frequency_penalty": per_row(floats(-2, 2)),
    "min_tokens": per_row(st.integers(0, 50)),
    "min_length": per_row(st.integers(0, 50)),
    "seed": per_row(st.integers(0, 2**64 - 1)),
    "random_seed": per_row(st.integers(0, 3)),
    "streaming": per_row(FLAGS),
    "priority": per_row(floats(0, 1)),
    "tenant": per_row(TENANTS),
    "guided_decoding_guide_type": per_row(_GUIDES.map(lambda guide: guide[0])),
    "guided_decoding_guide": per_row(_GUIDES.map(lambda guide: guide[1])),
    "retention_token_range_starts": alike(st.lists(st.integers(0, 60), max_size=2)),
    "retention_token_range_ends": alike(st.lists(st.integers(-1, 60), max_size=2)),
    "retention_token_range_priorities": alike(st.lists(st.integers(0, 100), max_size=2)),
    "retention_token_range_durations_ms": alike(st.lists(st.integers(-1, 50), max_size=2)),
    "retention_decode_priority": per_row(st.integers(0, 100)),
    "retention_decode_duration_ms": per_row(st.integers(-1, 50)),
    "prompt_table_extra_ids": alike(st.lists(st.integers(0, 9), max_size=3)),
    "bad_words": alike(encoded(WORDS)),
    "stop_words": alike(encoded(WORDS)),
    "messages": per_row(_MESSAGES),
    "decoder_text_input": per_row(TEXTS),
    "prompt_table_extra_id": per_row(st.integers(0, 9)),
    # preprocessing's names of the same
    "BAD_WORDS_DICT": alike(encoded(WORDS)),
    "STOP_WORDS_DICT": alike(encoded(WORDS)),
    "MESSAGES": per_row(_MESSAGES),
    "END_ID": per_row(st.integers(-1, VOCAB_SIZE)),
    "PAD_ID": per_row(TOKENS),
}  # fmt: skip
SENSIBLE |= {
    tensor.name: per_row(FLAGS) for tensor in MODELS["tensorrt_llm"].inputs
    if tensor.dtype is DataType.BOOL and tensor.name.startswith(("return_", "exclude_"))
}  # fmt: skip


def _typed(tensor: Tensor, array: Array) -> Array:
    dtype = np.dtype(triton_to_np_dtype(tensor.dtype.value))
    return np.ascontiguousarray(array.astype(dtype) if dtype != np.object_ else array)


@st.composite
def _guide(draw: st.DrawFn, rows: int) -> Tensors:
    pairs = [draw(_GUIDES) for _ in range(rows)]
    names = ("guided_decoding_guide_type", "guided_decoding_guide")
    return {name: np.array([[pair[i].encode()] for pair in pairs], object) for i, name in enumerate(names)}


@st.composite
def _retention(draw: st.DrawFn, rows: int) -> Tensors:
    cuts = sorted(draw(st.sets(st.integers(0, 80), min_size=2, max_size=4)))
    of = {
        "starts": cuts[:-1],
        "ends": [*cuts[1:-1], draw(st.sampled_from([-1, cuts[-1]]))],
        "priorities": [draw(st.integers(0, 100)) for _ in cuts[1:]],
        "durations_ms": [draw(st.integers(-1, 40)) for _ in cuts[1:]],
    }
    return {f"retention_token_range_{name}": np.array([values] * rows, np.int32) for name, values in of.items()}


@st.composite
def _drafts(draw: st.DrawFn, rows: int) -> Tensors:
    drafted = [draw(st.lists(TOKENS, min_size=1, max_size=5))] * rows
    logits = np.random.default_rng(draw(st.integers(0, 9))).normal(0, 4, (rows, len(drafted[0]), VOCAB_SIZE))
    tensors: Tensors = {"draft_input_ids": np.array(drafted, np.int32)}
    return tensors | ({"draft_logits": logits.astype(np.float32)} if draw(FLAGS) else {})


@st.composite
def _bias_words(draw: st.DrawFn, rows: int) -> Tensors:
    words = draw(st.lists(WORDS, min_size=1, max_size=3))
    weights = [draw(floats(-50, 50)) for _ in words]
    return {
        "embedding_bias_words": np.array([[word.encode() for word in words]] * rows, object),
        "embedding_bias_weights": np.array([weights] * rows, np.float32),
    }


#: Tensors that only make sense together.
_TOGETHER: dict[str, list[Callable[[int], st.SearchStrategy[Tensors]]]] = {
    "tensorrt_llm": [_guide, _retention, _drafts],
    "ensemble": [_guide, _bias_words],
    "tensorrt_llm_bls": [_guide, _bias_words],
}


@st.composite
def _required(draw: st.DrawFn, model: Model, rows: int) -> Tensors:
    lengths = st.sampled_from([1, 2, 8, 8, 20, 20, 40, 40, 130, 1000])
    match model.name:
        case "tensorrt_llm":
            prompts = [draw(st.lists(TOKENS, min_size=1, max_size=70)) for _ in range(rows)]
            longest = max(map(len, prompts))
            return {
                "input_ids": np.array([prompt + [0] * (longest - len(prompt)) for prompt in prompts], np.int32),
                "input_lengths": np.array([[len(prompt)] for prompt in prompts], np.int32),
                "request_output_len": per_row(lengths)(draw, rows).astype(np.int32),
            }
        case "postprocessing":
            beams, tokens = draw(st.integers(0, 3)), draw(st.integers(0, 9))
            ids = [draw(st.lists(TOKENS, min_size=tokens, max_size=tokens)) for _ in range(rows * beams)]
            return {
                "TOKENS_BATCH": np.array(ids, np.int32).reshape(rows, beams, tokens),
                "SEQUENCE_LENGTH": np.full((rows, beams), draw(st.integers(0, tokens)), np.int32),
            }
    text, length = ("QUERY", "REQUEST_OUTPUT_LEN") if model.name == "preprocessing" else ("text_input", "max_tokens")
    return {text: per_row(TEXTS)(draw, rows), length: per_row(lengths)(draw, rows).astype(np.int32)}


@st.composite
def _wild(draw: st.DrawFn, tensor: Tensor, rows: int) -> Array:
    """Any values; now and then another number of rows, another shape or another type."""
    if draw(st.integers(0, 9)) == 0:
        rows = draw(st.sampled_from([0, 1, 2, 70]))
    dims = tuple(dim if dim >= 0 else draw(st.sampled_from([0, 1, 2, 5])) for dim in tensor.dims)
    if draw(st.integers(0, 9)) == 0:
        dims = draw(st.sampled_from([(), (0,), (2,), (1, 1), (3, 4), (2, 2, 2)]))
    dtype = tensor.dtype if draw(st.integers(0, 14)) else draw(st.sampled_from(DataType))
    values = {DataType.BOOL: FLAGS, DataType.STRING: EXTREME_TEXTS}.get(dtype)
    if values is None:
        values = EXTREME_FLOATS if dtype in (DataType.FP16, DataType.FP32) else EXTREME_INTS
    few = np.array(draw(st.lists(values, min_size=1, max_size=4)), object)
    plain = np.resize(few, (rows, *dims))
    with np.errstate(over="ignore"):
        numpy_dtype = np.dtype(triton_to_np_dtype(dtype.value))
        if numpy_dtype.kind in "iu":
            bits = plain.astype(np.int64)
            return bits.astype(numpy_dtype)
        return plain if numpy_dtype == np.object_ else plain.astype(numpy_dtype)


def _sensible_names(model: Model) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in model.inputs if ENGINE_INPUT_OF.get(tensor.name, tensor.name) in SENSIBLE}


@st.composite
def _tensors(draw: st.DrawFn, model: Model, rows: int) -> Tensors:
    tensors = draw(_required(model, rows))
    if model.name == "tensorrt_llm" and draw(st.integers(0, 15)) == 0:
        return tensors | {"stop": np.full((rows, 1), True)}
    sensible = _sensible_names(model)
    if sensible:
        for name in draw(st.lists(st.sampled_from(sorted(sensible)), max_size=5, unique=True)):
            values = SENSIBLE[ENGINE_INPUT_OF.get(name, name)](draw, rows)
            tensors[name] = _typed(sensible[name], values)
    if model.name in _TOGETHER and draw(st.integers(0, 3)) == 0:
        tensors |= draw(draw(st.sampled_from(_TOGETHER[model.name]))(rows))
    for prompt, messages in (("text_input", "messages"), ("QUERY", "MESSAGES")):
        if messages in tensors and draw(st.integers(0, 4)):
            tensors[prompt] = np.full((rows, 1), b"", object)
    if draw(st.integers(0, 3)) == 0:
        for tensor in draw(st.lists(st.sampled_from(model.inputs), min_size=1, max_size=3, unique_by=lambda t: t.name)):
            tensors[tensor.name] = draw(_wild(tensor, rows))
        if draw(st.integers(0, 9)) == 0:
            del tensors[draw(st.sampled_from(sorted(tensors)))]
    return tensors


#: Without `tensorrt_llm_bls`: in Triton 2.51 calls of one model from many threads of another deadlock now and then, and
#: with them whoever sends to that model, the engine included.
_MODELS = ["tensorrt_llm"] * 6 + ["ensemble"] * 5 + ["preprocessing", "postprocessing"]


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    """One request to any of the models of the CPU profile, and its client."""
    model = MODELS[draw(st.sampled_from(_MODELS))]
    rows = draw(st.sampled_from([1, 1, 1, 1, 1, 2, 3]))
    generates = "finish_reason" in {tensor.name for tensor in model.outputs}
    over_http: list[Door] = ["generate", "generate_stream"] if generates else ["infer"]
    # /generate has no way to write several rows, so that there they are nothing but a wrong request.
    http = draw(st.integers(0, 9)) < (5 if rows == 1 else 1)
    door: Door = draw(st.sampled_from(over_http)) if http else "grpc"
    beside: list[dict[str, str | int | bool]] = [{"temprature": "1"}, {"request_type": "x"}]
    if door != "grpc":  # which has fields of its own for them
        beside += [{"priority": 3}, {"timeout": -1}]
    tensors = draw(_tensors(model, rows))
    leaves_after = draw(st.sampled_from([None] * 8 + [0, 1, 3])) if generates else None
    if leaves_after is not None and draw(FLAGS):  # in the middle of something long
        length, stream = (
            ("request_output_len", "streaming") if model.name == "tensorrt_llm" else ("max_tokens", "stream")
        )
        tensors |= {length: np.full((rows, 1), 900, np.int32), stream: np.full((rows, 1), True)}
    return Attempt(
        model=model.name,
        tensors=tensors,
        door=door,
        request_id=draw(IDS),
        timeout_us=draw(st.sampled_from([None] * 8 + [1, 20_000, 60_000_000, 2**40])),
        parameters=draw(st.sampled_from(beside)) if draw(st.integers(0, 14)) == 0 else {},
        leaves_after=leaves_after,
    )
