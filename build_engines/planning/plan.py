"""One engine on some GPUs: whether it fits, with which limits, and how fast it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.planning.engine_weights import StageWeights, stage_weights
from build_engines.planning.formats import KvCache, WeightFormat
from build_engines.planning.gpus import Gpu
from build_engines.planning.memory import (
    KV_CACHE_FRACTION,
    TOKENS_PER_BLOCK,
    EngineLimits,
    RankBudget,
    budgets,
    kv_bytes_per_token,
    kv_cache_tokens,
)
from build_engines.planning.roofline import Decode, Roofline

#: trtllm-build's defaults.
_LARGEST_BATCH = 2048
_NUM_TOKENS = (8192, 4096, 2048)


@dataclass(frozen=True, slots=True)
class Workload:
    """What the engine must be able to do. ``max_seq_len`` is the longest request, the others are averages."""

    input_tokens: int = 1024
    output_tokens: int = 256
    concurrency: int = 8
    max_seq_len: int | None = None

    @property
    def request_tokens(self) -> int:
        """What is set aside for a request when it starts, so that it need never stop (GUARANTEED_NO_EVICT)."""
        return self.input_tokens + self.output_tokens

    @property
    def longest_tokens(self) -> int:
        return self.max_seq_len or self.request_tokens

    @property
    def context_tokens(self) -> int:
        """Of a request half way through its answer."""
        return self.input_tokens + self.output_tokens // 2


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures of one configuration. ``stages`` and ``ranks`` stand for one rank of each pipeline stage."""

    config: CheckpointConfig
    stages: tuple[StageWeights, ...]
    gpu: Gpu
    form: WeightFormat
    kv_cache: KvCache | None
    workload: Workload
    limits: EngineLimits
    kv_cache_fraction: float
    ranks: tuple[RankBudget, ...]

    @property
    def world_size(self) -> int:
        return self.config.mapping.world_size

    @property
    def kv_bytes_per_token(self) -> int:
        """Of one rank."""
        return kv_bytes_per_token(self.config)

    @property
    def kv_cache_tokens(self) -> int:
        return kv_cache_tokens(self.config, self.ranks)

    @property
    def requests(self) -> int:
        """How many requests of average length the KV cache holds at once."""
        blocks_each = ceil(self.workload.request_tokens / TOKENS_PER_BLOCK)
        return self.kv_cache_tokens // TOKENS_PER_BLOCK // blocks_each

    @property
    def batch_size(self) -> int:
        """How many of them run at once."""
        return min(self.requests, self.limits.max_batch_size * self.config.mapping.pp_size)

    @property
    def fits(self) -> bool:
        """Whether the workload can be served. TensorRT-LLM refuses a KV cache that cannot hold the longest request."""
        return self.kv_cache_tokens >= self.workload.longest_tokens and self.batch_size >= self.workload.concurrency

    @property
    def max_seq_len(self) -> int:
        """What was asked for; else the largest power of two that one request can have, up to the model's limit."""
        if self.workload.max_seq_len:
            return self.workload.max_seq_len
        possible = min(self.kv_cache_tokens, self.config.max_position_embeddings)
        if possible == self.config.max_position_embeddings:
            return possible
        return max(self.workload.request_tokens, 1 << max(1, possible).bit_length() - 1)

    def decode(self, batch_size: int) -> Decode:
        return self._roofline().decode(batch_size, self.workload.context_tokens)

    def time_to_first_token_s(self) -> float:
        return self._roofline().time_to_first_token_s(self.workload.input_tokens)

    def request_s(self) -> float:
        """A bound for an average request among as many as must be served at once."""
        step = self.decode(self.workload.concurrency)
        return self.time_to_first_token_s() + self.workload.output_tokens * step.time_per_output_token_s

    def _roofline(self) -> Roofline:
        return Roofline(self.config, self.stages, self.gpu, self.form.arithmetic)


def make_plan(
    config: CheckpointConfig,
    gpu: Gpu,
    form: WeightFormat,
    kv_cache: KvCache | None,
    workload: Workload,
    *,
    max_batch_size: int | None = None,
    max_num_tokens: int | None = None,
    kv_cache_fraction: float = KV_CACHE_FRACTION,
) -> Plan:
    """Choose the limits that are not given for ``config``, which is quantized and spread already.

    max_num_tokens is the largest with which the workload fits; max_batch_size is then the largest that the KV cache can
    fill with average requests. When nothing fits, the plan has the smallest of both.
    """
    weights = stage_weights(config)
    stages = config.mapping.pp_size
    needed = ceil(workload.concurrency / stages)

    def plan(batch_size: int, num_tokens: int) -> Plan:
        limits = EngineLimits(batch_size, num_tokens)
        ranks = budgets(config, weights, gpu, limits, kv_cache_fraction)
        return Plan(config, weights, gpu, form, kv_cache, workload, limits, kv_cache_fraction, ranks)

    def can_be_filled(batch_size: int, num_tokens: int) -> bool:
        tried = plan(batch_size, num_tokens)
        return tried.fits and tried.requests >= batch_size * stages

    token_limits = (max_num_tokens,) if max_num_tokens else _NUM_TOKENS
    smallest = max_batch_size or needed
    fitting = [num_tokens for num_tokens in token_limits if plan(smallest, num_tokens).fits]
    if max_batch_size or not fitting:
        return plan(smallest, fitting[0] if fitting else token_limits[-1])
    largest = _largest(partial(can_be_filled, num_tokens=fitting[0]), needed, max(needed, _LARGEST_BATCH))
    return plan(max(needed, largest // 8 * 8), fitting[0])


def _largest(holds: Callable[[int], bool], known: int, limit: int) -> int:
    """The largest number up to ``limit`` for which ``holds``, which is true of ``known`` and of all below its end."""
    low, high = known, limit
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
