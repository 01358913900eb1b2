"""Which precision and which ranks to choose for a model on given GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from build_engines.checkpoint.config import CheckpointConfig, ParallelMapping
from build_engines.planning.formats import (
    KvCache,
    WeightFormat,
    apply_format,
    check_hardware,
    precisions,
    short_kv_cache,
)
from build_engines.planning.gpus import Gpu
from build_engines.planning.memory import KV_CACHE_FRACTION
from build_engines.planning.plan import Plan, Workload, make_plan
from python_backend.errors import SetupError

#: What one machine holds (NVIDIA DGX and HGX). Networks between machines are not planned for.
MOST_GPUS = 8


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user has decided; what is None is free. ``kv_caches`` are tried in turn, all but () are a decision."""

    form: WeightFormat | None = None
    kv_caches: tuple[KvCache | None, ...] = ()
    tp_size: int | None = None
    pp_size: int | None = None
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    kv_cache_fraction: float = KV_CACHE_FRACTION


def recommend(config: CheckpointConfig, gpu: Gpu, count: int, workload: Workload, choices: Choices) -> Plan:
    """The plan that serves ``workload`` in the highest precision, on as many of ``count`` GPUs as it divides by.

    A shorter KV cache type is tried before fewer bits a weight. Of several ways to spread the ranks, that with the
    shortest bound for a request is taken, which is tensor parallelism wherever the links are fast. When nothing fits,
    the plan that comes nearest is returned: ``fits`` tells. ``config`` is unquantized, on one rank.

    Raises SetupError when the GPU cannot compute so, or the model cannot be divided as chosen.
    """
    _check(gpu, count, workload, choices, config)
    misses: list[Plan] = []
    problem: SetupError | None = None
    forms = (choices.form,) if choices.form else precisions(gpu)
    kv_caches = choices.kv_caches or (None, short_kv_cache(gpu))
    for form in forms:
        for kv_cache in kv_caches:
            check_hardware(form, kv_cache, gpu)
            for mappings in _mappings(count, choices):
                plans = []
                for mapping in mappings:
                    try:
                        spread = apply_format(config, form, kv_cache, mapping)
                    except SetupError as error:
                        problem = problem or error
                        continue
                    plans.append(_plan(spread, gpu, form, kv_cache, workload, choices))
                if fitting := [plan for plan in plans if plan.fits]:
                    return min(fitting, key=Plan.request_s)
                misses += plans
    if not misses:
        assert problem is not None
        raise problem
    return min(misses, key=lambda plan: (max(rank.missing_bytes for rank in plan.ranks), -plan.kv_cache_tokens))


def _plan(
    config: CheckpointConfig,
    gpu: Gpu,
    form: WeightFormat,
    kv_cache: KvCache | None,
    workload: Workload,
    choices: Choices,
) -> Plan:
    return make_plan(
        config,
        gpu,
        form,
        kv_cache,
        workload,
        max_batch_size=choices.max_batch_size,
        max_num_tokens=choices.max_num_tokens,
        kv_cache_fraction=choices.kv_cache_fraction,
    )


def _check(gpu: Gpu, count: int, workload: Workload, choices: Choices, config: CheckpointConfig) -> None:
    gpu.check_supported()
    if not 1 <= count <= MOST_GPUS:
        raise SetupError(f"{count} GPUs cannot be planned for; a plan is for one machine, with 1 to {MOST_GPUS}.")
    wanted = (choices.tp_size or 1) * (choices.pp_size or 1)
    if wanted > count:
        raise SetupError(
            f"tp_size {choices.tp_size or 1} x pp_size {choices.pp_size or 1} needs {wanted} GPUs; {count} named. "
            "Name more, or fewer ranks."
        )
    if choices.max_batch_size and choices.max_batch_size * (choices.pp_size or count) < workload.concurrency:
        raise SetupError(
            f"{workload.concurrency} requests at once cannot run in an engine of max_batch_size "
            f"{choices.max_batch_size}. Give a greater --max-batch-size, or a smaller --concurrency."
        )
    if workload.longest_tokens < workload.request_tokens:
        raise SetupError(
            f"an average request has {workload.request_tokens} tokens of input and output, more than max_seq_len "
            f"{workload.max_seq_len}. Give a greater --max-seq-len, or fewer --input-tokens."
        )
    if workload.longest_tokens > config.max_position_embeddings:
        raise SetupError(
            f"a request of {workload.longest_tokens} tokens is longer than the model's max_position_embeddings "
            f"{config.max_position_embeddings}. Give fewer."
        )


def _mappings(count: int, choices: Choices) -> Iterator[list[ParallelMapping]]:
    """For each number of ranks from ``count`` down, the ways to spread them."""
    for world in range(count, 0, -1):
        pairs = [(world // pp, pp) for pp in range(1, world + 1) if world % pp == 0]
        yield [
            ParallelMapping.of(tp, pp)
            for tp, pp in pairs
            if choices.tp_size in (None, tp) and choices.pp_size in (None, pp)
        ]
