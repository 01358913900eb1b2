"""How fast an engine can be at best, by the roofline model.

A step takes at least as long as its bytes take through the memory, or its operations through the tensor cores,
whichever is longer (Williams et al., "Roofline: an insightful visual performance model for multicore architectures",
2009), and its all-reduces through the links (Pope et al., "Efficiently Scaling Transformer Inference", 2022). Kernel
launches, latency of the links, sampling and scheduling cost nothing here: real engines stay below these figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import BY_NAME
from build_engines.planning.engine_weights import StageWeights
from build_engines.planning.gpus import Arithmetic, Gpu
from build_engines.planning.memory import kv_bytes_per_token

Bound = Literal["memory", "compute"]


@dataclass(frozen=True, slots=True)
class StageTime:
    """The parts of the time that one pipeline stage needs for one step."""

    memory_s: float
    compute_s: float
    link_s: float

    @property
    def total_s(self) -> float:
        return max(self.memory_s, self.compute_s) + self.link_s


@dataclass(frozen=True, slots=True)
class Decode:
    """Bounds for ``batch_size`` requests that are all answered at once."""

    batch_size: int
    time_per_output_token_s: float
    bound: Bound
    link_share: float

    @property
    def tokens_per_s(self) -> float:
        """Of all requests together."""
        return self.batch_size / self.time_per_output_token_s


@dataclass(frozen=True, slots=True)
class Roofline:
    """One engine on one kind of GPU, in one arithmetic. ``stages`` are those of ``config``."""

    config: CheckpointConfig
    stages: tuple[StageWeights, ...]
    gpu: Gpu
    arithmetic: Arithmetic

    def decode(self, batch_size: int, context_tokens: int) -> Decode:
        """One token for each request, whose contexts are ``context_tokens`` long on average.

        With pipeline stages the batch is cut into as many micro-batches, which the stages work on in turn: a token
        takes as many turns of the slowest stage, or one of each when there are fewer requests than stages.
        """
        stages = self.config.mapping.pp_size
        micro_batch = ceil(batch_size / stages)
        times = [self._decode_stage(weights, micro_batch, context_tokens) for weights in self.stages]
        slowest = max(times, key=lambda time: time.total_s)
        turns_s = stages * slowest.total_s if batch_size >= stages else sum(time.total_s for time in times)
        step_s = turns_s + self._between_stages_s(micro_batch)
        bound: Bound = "compute" if slowest.compute_s > slowest.memory_s else "memory"
        return Decode(batch_size, step_s, bound, sum(time.link_s for time in times) / step_s)

    def time_to_first_token_s(self, prompt_tokens: int) -> float:
        """The prompt of one request through all stages, with nothing else running."""
        times = [self._prefill_stage(weights, prompt_tokens) for weights in self.stages]
        return sum(time.total_s for time in times) + self._between_stages_s(prompt_tokens)

    def _decode_stage(self, weights: StageWeights, batch_size: int, context_tokens: int) -> StageTime:
        """Reads the weights once, and the keys and values of every request; multiplies by each weight."""
        kv_bytes = batch_size * context_tokens * kv_bytes_per_token(self.config)
        attention = 4 * batch_size * context_tokens * self._query_elements
        return StageTime(
            memory_s=(weights.read_bytes + kv_bytes) / self.gpu.bandwidth_bytes_s,
            compute_s=self._compute_s(2 * weights.linears * batch_size + attention, 2 * weights.lm_head * batch_size),
            link_s=self._all_reduces_s(batch_size),
        )

    def _prefill_stage(self, weights: StageWeights, tokens: int) -> StageTime:
        """Every token attends to half of the prompt on average; only the last one goes through the lm_head."""
        attention = 4 * tokens * tokens / 2 * self._query_elements
        return StageTime(
            memory_s=weights.read_bytes / self.gpu.bandwidth_bytes_s,
            compute_s=self._compute_s(2 * weights.linears * tokens + attention, 2 * weights.lm_head),
            link_s=self._all_reduces_s(tokens),
        )

    @property
    def _query_elements(self) -> float:
        """Of a token, over the layers of a rank. Attention multiplies and adds twice with each: scores and values."""
        mapping = self.config.mapping
        return self.config.q_rows / mapping.tp_size * self.config.num_hidden_layers / mapping.pp_size

    def _compute_s(self, operations: float, lm_head_operations: float) -> float:
        """The lm_head is never quantized. An unknown speed costs nothing."""
        speed, plain_speed = self.gpu.flops(self.arithmetic), self.gpu.flops("fp16")
        if speed is None or plain_speed is None:
            return 0.0
        return operations / speed + lm_head_operations / plain_speed

    def _all_reduces_s(self, tokens: int) -> float:
        """Two a layer, after attention.dense and mlp.proj. A ring moves 2 (tp - 1) / tp of the bytes over each link."""
        mapping = self.config.mapping
        layers = self.config.num_hidden_layers / mapping.pp_size
        ring = 2 * (mapping.tp_size - 1) / mapping.tp_size
        return 2 * layers * ring * self._hidden_bytes(tokens) / self.gpu.link_bytes_s

    def _between_stages_s(self, tokens: int) -> float:
        """Tensor-parallel ranks send a share each."""
        mapping = self.config.mapping
        return (mapping.pp_size - 1) * self._hidden_bytes(tokens) / mapping.tp_size / self.gpu.link_bytes_s

    def _hidden_bytes(self, tokens: int) -> int:
        return tokens * self.config.hidden_size * BY_NAME[self.config.dtype].itemsize
