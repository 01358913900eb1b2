"""``python -m perf speculation``: what drafts gain through the real server, next to the same requests without."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from perf.bench import BenchPlan, Run, Side, measure, ratios, values
from perf.bench_report import environment
from perf.closed_loop import Load
from perf.engine_tokenizer import load_tokenizer
from perf.own_server import own_server
from perf.prometheus import total
from perf.record import RequestRecord
from perf.repetition import RUN_WORDS, Pair, bins, pairs
from perf.speculation_plot import save
from perf.tasks import TaskSource
from perf.triton_load import run_load

FRONT_DOOR, ENSEMBLE = "tensorrt_llm_bls", "ensemble"
DRAFTS, PLAIN, OTHER_DOOR = "drafts", "no drafts", "ensemble"
WORKLOADS = ("copy", "chat", "mixed")
#: metric, statistic and heading
FIGURES = (
    ("request_latency", "avg", "response time (ms)"),
    ("output_token_throughput", "avg", "tokens/s"),
    ("time_to_first_token", "p50", "TTFT p50 (ms)"),
)
LEAST_REQUESTS = 8
PROPOSED, ACCEPTED = "slipstream_draft_tokens_total", "slipstream_accepted_draft_tokens_total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """What became of the draft tokens of one workload at one concurrency, over all rounds."""

    workload: str
    concurrency: int
    proposed: int
    accepted: int


def speculation(options: argparse.Namespace) -> int:
    """Measure, print, and write figures and picture where asked."""
    console = Console(width=None if sys.stdout.isatty() else 160)  # a pipe would cut the table at 80 columns
    plan = BenchPlan(
        concurrencies=options.concurrency,
        requests_per_worker=options.requests_per_worker,
        max_tokens=options.max_tokens,
        rounds=options.rounds,
        seed=options.seed,
        least_requests=LEAST_REQUESTS,
    )
    load_average = os.getloadavg()[0]
    tokenizer = load_tokenizer(options.engine_dir)
    runs: dict[str, list[Run]] = {}
    drafting: list[Drafting] = []
    alone: list[Pair] = []
    parameters = _parameters(options.draft_engine_dir)
    server_of = own_server(options.model_repository, options.engine_dir, parameters=parameters)
    with server_of as server, console.status("") as status:
        watched = _Watched(server.metrics_url, sides(server.grpc_url, options.num_draft_tokens))
        for workload in options.workload:
            runs[workload] = []
            for run in measure(plan, watched.sides, TaskSource(workload, tokenizer, options.seed)):
                runs[workload].append(run)
                status.update(f"{workload}: {run.side} at concurrency {run.concurrency}, round {run.round + 1}")
            drafting += watched.take_drafting(workload)
            alone += watched.take_pairs(plan)
    console.print(table(runs, drafting))
    if alone:
        console.print(repetition_table(alone))
    if options.json:
        options.json.write_text(json.dumps(document(plan, runs, drafting, alone, load_average), indent=1) + "\n")
    if options.plot:
        save(runs, alone, (DRAFTS, PLAIN), options.plot, _subtitle(plan, options.num_draft_tokens))
    return 0


def _parameters(draft_engine_dir: Path | None) -> dict[str, dict[str, str]]:
    """The engine's: all sides send the same prompts, and none is to find what another left in the KV cache."""
    drafter = {}
    if draft_engine_dir is not None:
        drafter = {"drafter": "draft_model", "draft_engine_dir": str(draft_engine_dir.resolve())}
    return {"tensorrt_llm": {"enable_kv_cache_reuse": "false"} | drafter}


def sides(grpc_url: str, num_draft_tokens: int) -> dict[str, Side]:
    """The ways to ask that are compared."""

    def side(model: str, drafts: int | None) -> Side:
        return lambda load: run_load(grpc_url, load, model=model, num_draft_tokens=drafts)

    return {
        DRAFTS: side(FRONT_DOOR, num_draft_tokens),
        PLAIN: side(FRONT_DOOR, 0),
        OTHER_DOOR: side(ENSEMBLE, None),
    }


