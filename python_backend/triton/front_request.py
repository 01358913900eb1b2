"""A request at the front door, `tensorrt_llm_bls`: what `preprocessing` gets of it and what the engine gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.contract import ENGINE_INPUT_OF, TENSORRT_LLM, TENSORRT_LLM_BLS
from python_backend.errors import InvalidRequest, Unsupported
from python_backend.text.word_list import parse_word_list
from python_backend.triton.request_row import Row

Arrays = dict[str, npt.NDArray[Any]]

#: front door's input -> preprocessing's
PREPROCESSING_INPUT_OF = {
    "text_input": "QUERY",
    "decoder_text_input": "DECODER_QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
    "messages": "MESSAGES",
}
#: preprocessing's output -> the engine's input
ENGINE_INPUT_OF_TOKENS = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "DECODER_INPUT_ID": "decoder_input_ids",
    "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
    "STOP_WORDS_IDS": "stop_words_list",
    "BAD_WORDS_IDS": "bad_words_list",
    "EMBEDDING_BIAS": "embedding_bias",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "prompt_table_extra_ids",
}
_OWN = frozenset({"num_draft_tokens", "use_draft_logits"})
_IMAGES = frozenset({"image_input", "image_bytes_input", "image_url_input", "image_sizes_input", "video_bytes_input"})


def front_inputs(tensors: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """The inputs as they are on the wire, [rows, ...], in our own memory. Raises Unsupported for images."""
    for name in _IMAGES & tensors.keys():
        raise Unsupported(f"{name} is not available: the models served here read text. Leave {name} out.")
    # With reshape { shape: [ ] } numbers arrive as [rows].
    return {
        name: np.array(array.reshape(-1, 1) if TENSORRT_LLM_BLS.input(name).scalar else array)
        for name, array in tensors.items()
    }


def preprocessing_inputs(front: Arrays) -> Arrays:
    """What `preprocessing` wants of them."""
    return {target: front[name] for name, target in PREPROCESSING_INPUT_OF.items() if name in front}


def preprocessing_outputs(front: Arrays) -> tuple[str, ...]:
    """What is wanted of `preprocessing`: nothing that nobody asked for."""
    left_out = set()
    if "decoder_text_input" not in front:
        left_out |= {"DECODER_INPUT_ID", "REQUEST_DECODER_INPUT_LEN"}
    if "prompt_table_extra_id" not in front:
        left_out.add("OUT_PROMPT_TABLE_EXTRA_IDS")
    return tuple(name for name in ENGINE_INPUT_OF_TOKENS if name not in left_out)


def engine_inputs(front: Arrays, tokens: Arrays, *, added: bool) -> list[Arrays]:
    """The engine's inputs, for each row by itself, from the front door's and from what `preprocessing` made of them.

    ``added``: with those that only the CPU engine knows.
    """
    known = {tensor.name for tensor in (TENSORRT_LLM if added else TENSORRT_LLM.over_tensorrt_llm()).inputs}
    passed_on = {
        ENGINE_INPUT_OF.get(name, name): array
        for name, array in front.items()
        if name not in PREPROCESSING_INPUT_OF and name not in _OWN
    }
    whole = passed_on | {ENGINE_INPUT_OF_TOKENS[name]: array for name, array in tokens.items()}
    rows = []
    for index, length in enumerate(tokens["REQUEST_INPUT_LEN"].reshape(-1).tolist()):
        row = {name: array[index : index + 1] for name, array in whole.items() if name in known and array[index].size}
        for name in {"input_ids", "prompt_table_extra_ids"} & row.keys():
            row[name] = row[name][:, :length]
        rows.append(row)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """What a row says about drafts."""

    num_draft_tokens: int
    use_draft_logits: bool

    @classmethod
    def of(cls, front: Arrays, index: int, *, default: int, most: int) -> Speculation:
        """Raises InvalidRequest for values out of range. ``default``: drafts of requests that say nothing."""
        row = Row(front, index)
        count = row.integer("num_draft_tokens")
        if count is not None and not 0 <= count <= most:
            limit = f"it lies between 0 and {most} (max_draft_len)" if most else "this server drafts nothing"
            raise InvalidRequest(
                f"num_draft_tokens is {count}; {limit}. Leave it out, or set `drafter` and `max_draft_len` in "
                "tensorrt_llm_bls/config.pbtxt."
            )
        return cls(num_draft_tokens=default if count is None else count, use_draft_logits=row.flag("use_draft_logits"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """How the answer to a row looks, for those who write it here; and what the engine is asked for."""

    prompt: npt.NDArray[np.int64]
    max_tokens: int
    end_id: int | None
    stop_words: tuple[tuple[int, ...], ...]
    num_return_sequences: int
    streaming: bool
    exclude_input_in_output: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool
    return_perf_metrics: bool

    @classmethod
    def of(cls, inputs: Arrays, *, exclude_input_in_output: bool, vocab_size: int) -> AnswerForm:
        """From the engine's inputs of one row. Raises InvalidRequest, and Unsupported for beams."""
        row = Row(inputs, 0)
        max_tokens, beams, end_id = row.integer("request_output_len"), row.integer("beam_width"), row.integer("end_id")
        sequences = row.integer("num_return_sequences")
        if max_tokens is None or max_tokens < 1:
            raise InvalidRequest(f"max_tokens (request_output_len) is {max_tokens}; ask for at least 1.")
        if beams not in (None, 1):
            raise Unsupported(
                f"beam_width = {beams} is not available on tensorrt_llm_bls. Over TensorRT-LLM, ask `ensemble`."
            )
        if sequences is not None and sequences < 1:
            raise InvalidRequest(f"num_return_sequences is {sequences}; ask for at least 1.")
        table = row.matrix("stop_words_list")
        return cls(
            prompt=inputs["input_ids"].reshape(-1).astype(np.int64),
            max_tokens=max_tokens,
            end_id=None if end_id is None or end_id < 0 else end_id,
            stop_words=() if table is None else tuple(parse_word_list("stop_words_list", table, vocab_size)),
            num_return_sequences=sequences or 1,
            streaming=row.flag("streaming"),
            exclude_input_in_output=row.flag("exclude_input_in_output", default=exclude_input_in_output),
            return_num_input_tokens=row.flag("return_num_input_tokens"),
            return_num_output_tokens=row.flag("return_num_output_tokens"),
            return_perf_metrics=row.flag("return_perf_metrics"),
        )
