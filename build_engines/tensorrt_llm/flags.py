"""The flags of ``trtllm-build``, and the check of a command line against them.

Names, values and defaults are those of ``tensorrt_llm/commands/build.py`` and ``tensorrt_llm/plugin/plugin.py`` at
1.1 to 1.2; that 1.2.1 takes every command that passes here has not been tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from python_backend.errors import SetupError, did_you_mean

PROGRAM = "trtllm-build"


class Kind(Enum):
    """What follows a flag."""

    SWITCH = auto()  # Nothing: the flag alone turns it on.
    INT = auto()
    TEXT = auto()
    PATH = auto()
    CHOICE = auto()


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``default`` as one would write it; None when leaving the flag out is something of its own."""

    name: str
    kind: Kind
    default: str | None = None
    choices: tuple[str, ...] = ()
    many: bool = False
    aliases: tuple[str, ...] = ()
    note: str = ""


_ON_OFF = ("enable", "disable")
_DTYPES = ("auto", "float16", "float32", "bfloat16", "int32", "disable")
_FP8 = ("fp8", "disable")
_LORA_MODULES = (
    "attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate",
)  # fmt: skip


def _switch(name: str, note: str = "") -> Flag:
    return Flag(name, Kind.SWITCH, note=note)


def _int(name: str, default: int | None, note: str = "", *, aliases: tuple[str, ...] = ()) -> Flag:
    return Flag(name, Kind.INT, None if default is None else str(default), note=note, aliases=aliases)


def _path(name: str, default: str | None = None, note: str = "", *, many: bool = False) -> Flag:
    return Flag(name, Kind.PATH, default, note=note, many=many)


def _choice(name: str, default: str | None, choices: tuple[str, ...], note: str = "", *, many: bool = False) -> Flag:
    return Flag(name, Kind.CHOICE, default, choices, many, note=note)


def _feature(name: str, default: str, note: str = "") -> Flag:
    return _choice(name, default, _ON_OFF, note)


def _plugin(name: str, default: str, choices: tuple[str, ...] = _DTYPES, note: str = "") -> Flag:
    return _choice(name, default, choices, note)


_TABLE = (
    # Inputs, outputs, run control.
    _path("checkpoint_dir", note="the TensorRT-LLM checkpoint"),
    _path("model_config", note="model config instead of the checkpoint's"),
    _path("build_config", note="BuildConfig as JSON; overrides the flags"),
    _path("model_cls_file"),
    Flag("model_cls_name", Kind.TEXT),
    _path("output_dir", "engine_outputs"),
    _int("workers", 1, "ranks built at once, at most as many as GPUs"),
    _choice("log_level", "info", ("internal_error", "error", "warning", "info", "verbose", "debug", "trace")),
    _choice("profiling_verbosity", "layer_names_only", ("layer_names_only", "detailed", "none")),
    _path("input_timing_cache", note="ignored when there is no such file"),
    _path("output_timing_cache", "model.cache"),
    _switch("dry_run", "all but the compilation itself"),
    _switch("monitor_memory"),
    _switch("enable_debug_output"),
    _path("visualize_network"),
    _switch("strip_plan", "leaves the weights out of the engine; they are added by a refit"),
    _switch("weight_sparsity"),
    _switch("weight_streaming", "weights may stay in host memory (gpu_weights_percent)"),
    _switch("fast_build", "not with weight-only INT8 or INT4 without their plugin"),
    _choice("logits_dtype", None, ("float16", "float32"), "the checkpoint's when left out"),
    _switch("gather_context_logits", "not with draft tokens"),
    _switch("gather_generation_logits"),
    _switch("gather_all_token_logits", "context and generation"),
    # Shapes and KV cache.
    _int("max_batch_size", 2048),
    _int("max_input_len", 1024, "ignored with remove_input_padding and context_fmha"),
    _int("max_seq_len", None, "all positions of the model when left out", aliases=("max_decoder_seq_len",)),
    _int("max_beam_width", 1),
    _int("max_num_tokens", 8192, "tokens of one step"),
    _int("opt_num_tokens", None, "max_batch_size x max_beam_width when left out"),
    _int("max_encoder_input_len", 1024),
    _int("max_prompt_embedding_table_size", 0, aliases=("max_multimodal_len",)),
    _choice("kv_cache_type", "paged", ("continuous", "paged", "disabled")),
    _int("tokens_per_block", 32, "64 in releases before"),
    # LoRA and speculative decoding.
    _path("lora_dir", many=True),
    _choice("lora_ckpt_source", "hf", ("hf", "nemo")),
    _choice("lora_target_modules", None, _LORA_MODULES, "those of dense decoders", many=True),
    _int("max_lora_rank", 64),
    _choice(
        "speculative_decoding_mode",
        None,
        ("draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"),
    ),
    _int("max_draft_len", 0),
    # Plugins.
    _plugin("gpt_attention_plugin", "auto", note="in-flight batching needs it"),
    _plugin("bert_attention_plugin", "auto"),
    _plugin("gemm_plugin", "disable", ("auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable")),
    _plugin("gemm_swiglu_plugin", "disable", _FP8),
    _plugin("low_latency_gemm_plugin", "disable", _FP8),
    _plugin("low_latency_gemm_swiglu_plugin", "disable", _FP8),
    _plugin("fp8_rowwise_gemm_plugin", "disable"),
    _plugin("gemm_allreduce_plugin", "disable", ("float16", "bfloat16", "disable")),
    _plugin("nccl_plugin", "auto", note="off for one tensor-parallel rank"),
    _plugin("moe_plugin", "auto"),
    _plugin("mamba_conv1d_plugin", "auto"),
    _plugin("lora_plugin", "disable"),
    _feature("dora_plugin", "disable"),
    # Features.
    _feature("context_fmha", "enable"),
    _feature("bert_context_fmha_fp32_acc", "disable"),
    _feature("remove_input_padding", "enable", "in-flight batching needs it"),
    _feature("use_paged_context_fmha", "enable", "KV cache reuse, chunked context and draft tokens need it"),
    _feature("use_fp8_context_fmha", "enable", "acts with FP8 quantization only"),
    _feature("fuse_fp4_quant", "disable"),
    _feature("paged_state", "enable"),
    _feature("multiple_profiles", "disable", "not with opt_num_tokens"),
    _feature("reduce_fusion", "disable", "Llama, tensor parallel"),
    _feature("user_buffer", "disable"),
    _feature("pp_reduce_scatter", "disable"),
    _feature("norm_quant_fusion", "disable"),
    _feature("streamingllm", "disable", "no longer supported"),
    _feature("use_fused_mlp", "enable", "off unless unquantized, FP8 or mixed"),
)
FLAGS = {flag.name: flag for flag in _TABLE}

