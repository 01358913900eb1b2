"""Every tensor of every model: the one table that all sides are checked against or made from.

Names, types, dims and meaning are those of TensorRT-LLM 1.2.x (NVIDIA's ``inflight_batcher_llm`` repository), so a
client written for it works unchanged. What Slipstream adds is optional and marked ``added``: such a tensor exists in
the profiles that run our own engine, since the C++ backend would not know it; and in all profiles where preprocessing
reads it.

Dims exclude the batch dimension, as in config.pbtxt: ``(1,)`` is ``[batch, 1]`` on the wire, ``-1`` any length.
The module knows no tensor library: Python types and strings only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class DataType(Enum):
    """Tensor element types, by their Triton name; the value is the name that tritonclient uses."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    INT32 = "INT32"
    INT64 = "INT64"
    UINT64 = "UINT64"
    FP16 = "FP16"
    FP32 = "FP32"
    STRING = "BYTES"

    @property
    def pbtxt(self) -> str:
        """The name in config.pbtxt, such as ``TYPE_INT32``."""
        return f"TYPE_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output of a model."""

    name: str
    dtype: DataType
    dims: tuple[int, ...] = (1,)
    meaning: str
    required: bool = False
    #: What the ensemble calls a required input that Triton is told is optional: an ensemble that lacks one which it
    #: deems required ends without an answer, so it is the model that has to say what is missing.
    ensemble_name: str = ""
    ragged: bool = False  # allow_ragged_batch
    scalar: bool = False  # reshape { shape: [ ] }: one number per request, dims stay (1,) on the wire
    added: bool = False  # ours, not NVIDIA's: only in profiles that run our own engine
    needs_our_engine: bool = True  # of an added tensor: False when preprocessing reads it, which serves every engine
    default: str = "unset"  # what an absent optional input means; also what "asks for nothing special"


