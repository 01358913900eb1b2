"""Tensors of ``tensorrt_llm`` to typed requests: every refusal that needs no engine happens here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from python_backend.engine.guided import Guide
from python_backend.engine.sampling import DraftAcceptance, SamplingParameters
from python_backend.errors import InvalidRequest, Unsupported
from python_backend.scheduling.retention import KvRetention
from python_backend.triton.draft_request import draft_acceptance, draft_tokens, num_draft_tokens
from python_backend.triton.request_row import Row, Tensors
from python_backend.triton.sampling_request import sampling_parameters, word_list

#: Of the logits in one response, which has to fit a gRPC message of 2 GiB.
MAX_LOGITS_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine and its model configuration allow."""

    vocab_size: int
    tokenizer_vocab_size: int
    max_seq_len: int
    max_return_sequences: int
    streaming: bool  # the model is decoupled
    max_draft_len: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue, and how to answer."""

    prompt: npt.NDArray[np.int64]
    max_tokens: int
    end_id: int | None
    priority: float
    tenant: str
    sampling: SamplingParameters | None  # None: plain greedy
    num_return_sequences: int
    stop_words: tuple[tuple[int, ...], ...]
    guide: Guide | None
    retention: KvRetention | None
    draft: tuple[int, ...]  # guesses at the first tokens; with any, the request ends once they are verified
    draft_acceptance: DraftAcceptance | None
    num_draft_tokens: int  # most that the engine may draft for itself at a time
    streaming: bool
    exclude_input_in_output: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool
    return_perf_metrics: bool


def is_stop(tensors: Tensors) -> bool:
    """Whether this asks to stop the running request of the same id."""
    return bool(Row(tensors, 0).flag("stop"))


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
    return [_parse_row(Row(tensors, row), limits, exclude_input_in_output) for row in range(rows)]


def _parse_row(row: Row, limits: Limits, exclude_input: bool) -> GenerationRequest:
    _refuse_unavailable(row)
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
    streaming = row.flag("streaming")
    if streaming and not limits.streaming:
        raise Unsupported(
            "streaming needs a decoupled model, and this profile is not. "
            "Leave `streaming` out, or serve the profile whose model_transaction_policy is decoupled."
        )
    priority = row.number("priority")
    if priority is not None and not 0 <= priority <= 1:
        raise InvalidRequest(f"priority is {priority:g}; it lies between 0 and 1.")
    end_id = row.integer("end_id")
    draft = draft_tokens(row, vocab_size=limits.vocab_size, max_draft_len=limits.max_draft_len)
    own_draft = num_draft_tokens(row, draft, max_draft_len=limits.max_draft_len)
    sampling = sampling_parameters(row, vocab_size=limits.vocab_size, tokenizer_vocab_size=limits.tokenizer_vocab_size)
    if sampling is not None:
        a_step = min(1 + len(draft) + own_draft, max_tokens)
        _check_logits_size(sampling, prompt.size, a_step if streaming or draft else max_tokens, limits.vocab_size)
    return GenerationRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        end_id=None if end_id is None or end_id < 0 else end_id,
        priority=0.5 if priority is None else priority,
        tenant=row.text("tenant") or "",
        sampling=sampling,
        num_return_sequences=_num_return_sequences(row, limits, draft),
        stop_words=tuple(word_list(row, "stop_words_list", limits.vocab_size)),
        guide=Guide.parse(row.text("guided_decoding_guide_type"), row.text("guided_decoding_guide")),
        retention=_retention(row),
        draft=draft,
        draft_acceptance=draft_acceptance(row, draft, vocab_size=limits.vocab_size),
        num_draft_tokens=own_draft,
        streaming=streaming,
        exclude_input_in_output=row.flag("exclude_input_in_output", default=exclude_input),
        return_num_input_tokens=row.flag("return_num_input_tokens"),
        return_num_output_tokens=row.flag("return_num_output_tokens"),
        return_perf_metrics=row.flag("return_perf_metrics"),
    )


def _prompt(row: Row, limits: Limits) -> npt.NDArray[np.int64]:
    length = row.integer("input_lengths")
    ids = row.array("input_ids")
    if length is not None and length < 1:
        raise InvalidRequest(f"the prompt is empty (input_lengths is {length}). Send at least one token.")
    if ids is None or length is None:
        raise InvalidRequest("input_ids is missing; send the prompt's token ids.")
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


def _num_return_sequences(row: Row, limits: Limits, draft: tuple[int, ...]) -> int:
    count = row.integer("num_return_sequences")
    if count is None or count == 1:
        return 1
    if not 1 <= count <= limits.max_return_sequences:
        raise InvalidRequest(
            f"num_return_sequences is {count}; it lies between 1 and {limits.max_return_sequences}, "
            "the most sequences that run at once."
        )
    if not limits.streaming:
        raise Unsupported(
            f"num_return_sequences is {count}; a model that is not decoupled answers with one sequence. "
            "Leave it out, or serve the profile whose model_transaction_policy is decoupled."
        )
    if draft:
        raise Unsupported(
            f"num_return_sequences is {count}, but the draft in draft_input_ids continues one sequence. "
            "Leave one of them out."
        )
    return count


def _retention(row: Row) -> KvRetention | None:
    starts, ends, priorities, durations_ms = (
        row.integers(f"retention_token_range_{name}") for name in ("starts", "ends", "priorities", "durations_ms")
    )
    decode_priority = row.integer("retention_decode_priority")
    decode_duration_ms = row.integer("retention_decode_duration_ms")
    given = (starts, ends, priorities, durations_ms, decode_priority, decode_duration_ms)
    if all(value is None for value in given):
        return None
    return KvRetention.of_tensors(
        starts or [], ends or [], priorities or [], durations_ms, decode_priority, decode_duration_ms
    )


def _check_logits_size(
    sampling: SamplingParameters, prompt_tokens: int, tokens_per_response: int, vocab_size: int
) -> None:
    rows = sampling.return_context_logits * prompt_tokens + sampling.return_generation_logits * tokens_per_response
    size_bytes = rows * vocab_size * 4
    if size_bytes > MAX_LOGITS_BYTES:
        raise InvalidRequest(
            f"the logits asked for take up to {size_bytes >> 20} MiB in one response ({rows} tokens of "
            f"{vocab_size * 4} bytes); at most {MAX_LOGITS_BYTES >> 20} MiB are sent. Ask for fewer tokens, or stream."
        )


#: What the CPU engine does not do, and the tensors that ask for it.
_UNAVAILABLE = {
    "beam search": ("beam_width",),
    "encoder": (
        "encoder_input_features", "encoder_output_lengths", "cross_attention_mask", "skip_cross_attn_blocks",
    ),
    "virtual tokens": ("prompt_embedding_table", "prompt_vocab_size"),
    "images": ("mrope_rotary_cos_sin", "mrope_position_deltas"),
    "LoRA adapters": ("lora_task_id", "lora_weights", "lora_config"),
    "disaggregated serving": ("context_phase_params",),
    "lookahead decoding": (
        "lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size",
    ),
}  # fmt: skip

#: Without effect with one beam, a decoder only, no padding and no virtual tokens; preprocessing fills most of them.
WITHOUT_EFFECT = frozenset({
    "pad_id", "len_penalty", "early_stopping", "beam_search_diversity_rate", "decoder_input_ids",
    "decoder_input_lengths", "prompt_table_extra_ids",
})  # fmt: skip


def _refuse_unavailable(row: Row) -> None:
    for feature, names in _UNAVAILABLE.items():
        for name in names:
            values = row.array(name)
            if values is None or (name == "beam_width" and values[0] == 1):
                continue
            shown = f" = {values[0]:g}" if values.size == 1 and np.issubdtype(values.dtype, np.number) else ""
            raise Unsupported(
                f"{name}{shown} is not available on the CPU engine, which has no {feature}. "
                f"Leave {name} out, or serve a TensorRT-LLM engine."
            )
