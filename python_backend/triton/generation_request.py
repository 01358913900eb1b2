"""Tensors of ``tensorrt_llm`` to typed requests: every refusal that needs no engine happens here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.contract import TENSORRT_LLM
from python_backend.errors import InvalidRequest, Unsupported

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine and its model configuration allow."""

    vocab_size: int
    max_seq_len: int
    streaming: bool  # the model is decoupled


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue, and how to answer."""

    prompt: npt.NDArray[np.int64]
    max_tokens: int
    end_id: int | None
    priority: float
    streaming: bool
    exclude_input_in_output: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool
    return_perf_metrics: bool


def is_stop(tensors: Tensors) -> bool:
    """Whether this asks to stop the running request of the same id."""
    return bool(_Row(tensors, 0).flag("stop", default=False))


def parse(tensors: Tensors, limits: Limits, *, exclude_input_in_output: bool) -> list[GenerationRequest]:
    """The requests in one Triton request, one per row of the batch.

    ``exclude_input_in_output`` is the model's default. Raises InvalidRequest for values out of range and Unsupported
    for a feature of the contract that this engine lacks, when it is asked for and not merely present.
    """
    rows = len(tensors["input_lengths"].reshape(-1))
    if rows > 1 and not limits.streaming:
        raise Unsupported(
            f"the request has {rows} prompts; a model that is not decoupled answers one. "
            "Send one prompt a request, or serve the profile whose model_transaction_policy is decoupled."
        )
    return [_parse_row(_Row(tensors, row), limits, exclude_input_in_output) for row in range(rows)]


def _parse_row(row: _Row, limits: Limits, exclude_input: bool) -> GenerationRequest:
    _refuse_unsupported(row)
    prompt = _prompt(row, limits)
    max_tokens = row.integer("request_output_len")
    if max_tokens is None or max_tokens < 1:
        raise InvalidRequest(f"max_tokens (request_output_len) is {max_tokens}; ask for at least 1.")
    room = limits.max_seq_len - prompt.size
    if max_tokens > room:
        raise InvalidRequest(
            f"the prompt has {prompt.size} tokens and max_tokens is {max_tokens}, together {prompt.size + max_tokens}; "
            f"this engine takes at most {limits.max_seq_len}. Shorten the prompt, or ask for at most {room} tokens."
        )
    streaming = row.flag("streaming", default=False)
    if streaming and not limits.streaming:
        raise Unsupported(
            "streaming needs a decoupled model, and this profile is not. "
            "Leave `streaming` out, or serve the profile whose model_transaction_policy is decoupled."
        )
    priority = row.number("priority")
    if priority is not None and not 0 <= priority <= 1:
        raise InvalidRequest(f"priority is {priority:g}; it lies between 0 and 1.")
    end_id = row.integer("end_id")
    return GenerationRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        end_id=None if end_id is None or end_id < 0 else end_id,
        priority=0.5 if priority is None else priority,
        streaming=streaming,
        exclude_input_in_output=row.flag("exclude_input_in_output", default=exclude_input),
        return_num_input_tokens=row.flag("return_num_input_tokens", default=False),
        return_num_output_tokens=row.flag("return_num_output_tokens", default=False),
        return_perf_metrics=row.flag("return_perf_metrics", default=False),
    )


def _prompt(row: _Row, limits: Limits) -> npt.NDArray[np.int64]:
    length = row.integer("input_lengths")
    ids = row.array("input_ids")
    if ids is None or length is None:
        raise InvalidRequest("input_ids is missing; send the prompt's token ids.")
    if length < 1:
        raise InvalidRequest(f"the prompt is empty (input_lengths is {length}). Send at least one token.")
    if length > ids.size:
        raise InvalidRequest(f"input_lengths is {length}, but input_ids holds {ids.size} tokens.")
    if length >= limits.max_seq_len:
        raise InvalidRequest(
            f"the prompt has {length} tokens; this engine takes at most {limits.max_seq_len}, answer included. "
            f"Shorten the prompt or rebuild the engine with a larger max_seq_len."
        )
    prompt = ids[:length].astype(np.int64)
    wrong = prompt[(prompt < 0) | (prompt >= limits.vocab_size)]
    if wrong.size:
        raise InvalidRequest(
            f"token id {wrong[0]} is not in the vocabulary; ids of this model lie between 0 and "
            f"{limits.vocab_size - 1}. Tokenize with the engine's own tokenizer."
        )
    return prompt


class _Row:
    """One row of the batch, read by the contract's names."""

    def __init__(self, tensors: Tensors, index: int) -> None:
        self._tensors = tensors
        self._index = index

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """The row of a tensor, flat; None when absent."""
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        # With reshape { shape: [ ] } scalars arrive as [batch].
        return np.asarray(tensor[self._index]).reshape(-1)

    def scalar(self, name: str) -> Any:
        """The first value of the row; None when there is none."""
        values = self.array(name)
        if values is None or values.size == 0:
            return None
        return values[0]

    def integer(self, name: str) -> int | None:
        value = self.scalar(name)
        return None if value is None else int(value)

    def number(self, name: str) -> float | None:
        value = self.scalar(name)
        return None if value is None else float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.scalar(name)
        return default if value is None else bool(value)


#: Values that ask for nothing: greedy decoding of one sequence already behaves so.
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "num_return_sequences": (1,),
    "beam_width": (1,),
    "runtime_top_k": (0, 1),
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "min_tokens": (0,),
    "min_length": (0,),
    "return_log_probs": (0,),
    "return_context_logits": (0,),
    "return_generation_logits": (0,),
}

#: Read elsewhere, or without effect on the answer of greedy decoding with one beam. Decoder tensors concern
#: encoder-decoder models; preprocessing fills them for every prompt.
_UNDERSTOOD = {
    "input_ids", "input_lengths", "request_output_len", "end_id", "pad_id", "streaming", "exclude_input_in_output",
    "return_num_input_tokens", "return_num_output_tokens", "return_perf_metrics", "priority", "stop",
    "temperature", "seed", "random_seed", "len_penalty", "early_stopping", "beam_search_diversity_rate",
    "decoder_input_ids", "decoder_input_lengths", "runtime_top_p_min", "runtime_top_p_decay",
    "runtime_top_p_reset_ids", "prompt_table_extra_ids",
}  # fmt: skip


def _refuse_unsupported(row: _Row) -> None:
    for tensor in TENSORRT_LLM.inputs:
        name = tensor.name
        values = None if name in _UNDERSTOOD else row.array(name)
        if values is None or values.size == 0:
            continue
        value = row.scalar(name)
        if name in _NEUTRAL and value in _NEUTRAL[name]:
            continue
        if name == "runtime_top_p" and (value <= 0 or row.integer("runtime_top_k") == 1):
            continue
        shown = f" = {value:g}" if values.size == 1 and np.issubdtype(values.dtype, np.number) else ""
        raise Unsupported(
            f"{name}{shown} is not available on the CPU engine: it decodes greedily, one sequence a prompt. "
            f"Leave {name} out, or serve a TensorRT-LLM engine."
        )
