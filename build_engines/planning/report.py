"""A plan for people (tables, bars, a recipe to copy) and for programs (JSON values)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from build_engines.planning.budget_bar import bar, legend
from build_engines.planning.changes import Change
from build_engines.planning.plan import Plan

_WIDEST_BAR = 100


def show(console: Console, title: str, plan: Plan, found: Sequence[Change], notices: Sequence[str]) -> None:
    """Write ``plan`` to ``console``. ``found`` is what would make it fit, if it does not."""
    mapping = plan.config.mapping
    console.print(Text.assemble((title, "bold"), f" on {plan.world_size} x {plan.gpu.name}"))
    console.print(f"{_formats(plan)}, tp {mapping.tp_size}, pp {mapping.pp_size}")
    for notice in notices:
        console.print(f"note: {notice}", style="yellow")
    console.print()
    _show_memory(console, plan)
    if plan.fits:
        _show_capacity(console, plan)
        _show_speed(console, plan)
        console.print("recipe", style="bold")
        console.print(Padding(recipe(plan).rstrip(), (0, 0, 0, 2), expand=False))
    else:
        _show_changes(console, plan, found)


def verdict(plan: Plan, found: Sequence[Change]) -> str:
    """Why ``plan`` does not fit, and the smallest change that would make it fit."""
    change = f"The smallest change that fits: {found[0].what}." if found else "No single change makes it fit."
    return f"it does not fit: {_reason(plan)}. {change}"


def recipe(plan: Plan) -> str:
    """The plan as sections of a recipe, in YAML."""
    keys: dict[str, Any] = {
        "quantization": {"format": plan.form.name} | ({"kv_cache": plan.kv_cache} if plan.kv_cache else {}),
        "parallel": {"tp_size": plan.config.mapping.tp_size, "pp_size": plan.config.mapping.pp_size},
        "max_seq_len": plan.max_seq_len,
        "tensorrt_llm": {
            "max_batch_size": plan.limits.max_batch_size,
            "max_num_tokens": plan.limits.max_num_tokens,
        },
    }
    group_size = plan.config.quantization.group_size
    if group_size and plan.form.name in ("int4_awq", "w4a8_awq"):
        keys["quantization"]["group_size"] = group_size
    return yaml.safe_dump(keys, sort_keys=False)


def document(title: str, plan: Plan, found: Sequence[Change], notices: Sequence[str]) -> dict[str, Any]:
    """Everything as JSON values, with units in the names."""
    mapping = plan.config.mapping
    values: dict[str, Any] = {
        "model": title,
        "gpu": {"name": plan.gpu.name, "count": plan.world_size, "source": plan.gpu.source},
        "notices": list(notices),
        "fits": plan.fits,
        "format": plan.form.name,
        "kv_cache": plan.kv_cache,
        "tp_size": mapping.tp_size,
        "pp_size": mapping.pp_size,
        "kv_cache_free_gpu_mem_fraction": plan.kv_cache_fraction,
        "memory": [_budget(plan, stage) for stage in range(mapping.pp_size)],
        "kv_bytes_per_token_and_rank": plan.kv_bytes_per_token,
        "kv_cache_tokens": plan.kv_cache_tokens,
        "requests": plan.requests,
        "changes": [change.what for change in found],
    }
    if plan.fits:
        values["max_batch_size"] = plan.limits.max_batch_size
        values["max_num_tokens"] = plan.limits.max_num_tokens
        values["max_seq_len"] = plan.max_seq_len
        values["upper_bounds"] = {
            "time_to_first_token_s": plan.time_to_first_token_s(),
            "decode": [_decode(plan, batch_size) for batch_size in _batch_sizes(plan)],
        }
    return values


def _show_memory(console: Console, plan: Plan) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="memory of a GPU, GiB", title_justify="left")
    headers = ("ranks", "weights", "activations", "buffers", "CUDA, NCCL", "KV cache", "free", "of")
    for header in headers:
        table.add_column(header, justify="left" if header == "ranks" else "right", no_wrap=True)
    for stage, rank in enumerate(plan.ranks):
        sizes = (
            rank.weights_bytes, rank.activation_bytes, rank.buffer_bytes, rank.overhead_bytes, rank.kv_cache_bytes,
            rank.free_bytes - rank.missing_bytes, rank.usable_bytes,
        )  # fmt: skip
        table.add_row(_rank_names(plan, stage), *(f"{size / 2**30:.2f}" for size in sizes))
    console.print(table)
    names = [_rank_names(plan, stage) for stage in range(len(plan.ranks))]
    label = max(map(len, names)) + 2
    width = min(console.width - label - 1, _WIDEST_BAR)
    for name, rank in zip(names, plan.ranks, strict=True):
        console.print(Text(f"{name:<{label}}").append_text(bar(rank, width)))
    console.print(Padding(legend(max(plan.ranks, key=lambda rank: rank.missing_bytes)), (0, 0, 1, label), expand=False))


def _show_capacity(console: Console, plan: Plan) -> None:
    work = plan.workload
    tokens_each = f"{work.input_tokens:,} + {work.output_tokens:,} tokens"
    console.print(
        f"The KV cache holds {plan.kv_cache_tokens:,} tokens ({_kib(plan.kv_bytes_per_token)} each on a GPU): "
        f"{plan.requests:,} requests of {tokens_each} at once, one of {plan.max_seq_len:,}."
    )
    console.print(
        f"KV cache: {plan.kv_cache_fraction:.0%} of what is left. It and the weights are exact, the rest is estimated.",
        style="dim",
    )
    console.print()


def _show_speed(console: Console, plan: Plan) -> None:
    title = "at best (roofline: upper bounds that no engine reaches)"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for header in ("requests", "ms/token", "tokens/s each", "tokens/s in all", "bound by", "links"):
        table.add_column(header, justify="left" if header == "bound by" else "right", no_wrap=True)
    for batch_size in _batch_sizes(plan):
        step = plan.decode(batch_size)
        each = 1 / step.time_per_output_token_s
        table.add_row(
            f"{batch_size:,}", f"{1e3 / each:.2f}", f"{each:,.0f}", f"{step.tokens_per_s:,.0f}", step.bound,
            f"{step.link_share:.0%}",
        )  # fmt: skip
    console.print(table)
    first_ms = 1e3 * plan.time_to_first_token_s()
    console.print(f"First token of a prompt of {plan.workload.input_tokens:,} tokens: {first_ms:.1f} ms.")
    if plan.gpu.flops("fp16") is None:
        console.print("The GPU's TFLOPS are unknown: only its memory bounds these.", style="yellow")
    console.print()


def _show_changes(console: Console, plan: Plan, found: Sequence[Change]) -> None:
    console.print(f"It does not fit: {_reason(plan)}.", style="bold red")
    if not found:
        console.print("No single change makes it fit.")
        return
    console.print("Each of these alone makes it fit, the smallest first:")
    for change in found:
        fits = change.plan
        console.print(
            f"  - {change.what}: {fits.kv_cache_tokens:,} tokens of KV cache, {fits.requests:,} requests at once"
        )


def _reason(plan: Plan) -> str:
    missing = max(rank.missing_bytes for rank in plan.ranks)
    work = plan.workload
    if missing:
        fullest = max(plan.ranks, key=lambda rank: rank.missing_bytes)
        return (
            f"{_formats(plan)} over {plan.world_size} x {plan.gpu.name} needs {_gib(fullest.fixed_bytes)} of "
            f"{_gib(plan.gpu.usable_bytes)} on a GPU without any KV cache ({_gib(fullest.weights_bytes)} are weights)"
        )
    if plan.kv_cache_tokens < work.longest_tokens:
        return f"the KV cache holds {plan.kv_cache_tokens:,} tokens, and one request can have {work.longest_tokens:,}"
    return f"the KV cache holds {plan.requests:,} requests of {work.request_tokens:,} tokens, not {work.concurrency:,}"


def _formats(plan: Plan) -> str:
    weights = plan.config.dtype if plan.form.name == "none" else plan.form.name
    return f"{weights} weights, {plan.kv_cache or plan.config.dtype} KV cache"


def _rank_names(plan: Plan, stage: int) -> str:
    tp = plan.config.mapping.tp_size
    return str(stage) if tp == 1 else f"{stage * tp}-{stage * tp + tp - 1}"


def _batch_sizes(plan: Plan) -> list[int]:
    return sorted({1, plan.workload.concurrency, plan.batch_size})


def _budget(plan: Plan, stage: int) -> dict[str, Any]:
    tp, rank = plan.config.mapping.tp_size, plan.ranks[stage]
    fields = ("usable", "weights", "activation", "buffer", "overhead", "kv_cache", "free", "missing")
    sizes = {f"{name}_bytes": getattr(rank, f"{name}_bytes") for name in fields}
    return {"ranks": list(range(stage * tp, (stage + 1) * tp))} | sizes


def _decode(plan: Plan, batch_size: int) -> dict[str, Any]:
    step = plan.decode(batch_size)
    return {
        "requests": batch_size,
        "time_per_output_token_s": step.time_per_output_token_s,
        "tokens_per_s": step.tokens_per_s,
        "bound": step.bound,
        "link_share": step.link_share,
    }


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:g} KiB"