@dataclass(frozen=True, slots=True)
class Model:
    """The inputs and outputs of one model of the repository."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def input(self, name: str) -> Tensor:
        """The input called ``name``; KeyError when there is none."""
        return _by_name(self.inputs)[name]

    def output(self, name: str) -> Tensor:
        """The output called ``name``; KeyError when there is none."""
        return _by_name(self.outputs)[name]

    def over_tensorrt_llm(self) -> Model:
        """The model as it is in the profiles of TensorRT-LLM: without what only our own engine offers."""
        return Model(
            self.name,
            tuple(tensor for tensor in self.inputs if not (tensor.added and tensor.needs_our_engine)),
            tuple(tensor for tensor in self.outputs if not (tensor.added and tensor.needs_our_engine)),
        )


def _by_name(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}


B, U8, I32, I64, U64 = DataType.BOOL, DataType.UINT8, DataType.INT32, DataType.INT64, DataType.UINT64
F16, F32, STR = DataType.FP16, DataType.FP32, DataType.STRING


def _tensor(name: str, dtype: DataType, dims: tuple[int, ...], meaning: str, **flags: object) -> Tensor:
    return replace(Tensor(name=name, dtype=dtype, dims=dims, meaning=meaning), **flags)  # type: ignore[arg-type]


def _number(name: str, dtype: DataType, meaning: str, **flags: object) -> Tensor:
    return _tensor(name, dtype, (1,), meaning, scalar=True, **flags)


def _ragged(name: str, dtype: DataType, dims: tuple[int, ...], meaning: str, **flags: object) -> Tensor:
    return _tensor(name, dtype, dims, meaning, ragged=True, **flags)


# ---------------------------------------------------------------- tensorrt_llm, tensorrt_llm_draft

_ENGINE_INPUTS = (
    _ragged("input_ids", I32, (-1,), "prompt token ids, right-padded in a batch (real length: input_lengths)"),
    _ragged("encoder_input_features", F16, (-1, -1), "encoder features (Whisper, mllama)"),
    _number("encoder_output_lengths", I32, "length of the encoder output"),
    _number("input_lengths", I32, "number of prompt tokens", required=True),
    _number("request_output_len", I32, "most tokens to generate", required=True),
    _number("num_return_sequences", I32, "sequences to generate from one prompt", default="1"),
    _ragged("draft_input_ids", I32, (-1,), "draft tokens to verify"),
    _ragged("decoder_input_ids", I32, (-1,), "decoder prompt (encoder-decoder models)"),
    _number("decoder_input_lengths", I32, "length of decoder_input_ids"),
    _ragged("draft_logits", F32, (-1, -1), "logits of the draft tokens, [n_draft, vocab]"),
    _number("draft_acceptance_threshold", F32, "constant acceptance threshold for draft tokens"),
    _number("end_id", I32, "token that ends generation; -1: none", default="-1"),
    _number("pad_id", I32, "token that pads a batch"),
    _ragged("stop_words_list", I32, (2, -1), "row 0: ids of all stop words; row 1: their cumulative ends, then -1"),
    _ragged("bad_words_list", I32, (2, -1), "as stop_words_list, for words that may not be generated"),
    _ragged("embedding_bias", F32, (-1,), "added to the logits, [vocab]"),
    _number("beam_width", I32, "beams", default="1"),
    _number("temperature", F32, "divides the logits before sampling; no effect on greedy decoding"),
    _number("runtime_top_k", I32, "sample from the k most likely; 0 or 1 without top-p: greedy", default="0"),
    _number("runtime_top_p", F32, "sample from the smallest set with this mass; <= 0: unset", default="0"),
    _number("runtime_top_p_min", F32, "lower bound of a decaying top-p"),
    _number("runtime_top_p_decay", F32, "factor on top-p at each token"),
    _number("runtime_top_p_reset_ids", I32, "token that resets top-p"),
    _number("len_penalty", F32, "beam search: exponent of the length"),
    _number("early_stopping", B, "beam search: stop at the first full set of beams"),
    _number("repetition_penalty", F32, "divides the logits of tokens seen before", default="1"),
    _number("beam_search_diversity_rate", F32, "beam search: diversity", default="0"),
    _number("presence_penalty", F32, "subtracted once from tokens seen before", default="0"),
    _number("frequency_penalty", F32, "subtracted for each time a token was seen", default="0"),
    _number("min_tokens", I32, "tokens before end_id may be chosen", default="0"),
    _number("seed", U64, "seed of the sampler"),
    _number("return_log_probs", B, "return cum_log_probs and output_log_probs", default="false"),
    _number("return_context_logits", B, "return context_logits", default="false"),
    _number("return_generation_logits", B, "return generation_logits", default="false"),
    _number("return_perf_metrics", B, "return times, block counts and acceptance", default="false"),
    _number("return_num_input_tokens", B, "return num_input_tokens", default="false"),
    _number("return_num_output_tokens", B, "return num_output_tokens", default="false"),
    _number("exclude_input_in_output", B, "leave the prompt out of output_ids; overrides the model parameter"),
    _number("stop", B, "cancel the running request with the same request id", default="false"),
    _number("streaming", B, "answer as tokens come (decoupled models only)", default="false"),
    _ragged("prompt_embedding_table", F16, (-1, -1), "embeddings of virtual tokens"),
    _ragged("prompt_table_extra_ids", U64, (-1,), "tells virtual tokens apart in KV cache reuse"),
    _number("prompt_vocab_size", I32, "rows of prompt_embedding_table"),
    _ragged("cross_attention_mask", B, (-1, -1), "mask of cross attention"),
    _tensor("mrope_rotary_cos_sin", F32, (-1,), "rotary table (Qwen2-VL)"),
    _tensor("mrope_position_deltas", I64, (1,), "rotary offsets (Qwen2-VL)"),
    _number("lora_task_id", U64, "adapter to use; its weights are sent once"),
    _ragged("lora_weights", F16, (-1, -1), "adapter weights, [modules x layers, D*Hi + Ho*D]"),
    _ragged("lora_config", I32, (-1, 4), "module id, layer, rank, is_dora of each row of lora_weights"),
    _ragged("context_phase_params", U8, (-1,), "state of a context phase that ran elsewhere"),
    _ragged("skip_cross_attn_blocks", B, (1,), "skip cross attention"),
    _ragged("retention_token_range_starts", I32, (-1,), "KV retention: first token of each range"),
    _ragged("retention_token_range_ends", I32, (-1,), "KV retention: end of each range"),
    _ragged("retention_token_range_priorities", I32, (-1,), "KV retention: priority of each range, 0 to 100"),
    _ragged("retention_token_range_durations_ms", I32, (-1,), "KV retention: how long each priority holds"),
    _ragged("retention_decode_priority", I32, (1,), "KV retention: priority of generated blocks"),
    _ragged("retention_decode_duration_ms", I32, (1,), "KV retention: how long that priority holds"),
    _ragged("guided_decoding_guide_type", STR, (1,), "json, json_schema, regex or ebnf_grammar"),
    _ragged("guided_decoding_guide", STR, (1,), "the schema, expression or grammar"),
    _ragged("lookahead_window_size", I32, (1,), "lookahead decoding: window"),
    _ragged("lookahead_ngram_size", I32, (1,), "lookahead decoding: n-gram"),
    _ragged("lookahead_verification_set_size", I32, (1,), "lookahead decoding: verification set"),
    _number("priority", F32, "urgency among waiting requests, 0 to 1", added=True, default="0.5"),
    _number("random_seed", U64, "name of seed before TensorRT-LLM 0.20", added=True),
    _number("min_length", I32, "name of min_tokens before TensorRT-LLM 0.20", added=True, default="0"),
    _tensor("tenant", STR, (1,), "on whose behalf; the batch is shared out fairly between tenants", added=True),
    _number("num_draft_tokens", I32, "most tokens the engine drafts for itself in a step", added=True, default="0"),
)

_PERF_OUTPUTS = (
    _tensor("kv_cache_alloc_new_blocks", I32, (1,), "blocks newly allocated for the request"),
    _tensor("kv_cache_reused_blocks", I32, (1,), "blocks reused from the KV cache"),
    _tensor("kv_cache_alloc_total_blocks", I32, (1,), "blocks allocated for the request"),
    _tensor("arrival_time_ns", I64, (1,), "when the engine took the request"),
    _tensor("first_scheduled_time_ns", I64, (1,), "when it first ran"),
    _tensor("first_token_time_ns", I64, (1,), "when its first token was there"),
    _tensor("last_token_time_ns", I64, (1,), "when its last token was there"),
    _tensor("acceptance_rate", F32, (1,), "accepted / proposed draft tokens"),
    _tensor("total_accepted_draft_tokens", I32, (1,), "draft tokens accepted"),
    _tensor("total_draft_tokens", I32, (1,), "draft tokens proposed"),
)
_COUNT_OUTPUTS = (
    _tensor("num_input_tokens", I32, (1,), "prompt tokens"),
    _tensor("num_output_tokens", I32, (1,), "generated tokens in this response"),
)
_SHARED_OUTPUTS = (
    _tensor("cum_log_probs", F32, (-1,), "log probability of each beam, so far"),
    _tensor(
        "output_log_probs", F32, (-1, -1), "[beam, tokens]: log probability of each generated token in this response"
    ),
    _tensor("context_logits", F32, (-1, -1), "[prompt, vocab]; in the first response"),
    _tensor("generation_logits", F32, (-1, -1, -1), "[beam, tokens, vocab] of the generated tokens in this response"),
    _tensor("batch_index", I32, (1,), "row of the request this answers; only when the request has several"),
    _tensor("sequence_index", I32, (1,), "which of num_return_sequences; only when there are several"),
)
_FINISH_REASON = _tensor("finish_reason", STR, (1,), "stop, length or cancelled; empty while running", added=True)

_STOP_WORD = _tensor("stop_word", STR, (1,), "the stop word that ended the answer; absent without one", added=True)

_ENGINE_OUTPUTS = (
    _tensor("output_ids", I32, (-1, -1), "[beam, tokens]; while streaming only the new tokens"),
    _tensor("sequence_length", I32, (-1,), "tokens in each beam of output_ids"),
    *_SHARED_OUTPUTS,
    _tensor("context_phase_params", U8, (-1,), "state after a context phase"),
    *_PERF_OUTPUTS,
    *_COUNT_OUTPUTS,
    _tensor("text_output", STR, (-1,), "output_ids as text, one per beam", added=True),
    _FINISH_REASON,
    _STOP_WORD,
)

# ---------------------------------------------------------------- preprocessing, postprocessing

_MESSAGES = "a conversation as JSON, for the chat template; send it with an empty prompt"

_PREPROCESSING_INPUTS = (
    _tensor("QUERY", STR, (1,), "prompt, UTF-8", required=True, ensemble_name="text_input"),
    _tensor("DECODER_QUERY", STR, (1,), "decoder prompt (encoder-decoder models)"),
    _tensor("REQUEST_OUTPUT_LEN", I32, (1,), "most tokens to generate", required=True, ensemble_name="max_tokens"),
    _tensor("BAD_WORDS_DICT", STR, (-1,), "words that may not be generated"),
    _tensor("STOP_WORDS_DICT", STR, (-1,), "words that end generation"),
    _tensor("EMBEDDING_BIAS_WORDS", STR, (-1,), "words whose logits are biased"),
    _tensor("EMBEDDING_BIAS_WEIGHTS", F32, (-1,), "the bias of each of those words"),
    _tensor("END_ID", I32, (1,), "token that ends generation", default="the tokenizer's"),
    _tensor("PAD_ID", I32, (1,), "token that pads a batch", default="the tokenizer's, else END_ID"),
    _tensor("PROMPT_TABLE_EXTRA_ID", U64, (1,), "tells virtual tokens apart in KV cache reuse"),
    _tensor("MESSAGES", STR, (1,), _MESSAGES, added=True, needs_our_engine=False),
)
_PREPROCESSING_OUTPUTS = (
    _tensor("INPUT_ID", I32, (-1,), "prompt token ids, right-padded in a batch"),
    _tensor("REQUEST_INPUT_LEN", I32, (1,), "number of prompt tokens"),
    _tensor("DECODER_INPUT_ID", I32, (-1,), "decoder prompt ids; [pad_id] when there is none"),
    _tensor("REQUEST_DECODER_INPUT_LEN", I32, (1,), "length of DECODER_INPUT_ID"),
    _tensor("BAD_WORDS_IDS", I32, (2, -1), "bad words as ids and cumulative ends"),
    _tensor("STOP_WORDS_IDS", I32, (2, -1), "stop words as ids and cumulative ends"),
    _tensor("EMBEDDING_BIAS", F32, (-1,), "[vocab], or empty when nothing is biased"),
    _tensor("REQUEST_OUTPUT_LEN", I32, (-1,), "as it came in"),
    _tensor("OUT_END_ID", I32, (1,), "END_ID or the tokenizer's"),
    _tensor("OUT_PAD_ID", I32, (1,), "PAD_ID or the tokenizer's"),
    _tensor("OUT_PROMPT_TABLE_EXTRA_IDS", U64, (-1,), "PROMPT_TABLE_EXTRA_ID for each prompt token"),
)
_POSTPROCESSING_INPUTS = (
    _tensor("TOKENS_BATCH", I32, (-1, -1), "[beam, tokens]", required=True),
    _tensor("SEQUENCE_LENGTH", I32, (-1,), "tokens that count in each beam", required=True),
)
_POSTPROCESSING_OUTPUTS = (_tensor("OUTPUT", STR, (-1,), "text of each beam"),)

# ---------------------------------------------------------------- ensemble, tensorrt_llm_bls

#: ensemble name -> engine name, where they differ
ENGINE_INPUT_OF = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "length_penalty": "len_penalty",
    "stream": "streaming",
}

_ENGINE = _by_name(_ENGINE_INPUTS)


def _passed_on(name: str) -> Tensor:
    """An ensemble input that reaches the engine as it is, possibly under another name."""
    return replace(_ENGINE[ENGINE_INPUT_OF.get(name, name)], name=name, scalar=False, required=False)


_PASSED_ON = (
    "num_return_sequences", "top_k", "top_p", "temperature", "length_penalty", "repetition_penalty", "min_tokens",
    "presence_penalty", "frequency_penalty", "seed", "return_log_probs", "return_context_logits",
    "return_generation_logits", "return_perf_metrics", "return_num_input_tokens", "return_num_output_tokens",
    "exclude_input_in_output", "beam_width", "stream", "prompt_embedding_table", "prompt_vocab_size", "lora_task_id",
    "lora_weights", "lora_config", "guided_decoding_guide_type", "guided_decoding_guide", "priority", "random_seed",
    "min_length", "tenant",
)  # fmt: skip

_FRONT_INPUTS = (
    _tensor("text_input", STR, (1,), "prompt, UTF-8", required=True, ensemble_name="text_input"),
    _tensor("decoder_text_input", STR, (1,), "decoder prompt (encoder-decoder models)"),
    _tensor("max_tokens", I32, (1,), "most tokens to generate", required=True, ensemble_name="max_tokens"),
    _tensor("bad_words", STR, (-1,), "words that may not be generated"),
    _tensor("stop_words", STR, (-1,), "words that end generation"),
    _tensor("end_id", I32, (1,), "token that ends generation", default="the tokenizer's"),
    _tensor("pad_id", I32, (1,), "token that pads a batch", default="the tokenizer's, else end_id"),
    _tensor("prompt_table_extra_id", U64, (1,), "tells virtual tokens apart in KV cache reuse"),
    _tensor("embedding_bias_words", STR, (-1,), "words whose logits are biased"),
    _tensor("embedding_bias_weights", F32, (-1,), "the bias of each of those words"),
    *(_passed_on(name) for name in _PASSED_ON),
    _tensor("messages", STR, (1,), _MESSAGES, added=True, needs_our_engine=False),
)
_FRONT_OUTPUTS = (
    _tensor("text_output", STR, (-1,), "the text, one per beam; while streaming only what is new"),
    *_SHARED_OUTPUTS,
    *_PERF_OUTPUTS,
    *_COUNT_OUTPUTS,
    _FINISH_REASON,
    _STOP_WORD,
)

_BLS_SCALARS = {
    "return_log_probs", "return_context_logits", "return_generation_logits", "return_perf_metrics",
    "return_num_input_tokens", "return_num_output_tokens", "num_return_sequences", "lora_task_id",
}  # fmt: skip
_BLS_INPUTS = (
    *(replace(tensor, scalar=tensor.name in _BLS_SCALARS) for tensor in _FRONT_INPUTS),
    _tensor("image_input", F16, (-1, 3, -1, -1), "images, preprocessed"),
    _tensor("image_bytes_input", U8, (-1, -1, -1, -1), "images"),
    _tensor("image_url_input", STR, (1,), "address of an image"),
    _tensor("image_sizes_input", I64, (-1, 2), "size of each image"),
    _tensor("video_bytes_input", U8, (-1, -1, -1, -1), "a video"),
    _tensor("num_draft_tokens", I32, (1,), "draft tokens to propose at a time; 0: no speculation"),
    _number("use_draft_logits", B, "verify with the draft model's logits"),
)

PREPROCESSING = Model("preprocessing", _PREPROCESSING_INPUTS, _PREPROCESSING_OUTPUTS)
TENSORRT_LLM = Model("tensorrt_llm", _ENGINE_INPUTS, _ENGINE_OUTPUTS)
TENSORRT_LLM_DRAFT = replace(TENSORRT_LLM, name="tensorrt_llm_draft")
POSTPROCESSING = Model("postprocessing", _POSTPROCESSING_INPUTS, _POSTPROCESSING_OUTPUTS)
ENSEMBLE = Model("ensemble", _FRONT_INPUTS, _FRONT_OUTPUTS)
TENSORRT_LLM_BLS = Model("tensorrt_llm_bls", _BLS_INPUTS, _FRONT_OUTPUTS)

MODELS = {
    model.name: model
    for model in (PREPROCESSING, TENSORRT_LLM, POSTPROCESSING, ENSEMBLE, TENSORRT_LLM_BLS, TENSORRT_LLM_DRAFT)
}
