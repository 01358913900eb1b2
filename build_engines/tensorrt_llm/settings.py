"""The section ``tensorrt_llm:`` of a recipe: what an engine is built for. Every key has a flag, and all are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_FROZEN = ConfigDict(extra="forbid", frozen=True)

Dtype = Literal["auto", "float16", "float32", "bfloat16", "disable"]
LoraModule = Literal["attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate"]


class Plugins(BaseModel):
    """Kernels of TensorRT-LLM in place of TensorRT's own."""

    model_config = _FROZEN

    gemm_plugin: Dtype | Literal["fp8", "nvfp4"] | None = Field(
        default=None,
        description="cuBLASLt for matrix products. When left out: auto; nvfp4 for NVFP4; disable for FP8, where "
        "TensorRT's own kernels compute them, as trtllm-build has it by itself.",
    )
    gemm_swiglu_plugin: Literal["fp8", "disable"] = Field(
        default="disable", description="FP8: one kernel for the two products of the MLP and SwiGLU."
    )
    low_latency_gemm_plugin: Literal["fp8", "disable"] = Field(
        default="disable", description="FP8: products for small batches."
    )
    low_latency_gemm_swiglu_plugin: Literal["fp8", "disable"] = Field(
        default="disable", description="FP8: gemm_swiglu_plugin for small batches."
    )
    gemm_allreduce_plugin: Literal["float16", "bfloat16", "disable"] = Field(
        default="disable", description="One kernel for a product and the all-reduce after it; needs tp_size above 1."
    )


class LoraSettings(BaseModel):
    """Adapters that requests bring along."""

    model_config = _FROZEN

    target_modules: tuple[LoraModule, ...] = Field(
        min_length=1, description="Layers that adapters may change, by TensorRT-LLM's names."
    )
    max_rank: int = Field(default=64, gt=0, description="Highest rank of an adapter.")


class DraftSettings(BaseModel):
    """Verification of tokens that a draft model proposes (draft_tokens_external). For the target's engine."""

    model_config = _FROZEN

    max_draft_len: int = Field(gt=0, description="Most draft tokens of a request in one step.")


class TensorRtLlmSettings(BaseModel):
    """What the engine is built for, and how."""

    model_config = _FROZEN

    engine_dir: Path | None = Field(default=None, description="Where to; engines/<name> when left out.")
    gpu: str | None = Field(
        default=None,
        description='The GPU that it is for, such as "H100 80GB". A build on another kind is refused, and formats that '
        "it cannot compute are refused without one.",
    )
    max_batch_size: int = Field(
        default=64, gt=0, description="Most requests that run at once; config.pbtxt's max_batch_size is at most this."
    )
    max_num_tokens: int = Field(
        default=8192, gt=0, description="Most tokens of one step. Longer prompts are computed in chunks."
    )
    max_input_len: int | None = Field(
        default=None, gt=0, description="Longest prompt; max_seq_len when left out. Without effect on usual engines."
    )
    max_beam_width: int = Field(default=1, gt=0, description="Most beams of a request.")
    tokens_per_block: Literal[8, 16, 32, 64, 128] = Field(
        default=32, description="Tokens in a block of the KV cache: small blocks waste less and are reused more."
    )
    kv_cache_type: Literal["paged"] = Field(default="paged", description="In-flight batching needs it.")
    plugins: Plugins = Plugins()
    use_paged_context_fmha: bool = Field(
        default=True, description="KV cache reuse, chunked context and draft tokens need it."
    )
    use_fp8_context_fmha: bool | None = Field(
        default=None, description="Attention over prompts in FP8. When left out: if FP8 weights and KV cache allow it."
    )
    reduce_fusion: bool = Field(
        default=False, description="Fuse all-reduce with what follows it. Llama, tp_size above 1."
    )
    multiple_profiles: bool = Field(
        default=False, description="Kernels chosen for several batch sizes: faster, and a longer build."
    )
    gather_context_logits: bool = Field(default=False, description="Requests may ask for the logits of their prompt.")
    gather_generation_logits: bool = Field(
        default=False, description="Requests may ask for the logits of their output; draft logits need it."
    )
    logits_dtype: Literal["float16", "float32"] | None = Field(
        default=None, description="The type of logits; the checkpoint's when left out."
    )
    lora: LoraSettings | None = None
    draft: DraftSettings | None = None
    weight_streaming: bool = Field(
        default=False, description="Weights may stay in host memory (gpu_weights_percent): slow, for too large models."
    )
    strip_plan: bool = Field(
        default=False, description="Leave the weights out of the engine. It cannot be served before a refit."
    )
    fast_build: bool = Field(default=False, description="A quicker build of a slower engine, to try something.")
    workers: int | None = Field(
        default=None, gt=0, description="Ranks compiled at once, each on a GPU; all of them when left out."
    )
    timing_cache: Path | None = Field(
        default=None,
        description="Where measured kernel timings are kept, which makes the next build faster; "
        "timing.cache beside the engine when left out.",
    )
