"""What would make a plan fit that does not: each change alone, computed like the plan itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.planning.formats import precisions, short_kv_cache
from build_engines.planning.gpus import Gpu
from build_engines.planning.plan import Plan, Workload
from build_engines.planning.recommend import MOST_GPUS, Choices, recommend
from python_backend.errors import SetupError


@dataclass(frozen=True, slots=True)
class Change:
    """``what`` to do, and the plan that fits then."""

    what: str
    plan: Plan


def changes(config: CheckpointConfig, gpu: Gpu, count: int, workload: Workload, choices: Choices) -> tuple[Change, ...]:
    """From the smallest on: what loses nothing, then what serves less, then less precision, then more GPUs."""

    def attempt(work: Workload = workload, chosen: Choices = choices, gpus: int = count) -> Plan | None:
        try:
            plan = recommend(config, gpu, gpus, work, chosen)
        except SetupError:
            return None  # The model cannot be divided so, or the GPU cannot compute so: no change to offer.
        return plan if plan.fits else None

    found = (
        *_other_ranks(choices, attempt),
        *_shorter_kv_cache(gpu, choices, attempt),
        *_smaller_workload(workload, attempt),
        *_lower_precision(gpu, choices, attempt),
        *_more_gpus(gpu, count, attempt),
    )
    return tuple(found)


_Attempt = Callable[..., Plan | None]


def _other_ranks(choices: Choices, attempt: _Attempt) -> Iterator[Change]:
    if choices.tp_size or choices.pp_size:
        plan = attempt(chosen=replace(choices, tp_size=None, pp_size=None))
        if plan:
            mapping = plan.config.mapping
            yield Change(f"tp_size {mapping.tp_size}, pp_size {mapping.pp_size}", plan)


def _shorter_kv_cache(gpu: Gpu, choices: Choices, attempt: _Attempt) -> Iterator[Change]:
    shorter = short_kv_cache(gpu)
    if choices.kv_caches == (None,):
        plan = attempt(chosen=replace(choices, kv_caches=(shorter,)))
        if plan:
            yield Change(f"{shorter.upper()} KV cache", plan)


def _smaller_workload(workload: Workload, attempt: _Attempt) -> Iterator[Change]:
    def concurrency(count: int) -> Plan | None:
        return attempt(work=replace(workload, concurrency=count))

    def longest(tokens: int) -> Plan | None:
        return attempt(work=replace(workload, max_seq_len=tokens))

    def prompts(tokens: int) -> Plan | None:
        return attempt(work=replace(workload, input_tokens=tokens, max_seq_len=None))

    count, plan = _largest_that_fits(concurrency, 1, workload.concurrency - 1)
    if plan:
        yield Change(f"{count} instead of {workload.concurrency} requests at once", plan)
    if workload.max_seq_len:
        tokens, plan = _largest_that_fits(longest, workload.request_tokens, workload.max_seq_len - 1)
        if plan:
            yield Change(f"max_seq_len {tokens} instead of {workload.max_seq_len}", plan)
            return
    tokens, plan = _largest_that_fits(prompts, 1, workload.input_tokens - 1)
    if plan:
        yield Change(f"{tokens} instead of {workload.input_tokens} input tokens", plan)


def _lower_precision(gpu: Gpu, choices: Choices, attempt: _Attempt) -> Iterator[Change]:
    if choices.form is None:
        return
    for form in precisions(gpu):
        if form.bits < choices.form.bits:
            plan = attempt(chosen=replace(choices, form=form))
            if plan:
                yield Change(f"format {form.name}", plan)
                return


def _more_gpus(gpu: Gpu, count: int, attempt: _Attempt) -> Iterator[Change]:
    for more in range(count + 1, MOST_GPUS + 1):
        plan = attempt(gpus=more)
        if plan:
            form = "unquantized" if plan.form.name == "none" else f"in {plan.form.name}"
            yield Change(
                f"{more} x {gpu.name} ({form}, tp {plan.config.mapping.tp_size}, pp {plan.config.mapping.pp_size})",
                plan,
            )
            return


def _largest_that_fits(attempt: Callable[[int], Plan | None], low: int, high: int) -> tuple[int, Plan | None]:
    """By halving: what fits, fits with less too."""
    if low > high or not (plan := attempt(low)):
        return 0, None
    best, low = (low, plan), low + 1
    while low <= high:
        middle = (low + high) // 2
        if plan := attempt(middle):
            best, low = (middle, plan), middle + 1
        else:
            high = middle - 1
    return best