#: Flags of earlier releases, and what to use now.
REPLACED = {
    "paged_kv_cache": "--kv_cache_type paged",
    "auto_parallel": "a checkpoint with tp_size and pp_size",
    "use_custom_all_reduce": "nothing: the best all-reduce is chosen by itself",
    "max_output_len": "--max_seq_len",
}
_BY_NAME = FLAGS | {alias: flag for flag in _TABLE for alias in flag.aliases}


def read_flags(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The flags of ``trtllm-build ...`` by name, with their values.

    Raises SetupError for a flag that 1.2.1 does not know, a value that it would not take, or a flag given twice.
    """
    if not command or command[0] != PROGRAM:
        raise SetupError(f"{' '.join(command[:1])!r} is not {PROGRAM}.")
    given: dict[str, tuple[str, ...]] = {}
    rest = list(command[1:])
    while rest:
        flag = _known(rest.pop(0))
        values = []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if flag.name in given:
            raise SetupError(f"{PROGRAM}: --{flag.name} is given twice.")
        given[flag.name] = _checked(flag, values)
    return given


def _known(word: str) -> Flag:
    name = word.removeprefix("--")
    if word == name:
        raise SetupError(f"{PROGRAM}: {word!r} is no flag.")
    if name in REPLACED:
        raise SetupError(f"{PROGRAM}: --{name} is gone from TensorRT-LLM 1.2. Use {REPLACED[name]}.")
    if name not in _BY_NAME:
        raise SetupError(f"{PROGRAM} has no flag --{name}{did_you_mean(name, _BY_NAME)}")
    return _BY_NAME[name]


def _checked(flag: Flag, values: list[str]) -> tuple[str, ...]:
    wanted = 0 if flag.kind is Kind.SWITCH else 1
    if len(values) != wanted and not (flag.many and values):
        takes = "no value" if wanted == 0 else "one value or more" if flag.many else "one value"
        raise SetupError(f"{PROGRAM}: --{flag.name} takes {takes}, not {' '.join(values) or 'none'}.")
    for value in values:
        if flag.kind is Kind.INT and not value.isdecimal():
            raise SetupError(f"{PROGRAM}: --{flag.name} is {value!r}, not a number from 0 up.")
        if flag.kind is Kind.CHOICE and value not in flag.choices:
            near = did_you_mean(value, flag.choices)
            raise SetupError(f"{PROGRAM}: --{flag.name} is {value!r}, not one of {', '.join(flag.choices)}{near}")
    return tuple(values)