class _Watched:
    """The sides, with a note of what the server's counters of draft tokens gained meanwhile, and of all records."""

    def __init__(self, metrics_url: str, sides: Mapping[str, Side]) -> None:
        self._metrics_url = metrics_url
        self._gained: dict[int, list[int]] = {}
        self._records: dict[str, list[tuple[Load, list[RequestRecord]]]] = {DRAFTS: [], PLAIN: []}
        self.sides = {name: self._watched(name, side) for name, side in sides.items()}

    def _watched(self, name: str, side: Side) -> Side:
        def run(load: Load) -> list[RequestRecord]:
            before = self._read()
            records = side(load)
            if name == DRAFTS:
                gained = self._gained.setdefault(len(load.workers), [0, 0])
                for index, (now, then) in enumerate(zip(self._read(), before, strict=True)):
                    gained[index] += now - then
            if name in self._records:
                self._records[name].append((load, records))
            return records

        return run

    def take_drafting(self, workload: str) -> Iterator[Drafting]:
        """What was counted since the last call."""
        for concurrency, (proposed, accepted) in self._gained.items():
            yield Drafting(workload=workload, concurrency=concurrency, proposed=proposed, accepted=accepted)
        self._gained = {}

    def take_pairs(self, plan: BenchPlan) -> list[Pair]:
        """The requests that were alone, since the last call."""
        ours, theirs = self._records[DRAFTS], self._records[PLAIN]
        self._records = {DRAFTS: [], PLAIN: []}
        return [
            pair
            for (load, our), (_, their) in zip(ours, theirs, strict=True)
            if len(load.workers) == 1 and load.max_tokens == plan.max_tokens
            for pair in pairs(load, our, their)
        ]

    def _read(self) -> tuple[int, int]:
        text = httpx.get(self._metrics_url).text
        return round(total(text, PROPOSED)), round(total(text, ACCEPTED))


def table(runs: Mapping[str, list[Run]], drafting: list[Drafting]) -> Table:
    """Medians over rounds of each side; ratios of drafts to no drafts, and of no drafts to the other door."""
    result = Table(title="median over rounds (ratio: smallest-largest)", title_justify="left", box=SIMPLE_HEAD)
    headers = (
        "workload",
        "workers",
        "figure",
        DRAFTS,
        PLAIN,
        OTHER_DOOR,
        "drafts / none",
        "none / ensemble",
        "accepted",
    )
    for header in headers:
        result.add_column(header, justify="left" if header in ("workload", "figure") else "right", no_wrap=True)
    for workload, measured in runs.items():
        for concurrency in dict.fromkeys(run.concurrency for run in measured):
            for index, (tag, statistic, name) in enumerate(FIGURES):
                medians = (f"{median(values(measured, s, concurrency, tag, statistic)):.1f}" for s in _SIDES)
                spreads = (
                    _spread(ratios(measured, ours, theirs, concurrency, tag, statistic))
                    for ours, theirs in ((DRAFTS, PLAIN), (PLAIN, OTHER_DOOR))
                )
                label = (workload, str(concurrency)) if index == 0 else ("", "")
                share = _accepted(drafting, workload, concurrency) if index == 0 else ""
                result.add_row(*label, name, *medians, *spreads, share)
            result.add_section()
    return result


_SIDES = (DRAFTS, PLAIN, OTHER_DOOR)


def repetition_table(found: Sequence[Pair]) -> Table:
    """Response times of single streams by how much of their answers repeats."""
    result = Table(title="response time of one stream", title_justify="left", box=SIMPLE_HEAD)
    for header in (f"words in runs of {RUN_WORDS} that stood before", "answers", "drafts / none"):
        result.add_column(header, justify="right", no_wrap=True)
    for each in bins(found):
        result.add_row(each.title, str(len(each.ratios)), _spread(list(each.ratios)))
    return result


def _accepted(drafting: list[Drafting], workload: str, concurrency: int) -> str:
    for found in drafting:
        if (found.workload, found.concurrency) == (workload, concurrency) and found.proposed:
            return f"{found.accepted / found.proposed:.0%} of {found.proposed}"
    return "none drafted"


def _spread(figures: list[float]) -> str:
    return f"{median(figures):.2f} ({min(figures):.2f}-{max(figures):.2f})"


def document(
    plan: BenchPlan,
    runs: Mapping[str, list[Run]],
    drafting: list[Drafting],
    alone: list[Pair],
    load_average: float,
) -> dict[str, object]:
    """Everything as JSON values."""
    return {
        "environment": environment() | {"load_average_before": load_average},
        "plan": asdict(plan),
        "runs": {workload: [asdict(run) for run in measured] for workload, measured in runs.items()},
        "drafting": [asdict(found) for found in drafting],
        "alone": [asdict(pair) for pair in alone],
    }


def _subtitle(plan: BenchPlan, num_draft_tokens: int) -> str:
    where = environment()
    return (
        f"{where['cpu']}, {where['cores']} cores · answers of {plan.max_tokens} tokens, greedy, gRPC streaming through "
        f"{FRONT_DOOR} · at most {num_draft_tokens} draft tokens · bars: median of {plan.rounds} rounds, whiskers: "
        "range · bold: ratio drafts / no drafts"
    )
