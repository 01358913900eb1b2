"""What fills the memory of each GPU: weights, activations, buffers, CUDA itself, and the KV cache.

Weights and KV cache are exact. The rest is estimated from memory that TensorRT-LLM has logged and users have published;
"Memory Usage of TensorRT-LLM" (nvidia.github.io/TensorRT-LLM/reference/memory.html) says what each part is:

[doc]   that page's example: Llama-2-7B in FP8 with FP8 KV cache, max_num_tokens 8192, H100
[1188]  github.com/NVIDIA/TensorRT-LLM/issues/1188: Qwen2.5-Coder-0.5B in INT8
[577]   github.com/triton-inference-server/tensorrtllm_backend/issues/577: Llama 3 8B in FP16 on two GPUs
[nccl]  github.com/NVIDIA/nccl/issues/964

The tests compare with each of these figures. No engine has been measured for this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME
from build_engines.planning.engine_weights import StageWeights
from build_engines.planning.gpus import Gpu

#: trtllm-build's default.
TOKENS_PER_BLOCK = 32
#: kv_cache_free_gpu_mem_fraction's default: of what is free after the engine is loaded.
KV_CACHE_FRACTION = 0.9

#: TensorRT-LLM gives cuBLAS this much to work in.
_GEMM_WORKSPACE_BYTES = 32 * 2**20
#: Decoder and runtime buffers, for each request of the batch and word of the vocabulary. [doc] 28.6, [1188] 29.1.
_BUFFER_BYTES_PER_LOGIT = 30
#: CUDA context and kernels. [doc] 79.10 - 70.48 GiB, less engine, activations, buffers and decoder: 774 MiB.
_CONTEXT_BYTES = 775 * 2**20
#: [nccl] 688 MiB for one communicator of more than two A100, 544 of two.
_NCCL_BYTES = 688 * 2**20


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine is built for; activations and buffers are allocated for all of it, whatever is used."""

    max_batch_size: int
    max_num_tokens: int


@dataclass(frozen=True, slots=True)
class RankBudget:
    """The memory of one GPU. The ranks of a pipeline stage have equal budgets."""

    usable_bytes: int
    weights_bytes: int
    activation_bytes: int
    buffer_bytes: int
    overhead_bytes: int
    kv_cache_fraction: float

    @property
    def fixed_bytes(self) -> int:
        """All but the KV cache."""
        return self.weights_bytes + self.activation_bytes + self.buffer_bytes + self.overhead_bytes

    @property
    def missing_bytes(self) -> int:
        """What the engine needs beyond the GPU's memory before there is any KV cache."""
        return max(0, self.fixed_bytes - self.usable_bytes)

    @property
    def kv_cache_bytes(self) -> int:
        return int(max(0, self.usable_bytes - self.fixed_bytes) * self.kv_cache_fraction)

    @property
    def free_bytes(self) -> int:
        return max(0, self.usable_bytes - self.fixed_bytes - self.kv_cache_bytes)


def budgets(
    config: CheckpointConfig,
    stages: tuple[StageWeights, ...],
    gpu: Gpu,
    limits: EngineLimits,
    kv_cache_fraction: float = KV_CACHE_FRACTION,
) -> tuple[RankBudget, ...]:
    """For each pipeline stage, the budget of one of its ranks. ``stages`` are those of ``config``."""
    last = config.mapping.pp_size - 1
    overhead_bytes = _CONTEXT_BYTES + (_NCCL_BYTES if config.mapping.world_size > 1 else 0)
    return tuple(
        RankBudget(
            usable_bytes=gpu.usable_bytes,
            weights_bytes=weights.held_bytes,
            activation_bytes=activation_bytes(config, limits, has_lm_head=stage == last),
            buffer_bytes=buffer_bytes(config, limits.max_batch_size) if stage == last else 0,
            overhead_bytes=overhead_bytes,
            kv_cache_fraction=kv_cache_fraction,
        )
        for stage, weights in enumerate(stages)
    )


def kv_bytes_per_token(config: CheckpointConfig) -> int:
    """What a rank keeps of each token: a key and a value for its layers and its KV heads.

    2 x layers / pp x max(1, KV heads / tp) x head_size x bytes of the type (Kwon et al., "Efficient Memory Management
    for Large Language Model Serving with PagedAttention", 2023, section 3).
    """
    mapping = config.mapping
    layers = config.num_hidden_layers // mapping.pp_size
    heads = max(1, config.num_key_value_heads // mapping.tp_size)
    type_bytes = 1 if config.quantization.kv_cache_quant_algo else BY_NAME[config.dtype].itemsize
    return 2 * layers * heads * config.head_size * type_bytes


def kv_cache_tokens(config: CheckpointConfig, ranks: tuple[RankBudget, ...]) -> int:
    """How many tokens fit into the KV cache, in whole blocks; the fullest rank decides."""
    smallest_bytes = min(rank.kv_cache_bytes for rank in ranks)
    return smallest_bytes // (kv_bytes_per_token(config) * TOKENS_PER_BLOCK) * TOKENS_PER_BLOCK


def activation_bytes(config: CheckpointConfig, limits: EngineLimits, *, has_lm_head: bool = True) -> int:
    """An estimate of the engine's execution context.

    max_num_tokens x (a x intermediate_size / tp + b x hidden_size), and the larger of the GEMM workspace and the
    16-bit logits of a full batch, where a and b are bytes:

    - layers with a separate gate and no fused MLP (weight-only, AWQ, SmoothQuant, NVFP4): a = 4, the outputs of fc and
      gate; b = 4, the residual and the normalized input. This gives [1188]'s 773.51 and 43.26 MiB to 0.02 MiB.
      Tensor parallelism keeps a second pair for its all-reduce: b = 8. [577] logs 480.04 MiB, this gives 512.
    - FP8 and unquantized, for which trtllm-build fuses the MLP: a = 8, b = 16. [doc] logs 1134.01 MiB; this gives 1232.
      For unquantized engines it is a guess on the safe side: [577] was built before that.
    """
    fused_mlp = config.quantization.quant_algo in (None, "FP8")
    tp = config.mapping.tp_size
    per_intermediate, per_hidden = (8, 16) if fused_mlp else (4, 8 if tp > 1 else 4)
    per_token_bytes = per_intermediate * config.intermediate_size // tp + per_hidden * config.hidden_size
    logits_bytes = 2 * config.vocab_size * limits.max_batch_size if has_lm_head else 0
    return limits.max_num_tokens * per_token_bytes + max(_GEMM_WORKSPACE_BYTES, logits_bytes)


def buffer_bytes(config: CheckpointConfig, max_batch_size: int) -> int:
    """An estimate of what the last pipeline stage keeps to choose tokens: logits, penalties, sampling workspace."""
    return _BUFFER_BYTES_PER_LOGIT * config.vocab_size * max_batch_size
