"""Which flags of ``trtllm-build`` contradict each other, or the checkpoint, though each is right by itself.

What the tool would refuse after minutes, would change with no more than a warning in its log, or would turn into an
engine that cannot be served. The rules are those of ``main`` in ``tensorrt_llm/commands/build.py`` and of ``build`` in
``tensorrt_llm/builder.py``, partly of a release before 1.2.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.tensorrt_llm.flags import FLAGS, PROGRAM, read_flags
from python_backend.errors import SetupError

#: Formats whose attention over prompts can be computed in FP8, with an FP8 KV cache.
FP8_WORKFLOW = ("FP8", "W4A8_AWQ", "NVFP4")
#: What a plugin is for, by quant_algo.
_ACTS_ON = {
    "gemm_swiglu_plugin": "FP8",
    "low_latency_gemm_plugin": "FP8",
    "low_latency_gemm_swiglu_plugin": "FP8",
    "fp8_rowwise_gemm_plugin": "FP8_PER_CHANNEL_PER_TOKEN",
    "fuse_fp4_quant": "NVFP4",
    "norm_quant_fusion": "NVFP4",
}

Given = Mapping[str, tuple[str, ...]]


def check_command(command: Sequence[str], config: CheckpointConfig) -> Given:
    """The flags of ``command``, all good for a checkpoint with ``config``.

    Raises SetupError as ``read_flags`` does, or for the first contradiction.
    """
    given = read_flags(command)
    for problem in _contradictions(given, config):
        raise SetupError(f"{PROGRAM}: {problem}")
    return given


def value(given: Given, name: str) -> str | None:
    """What a flag comes to, given or by default; "enable" for a switch that is there."""
    if name in given:
        return given[name][0] if given[name] else "enable"
    return FLAGS[name].default


def fp8_attention(config: CheckpointConfig) -> bool:
    """Whether attention over prompts can be computed in FP8."""
    quantization = config.quantization
    return quantization.quant_algo in FP8_WORKFLOW and quantization.kv_cache_quant_algo == "FP8"


def _contradictions(given: Given, config: CheckpointConfig) -> Iterator[str]:
    yield from _serving(given)
    yield from _lengths(given, config)
    yield from _logits_and_drafts(given)
    yield from _quantization(given, config)
    yield from _parallelism(given, config)
    yield from _lora(given)


def _on(given: Given, name: str) -> bool:
    return value(given, name) not in (None, "disable")


def _number(given: Given, name: str) -> int:
    return int(value(given, name) or 0)


def _serving(given: Given) -> Iterator[str]:
    """What in-flight batching with a paged KV cache needs."""
    if "checkpoint_dir" not in given:
        yield "--checkpoint_dir is missing."
    if "build_config" in given:
        yield "--build_config overrides all flags, which then say nothing about the engine. Leave it out."
    for name in ("gpt_attention_plugin", "remove_input_padding"):
        if not _on(given, name):
            yield f"--{name} disable makes an engine without in-flight batching. Enable it."
    if value(given, "kv_cache_type") != "paged":
        yield f"--kv_cache_type {value(given, 'kv_cache_type')} makes an engine without in-flight batching. Use paged."
    for name in ("gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin"):
        if _on(given, name) and not _on(given, "use_fused_mlp"):
            yield f"--{name} needs --use_fused_mlp enable."
    if _on(given, "use_paged_context_fmha") and not _on(given, "context_fmha"):
        yield "--use_paged_context_fmha needs --context_fmha enable."
    if _on(given, "streamingllm"):
        yield "--streamingllm is no longer supported."
    if _on(given, "multiple_profiles") and "opt_num_tokens" in given:
        yield "--multiple_profiles enable and --opt_num_tokens exclude each other. Leave one out."


def _lengths(given: Given, config: CheckpointConfig) -> Iterator[str]:
    for name in ("max_batch_size", "max_beam_width", "max_num_tokens", "max_seq_len", "max_input_len", "workers"):
        if name in given and _number(given, name) < 1:
            yield f"--{name} {value(given, name)} leaves no room for anything."
    longest = _number(given, "max_seq_len") or config.max_position_embeddings
    if longest > config.max_position_embeddings:
        yield f"--max_seq_len {longest} is more than the model's {config.max_position_embeddings} positions."
    if "max_input_len" in given and _number(given, "max_input_len") > longest:
        yield f"--max_input_len {value(given, 'max_input_len')} is more than --max_seq_len {longest}."
    tokens, sequences = _number(given, "max_num_tokens"), _number(given, "max_batch_size")
    a_step = sequences * _number(given, "max_beam_width") * (1 + _number(given, "max_draft_len"))
    if tokens < a_step:
        yield (
            f"--max_num_tokens {tokens} is less than {a_step}, the tokens of {sequences} requests in one step of "
            "generation, with their beams and draft tokens."
        )
    if not _on(given, "use_paged_context_fmha") and tokens < longest:
        yield f"--max_num_tokens {tokens} is less than --max_seq_len {longest}, which needs use_paged_context_fmha."
    block = _number(given, "tokens_per_block")
    if block & (block - 1) or not block:
        yield f"--tokens_per_block {block} is no power of two."


def _logits_and_drafts(given: Given) -> Iterator[str]:
    drafts, mode = _number(given, "max_draft_len"), value(given, "speculative_decoding_mode")
    if drafts and mode is None:
        yield f"--max_draft_len {drafts} needs --speculative_decoding_mode."
    if mode and not drafts:
        yield f"--speculative_decoding_mode {mode} needs --max_draft_len."
    if drafts and (_on(given, "gather_context_logits") or _on(given, "gather_all_token_logits")):
        yield "--gather_context_logits does not go with draft tokens. Use --gather_generation_logits."
    if drafts and not _on(given, "use_paged_context_fmha"):
        yield "draft tokens need --use_paged_context_fmha enable."
    if drafts and _number(given, "max_beam_width") > 1:
        yield "draft tokens need --max_beam_width 1."


def _quantization(given: Given, config: CheckpointConfig) -> Iterator[str]:
    algo, kv_cache = config.quantization.quant_algo, config.quantization.kv_cache_quant_algo
    for name, wanted in _ACTS_ON.items():
        if _on(given, name) and algo != wanted:
            yield f"--{name} acts on {wanted}; this checkpoint's quant_algo is {algo}."
    plugin = value(given, "gemm_plugin")
    if plugin in ("fp8", "nvfp4") and algo != plugin.upper():
        yield f"--gemm_plugin {plugin} acts on {plugin.upper()}; this checkpoint's quant_algo is {algo}."
    if plugin in ("float16", "float32", "bfloat16") and plugin != config.dtype:
        yield f"--gemm_plugin {plugin} is not the checkpoint's dtype {config.dtype}. Use auto."
    if _on(given, "fast_build") and algo == "W8A8_SQ_PER_CHANNEL":
        yield f"--fast_build does not go with {algo}, which has no plugin."
    # The builder turns these off or on by itself and only warns, and the engine is not what was asked for.
    if given.get("use_fp8_context_fmha") == ("enable",) and not fp8_attention(config):
        yield (
            f"--use_fp8_context_fmha needs {', '.join(FP8_WORKFLOW)} and an FP8 KV cache; this checkpoint's quant_algo "
            f"is {algo}, its kv_cache_quant_algo {kv_cache}."
        )
    if not _on(given, "use_paged_context_fmha"):
        return
    if kv_cache == "INT8" or (kv_cache == "FP8" and algo not in FP8_WORKFLOW):
        yield (
            f"--use_paged_context_fmha does not go with quant_algo {algo} and an {kv_cache} KV cache. Quantize with "
            f"another KV cache; or disable it, and do without KV cache reuse and chunked context."
        )
    if fp8_attention(config) and value(given, "use_fp8_context_fmha") == "disable":
        yield "--use_paged_context_fmha with an FP8 KV cache needs --use_fp8_context_fmha enable."


def _parallelism(given: Given, config: CheckpointConfig) -> Iterator[str]:
    mapping = config.mapping
    for name in ("reduce_fusion", "user_buffer", "gemm_allreduce_plugin"):
        if _on(given, name) and mapping.tp_size == 1:
            yield f"--{name} fuses what ranks exchange; this checkpoint has tp_size 1."
    if _on(given, "reduce_fusion") and config.architecture != "LlamaForCausalLM":
        yield f"--reduce_fusion is for LlamaForCausalLM; this is {config.architecture}."
    if _on(given, "user_buffer") and not _on(given, "reduce_fusion"):
        yield "--user_buffer needs --reduce_fusion enable."
    if _on(given, "norm_quant_fusion") and (_on(given, "reduce_fusion") or config.architecture != "LlamaForCausalLM"):
        yield f"--norm_quant_fusion is for LlamaForCausalLM without --reduce_fusion; this is {config.architecture}."
    if _on(given, "pp_reduce_scatter"):
        yield f"--pp_reduce_scatter is for Mixtral; this is {config.architecture}."
    if _number(given, "workers") > mapping.world_size:
        yield f"--workers {value(given, 'workers')} is more than the checkpoint's {mapping.world_size} ranks."


def _lora(given: Given) -> Iterator[str]:
    for name in ("lora_dir", "lora_target_modules", "max_lora_rank", "lora_ckpt_source", "dora_plugin"):
        if name in given and given[name] != ("disable",) and not _on(given, "lora_plugin"):
            yield f"--{name} does nothing without --lora_plugin."
    if _on(given, "lora_plugin") and "lora_target_modules" not in given and "lora_dir" not in given:
        yield "--lora_plugin needs --lora_target_modules."
