"""``python -m perf bench``: starts both sides, measures, and reports."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import ExitStack

from rich.console import Console

from perf import plot
from perf.bench import BenchPlan, Run, Side, measure
from perf.bench_report import document, environment, table
from perf.engine_tokenizer import load_tokenizer
from perf.genai_peer import GenAiPeer
from perf.own_server import own_server
from perf.prompts import PromptSource
from perf.triton_load import run_load

OURS = "slipstream"
PEER = "openvino-genai"


def bench(options: argparse.Namespace) -> int:
    """Measures what the options ask for and shows the table; writes JSON and the picture where asked."""
    plan = BenchPlan(
        concurrencies=options.concurrency,
        requests_per_worker=options.requests_per_worker,
        max_tokens=options.max_tokens,
        rounds=options.rounds,
        seed=options.seed,
    )
    console = Console()
    load_average = os.getloadavg()[0]
    with ExitStack() as stack:
        server = stack.enter_context(own_server(options.model_repository, options.engine_dir, ("ensemble",)))
        sides: dict[str, Side] = {OURS: lambda load: run_load(server.grpc_url, load)}
        if options.peer != "none":
            threads = len(os.sched_getaffinity(0))  # all cores, as the engine takes with num_threads 0
            peer = stack.enter_context(GenAiPeer.started(options.engine_dir, options.checkpoint_dir, threads))
            sides[PEER] = peer.run_load
        shortest, longest = options.prompt_tokens
        prompts = PromptSource(load_tokenizer(options.engine_dir), shortest, longest, options.seed)
        runs = _measure(plan, sides, prompts, console)
    console.print(table(runs, [*sides]))
    if options.json:
        figures = document(plan, runs, [*sides], load_average) | {"prompt_tokens": options.prompt_tokens}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        plot.save(runs, [*sides], options.plot, _subtitle(plan, options.prompt_tokens))
    return 0


def _measure(plan: BenchPlan, sides: dict[str, Side], prompts: PromptSource, console: Console) -> list[Run]:
    runs: list[Run] = []
    total = plan.rounds * len(plan.concurrencies) * len(sides)
    with console.status("warming up") as status:
        for run in measure(plan, sides, prompts):
            runs.append(run)
            throughput = run.metrics["output_token_throughput"].avg
            status.update(
                f"run {len(runs)} of {total}: {run.side} at concurrency {run.concurrency}: {throughput:.0f} tokens/s"
            )
    return runs


def _subtitle(plan: BenchPlan, prompt_tokens: tuple[int, int]) -> str:
    shortest, longest = prompt_tokens
    where = environment()
    return (
        f"{where['cpu']}, {where['cores']} cores · prompts of {shortest} to {longest} tokens, answers of "
        f"{plan.max_tokens}, greedy · bars: median of {plan.rounds} rounds, whiskers: range · "
        "bold: ratio, Slipstream (Triton, gRPC streaming) / openvino-genai (in process)"
    )
