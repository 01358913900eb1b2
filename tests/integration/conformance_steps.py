"""`preprocessing` and `postprocessing` by themselves, next to the tokenizer that they wrap."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from python_backend.contract import POSTPROCESSING, PREPROCESSING
from python_backend.text.chat_request import ChatRequest
from python_backend.text.chat_template import ChatTemplate
from tests.integration.conformance import TEXT, Bench, typed
from tests.integration.triton_api import Tensors, text_request
from tests.tiny_llama import VOCAB_SIZE

CONVERSATION = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which fox jumps?"}])


def rendered(bench: Bench, conversation: str = CONVERSATION) -> str:
    template = ChatTemplate.load(bench.wire.server.options.engine_dir or "")
    return template.render(ChatRequest.parse(conversation.encode()))


def preprocessed(bench: Bench, **inputs: Any) -> Tensors:
    inputs = {"QUERY": TEXT, "REQUEST_OUTPUT_LEN": 5} | inputs
    tensors = {name: typed(PREPROCESSING, name, value) for name, value in inputs.items()}
    (response,) = bench.wire.ask(PREPROCESSING, tensors).responses
    return response


def ids_of(bench: Bench, text: str) -> list[int]:
    return [int(token) for token in bench.tokenizer.encode(text, add_special_tokens=False)]


def a_plain_text(bench: Bench) -> None:
    found = {name: array.tolist() for name, array in preprocessed(bench).items()}
    end_id, pad_id = bench.tokenizer.end_id, bench.tokenizer.pad_id
    assert found == {
        "INPUT_ID": [bench.prompt],
        "REQUEST_INPUT_LEN": [[len(bench.prompt)]],
        "DECODER_INPUT_ID": [[pad_id]],
        "REQUEST_DECODER_INPUT_LEN": [[1]],
        "BAD_WORDS_IDS": [[[], []]],
        "STOP_WORDS_IDS": [[[], []]],
        "EMBEDDING_BIAS": [[]],
        "REQUEST_OUTPUT_LEN": [[5]],
        "OUT_END_ID": [[end_id]],
        "OUT_PAD_ID": [[pad_id]],
        "OUT_PROMPT_TABLE_EXTRA_IDS": [[0] * len(bench.prompt)],
    }


def everything_at_once(bench: Bench) -> None:
    found = preprocessed(
        bench,
        DECODER_QUERY="a decoder only has none",
        REQUEST_OUTPUT_LEN=9,
        BAD_WORDS_DICT=["fox", ""],
        STOP_WORDS_DICT=["lazy dog", "vow"],
        EMBEDDING_BIAS_WORDS=["fox", " dog"],
        EMBEDDING_BIAS_WEIGHTS=[1.5, -2.0],
        END_ID=17,
        PAD_ID=18,
        PROMPT_TABLE_EXTRA_ID=6,
    )
    stop = [ids_of(bench, "lazy dog"), ids_of(bench, "vow")]
    ids = [*stop[0], *stop[1]]
    ends = [len(stop[0]), len(ids), *[-1] * (len(ids) - 2)]
    assert found["STOP_WORDS_IDS"].tolist() == [[ids, ends]]
    ids, ends = found["BAD_WORDS_IDS"][0].tolist()
    bad = [ids[start:end] for start, end in zip([0, *ends], [end for end in ends if end > 0], strict=False)]
    assert all(ids_of(bench, word) in bad for word in ("fox", " fox"))
    bias = np.zeros(VOCAB_SIZE, np.float32)
    for word, weight in (("fox", 1.5), (" dog", -2.0)):
        bias[ids_of(bench, word)] += weight
    assert found["EMBEDDING_BIAS"].tolist() == [bias.tolist()]
    numbers = ("REQUEST_OUTPUT_LEN", "OUT_END_ID", "OUT_PAD_ID", "DECODER_INPUT_ID", "REQUEST_DECODER_INPUT_LEN")
    assert [found[name].tolist() for name in numbers] == [[[9]], [[17]], [[18]], [[18]], [[1]]]
    assert found["OUT_PROMPT_TABLE_EXTRA_IDS"].tolist() == [[6] * len(bench.prompt)]


def a_conversation(bench: Bench) -> None:
    found = preprocessed(bench, QUERY="", MESSAGES=CONVERSATION)
    assert found["INPUT_ID"].tolist() == [ids_of(bench, rendered(bench))]


def rows_of_different_length(bench: Bench) -> None:
    queries = np.array([[TEXT.encode()], [b"fox jumps over the lazy dog"]], object)
    tensors = text_request("") | {"QUERY": queries, "REQUEST_OUTPUT_LEN": np.array([[3], [4]], np.int32)}
    del tensors["text_input"], tensors["max_tokens"]
    (found,) = bench.wire.ask(PREPROCESSING, tensors).responses
    whole = [bench.prompt, ids_of(bench, "fox jumps over the lazy dog")]
    longest = max(map(len, whole))
    assert found["INPUT_ID"].tolist() == [ids + [bench.tokenizer.pad_id] * (longest - len(ids)) for ids in whole]
    assert found["REQUEST_INPUT_LEN"].tolist() == [[len(ids)] for ids in whole]


def tokens_become_text(bench: Bench) -> None:
    """The tokens of each beam that count."""
    ids = np.array([[bench.plain.ids[:10], bench.plain.ids[10:20]]], np.int32)
    tensors = {"TOKENS_BATCH": ids, "SEQUENCE_LENGTH": np.array([[10, 4]], np.int32)}
    (response,) = bench.wire.ask(POSTPROCESSING, tensors).responses
    beams = [bench.plain.ids[:10], bench.plain.ids[10:14]]
    texts = [bench.tokenizer.decode(beam, skip_special_tokens=True).encode() for beam in beams]
    assert response["OUTPUT"].tolist() == [texts]


def lengths_must_fit_the_tokens(bench: Bench) -> None:
    for lengths, message in (
        ([[9]], "SEQUENCE_LENGTH holds 9; it lies between 0 and 2"),
        ([[-1]], "SEQUENCE_LENGTH holds -1; it lies"),
        ([[1, 1]], "TOKENS_BATCH has shape [1, 1, 2] and SEQUENCE_LENGTH [1, 2]; send one length for each beam."),
    ):
        tensors = {"TOKENS_BATCH": np.array([[[5, 6]]], np.int32), "SEQUENCE_LENGTH": np.array(lengths, np.int32)}
        error = bench.wire.ask(POSTPROCESSING, tensors).error
        assert error is not None
        assert error.startswith(message)


INPUTS_OF: dict[Callable[[Bench], None], list[str]] = {
    a_plain_text: ["QUERY", "REQUEST_OUTPUT_LEN"],
    everything_at_once: [tensor.name for tensor in PREPROCESSING.inputs if tensor.name != "MESSAGES"],
    a_conversation: ["MESSAGES"],
    rows_of_different_length: ["QUERY"],
}
