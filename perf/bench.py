"""The benchmark: each side answers the same loads, turn by turn, so that a slow minute of the machine slows both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from perf.closed_loop import Load
from perf.metrics import Summary, summarize
from perf.prompts import Prompt
from perf.record import RequestRecord

Side = Callable[[Load], list[RequestRecord]]

WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to measure."""

    concurrencies: tuple[int, ...]
    requests_per_worker: int
    max_tokens: int
    rounds: int
    seed: int
    least_requests: int = 0
    """In each round, however few workers there are: single requests differ much."""

    def requests(self, workers: int) -> int:
        """In one round: equally many for each worker."""
        return workers * max(self.requests_per_worker, -(-self.least_requests // workers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one side did with one load."""

    side: str
    concurrency: int
    round: int
    metrics: dict[str, Summary]


class Prompts(Protocol):
    """Where a benchmark's prompts come from."""

    def take(self, count: int) -> list[Prompt]:
        """The next ones."""
        ...


def measure(plan: BenchPlan, sides: Mapping[str, Side], prompts: Prompts) -> Iterator[Run]:
    """Each run as it ends: in every round, for every concurrency, all sides answer one load; the order turns each time.

    Loads of different rounds have different prompts. Before each run the side answers one short request per worker,
    which is not recorded. Raises UnequalWork when a side did not do what the load asks for.
    """
    for number in range(plan.rounds):
        for place, concurrency in enumerate(plan.concurrencies):
            load = Load.deal(prompts.take(plan.requests(concurrency)), concurrency, plan.max_tokens)
            warm_up = Load.deal(prompts.take(concurrency), concurrency, min(WARM_UP_TOKENS, plan.max_tokens))
            first = (number + place) % len(sides)
            for side in [*sides][first:] + [*sides][:first]:
                yield Run(side=side, concurrency=concurrency, round=number, metrics=_run(sides[side], warm_up, load))


def _run(side: Side, warm_up: Load, load: Load) -> dict[str, Summary]:
    warm_up.check(side(warm_up))
    records = side(load)
    load.check(records)
    return summarize(records)


def values(runs: Sequence[Run], side: str, concurrency: int, tag: str, statistic: str) -> list[float]:
    """One figure of a side at a concurrency, round by round."""
    return [
        getattr(run.metrics[tag], statistic)
        for run in sorted(runs, key=lambda run: run.round)
        if run.side == side and run.concurrency == concurrency and tag in run.metrics
    ]


def ratios(runs: Sequence[Run], ours: str, theirs: str, concurrency: int, tag: str, statistic: str) -> list[float]:
    """ours / theirs, round by round: both figures of a ratio were measured one right after the other."""
    pairs = zip(
        values(runs, ours, concurrency, tag, statistic), values(runs, theirs, concurrency, tag, statistic), strict=True
    )
    return [our / their for our, their in pairs]
