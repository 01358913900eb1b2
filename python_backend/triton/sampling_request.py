"""The tensors that say how tokens are chosen, as sampling parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.engine.sampling import SamplingParameters
from python_backend.errors import InvalidRequest
from python_backend.text.word_list import parse_word_list
from python_backend.triton.request_row import Row

#: Our names, which are also the ensemble's, and those of `tensorrt_llm` where they differ.
_ENGINE_NAMES = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "top_p_min": "runtime_top_p_min",
    "top_p_decay": "runtime_top_p_decay",
    "top_p_reset_ids": "runtime_top_p_reset_ids",
    "bad_words": "bad_words_list",
}


def sampling_parameters(row: Row, *, vocab_size: int, tokenizer_vocab_size: int) -> SamplingParameters | None:
    """The parameters in a row; None when the tokens are those that greedy decoding gives, and nothing else is wanted.

    Raises InvalidRequest, naming the tensor, for values out of range, and for two that contradict each other.
    """
    said: dict[str, Any] = {
        "temperature": row.number("temperature"),
        "top_k": row.integer("runtime_top_k"),
        "top_p": _unless(row.number("runtime_top_p"), at_most=0.0),
        "top_p_min": _unless(row.number("runtime_top_p_min"), at_most=0.0),
        "top_p_decay": row.number("runtime_top_p_decay"),
        "top_p_reset_ids": _unless(row.integer("runtime_top_p_reset_ids"), at_most=-1),
        "repetition_penalty": row.number("repetition_penalty"),
        "presence_penalty": row.number("presence_penalty"),
        "frequency_penalty": row.number("frequency_penalty"),
        "min_tokens": _one_of(row, "min_tokens", "min_length"),
        "seed": _one_of(row, "seed", "random_seed"),
        "embedding_bias": _bias(row, vocab_size, tokenizer_vocab_size),
        "bad_words": tuple(word_list(row, "bad_words_list", vocab_size)),
        "return_log_probs": row.flag("return_log_probs"),
        "return_generation_logits": row.flag("return_generation_logits"),
        "return_context_logits": row.flag("return_context_logits"),
    }
    try:
        parameters = SamplingParameters(**{name: value for name, value in said.items() if value is not None})
        parameters.check_vocabulary(vocab_size)
    except InvalidRequest as error:
        raise InvalidRequest(_with_engine_name(str(error))) from error
    return None if parameters.is_plain_greedy and not parameters.return_context_logits else parameters


def word_list(row: Row, name: str, vocab_size: int) -> list[tuple[int, ...]]:
    """The words of a [2, n] tensor; none when it is absent. Raises InvalidRequest as parse_word_list does."""
    table = row.matrix(name)
    return [] if table is None else parse_word_list(name, table, vocab_size)


def _unless(value: Any, *, at_most: float) -> Any:
    """None for the values with which clients say "unset"."""
    return None if value is not None and value <= at_most else value


def _one_of(row: Row, name: str, older_name: str) -> int | None:
    """The value under the tensor's name, or under the one it had before TensorRT-LLM 0.20."""
    value, older_value = row.integer(name), row.integer(older_name)
    if value is not None and older_value is not None and value != older_value:
        raise InvalidRequest(f"{name} is {value} and {older_name}, its older name, is {older_value}. Send only {name}.")
    return older_value if value is None else value


def _bias(row: Row, vocab_size: int, tokenizer_vocab_size: int) -> npt.NDArray[np.float32] | None:
    """[vocab_size]. The tokenizer may know fewer tokens than the model has logits; the others get no bias."""
    bias = row.array("embedding_bias")
    if bias is None or not bias.any():
        return None
    if bias.size == tokenizer_vocab_size:
        bias = np.pad(bias[:vocab_size], (0, max(vocab_size - tokenizer_vocab_size, 0)))
    return bias.astype(np.float32)


def _with_engine_name(message: str) -> str:
    name, separator, rest = message.partition(" ")
    engine_name = _ENGINE_NAMES.get(name)
    return f"{name} ({engine_name}){separator}{rest}" if engine_name else message
