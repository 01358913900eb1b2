"""Rounds, turns, prompts and ratios of the benchmark, with sides that only pretend to generate."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from perf.bench import BenchPlan, Run, Side, measure, ratios
from perf.bench_report import document, table
from perf.cli import main
from perf.closed_loop import Load, UnequalWork
from perf.prompts import PromptSource
from perf.record import Arrival, RequestRecord

PLAN = BenchPlan(concurrencies=(1, 4), requests_per_worker=2, max_tokens=16, rounds=3, seed=5)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a word; words that it does not know are told apart by nobody."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def prompts(tokenizer: Tokenizer) -> PromptSource:
    return PromptSource(tokenizer, 4, 12, seed=5)


def pretend(token_s: float, seen: list[Load] | None = None) -> Side:
    """A side that takes ``token_s`` for each token, each worker for itself."""

    def run(load: Load) -> list[RequestRecord]:
        if seen is not None:
            seen.append(load)
        records = []
        for worker in load.workers:
            now_s = 0.0
            for prompt in worker:
                arrivals = tuple(Arrival(now_s + token_s * (n + 1), 1) for n in range(load.max_tokens))
                records.append(RequestRecord(now_s, len(prompt.token_ids), arrivals))
                now_s = arrivals[-1].received_s
        return records

    return run


def test_prompts_begin_at_different_words_and_have_the_lengths_asked_for(tokenizer: Tokenizer) -> None:
    prompts = PromptSource(tokenizer, 6, 20, seed=3).take(300)
    assert len({prompt.text for prompt in prompts}) == 300
    assert {len(prompt.token_ids) for prompt in prompts} == set(range(6, 21))
    beginnings = sorted(prompt.text.split()[:6] for prompt in prompts)
    assert all(one != other for one, other in pairwise(beginnings))


def test_the_same_seed_gives_the_same_prompts(tokenizer: Tokenizer) -> None:
    first, again, other = (PromptSource(tokenizer, 6, 20, seed).take(50) for seed in (3, 3, 4))
    assert first == again != other


def test_prompts_run_out_rather_than_repeat(tokenizer: Tokenizer) -> None:
    source = PromptSource(tokenizer, 6, 20, seed=3)
    with pytest.raises(ValueError, match="the corpus has"):
        source.take(100_000)


def test_both_sides_answer_the_same_loads_and_take_turns_at_being_first(tokenizer: Tokenizer) -> None:
    seen: dict[str, list[Load]] = {"ours": [], "theirs": []}
    sides = {name: pretend(0.01, loads) for name, loads in seen.items()}
    runs = list(measure(PLAN, sides, prompts(tokenizer)))
    assert seen["ours"] == seen["theirs"]
    firsts = [(run.concurrency, run.side) for run in runs[::2]]
    assert {(concurrency, firsts.count((concurrency, "ours"))) for concurrency in (1, 4)} <= {
        (1, 1), (1, 2), (4, 1), (4, 2),
    }  # fmt: skip


def test_no_prompt_is_used_twice(tokenizer: Tokenizer) -> None:
    loads: list[Load] = []
    list(measure(PLAN, {"ours": pretend(0.01, loads)}, prompts(tokenizer)))
    texts = [prompt.text for load in loads for worker in load.workers for prompt in worker]
    assert len(set(texts)) == len(texts) == 3 * (1 + 4) * (2 + 1)


def test_warm_up_is_not_measured(tokenizer: Tokenizer) -> None:
    runs = list(measure(PLAN, {"ours": pretend(0.01)}, prompts(tokenizer)))
    assert [run.metrics["request_latency"].count for run in runs] == [2, 8] * 3


def test_ratios_pair_the_rounds(tokenizer: Tokenizer) -> None:
    runs = list(measure(PLAN, {"ours": pretend(0.01), "theirs": pretend(0.02)}, prompts(tokenizer)))
    assert ratios(runs, "ours", "theirs", 4, "output_token_throughput", "avg") == pytest.approx([2.0] * 3)
    assert ratios(runs, "ours", "theirs", 4, "time_to_first_token", "p50") == pytest.approx([0.5] * 3)


def test_a_side_that_stops_early_is_not_measured(tokenizer: Tokenizer) -> None:
    honest = pretend(0.01)

    def short(load: Load) -> list[RequestRecord]:
        return [RequestRecord(r.sent_s, r.input_tokens, r.arrivals[:-1]) for r in honest(load)]

    with pytest.raises(UnequalWork, match="tokens; 8 were asked for"):
        list(measure(PLAN, {"ours": short}, prompts(tokenizer)))


def test_a_side_that_reads_other_prompts_is_not_measured(tokenizer: Tokenizer) -> None:
    honest = pretend(0.01)

    def longer(load: Load) -> list[RequestRecord]:
        return [RequestRecord(r.sent_s, r.input_tokens + 1, r.arrivals) for r in honest(load)]

    with pytest.raises(UnequalWork, match="same engine directory"):
        list(measure(PLAN, {"ours": longer}, prompts(tokenizer)))


def test_workers_get_equal_shares(tokenizer: Tokenizer) -> None:
    prompts = PromptSource(tokenizer, 6, 20, seed=3).take(6)
    load = Load.deal(prompts, 3, 16)
    assert [len(worker) for worker in load.workers] == [2, 2, 2]
    with pytest.raises(ValueError, match="shared equally"):
        Load.deal(prompts, 4, 16)


def test_a_result_that_could_not_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--json", str(tmp_path / "none" / "bench.json")])
    assert "none is no directory" in capsys.readouterr().err


def test_the_report_shows_ratios_of_two_sides(tokenizer: Tokenizer) -> None:
    sides = {"ours": pretend(0.01), "theirs": pretend(0.02)}
    runs: list[Run] = list(measure(PLAN, sides, prompts(tokenizer)))
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table(runs, [*sides]))
    assert "2.00 (2.00-2.00)" in shown.get()
    found = document(PLAN, runs, [*sides], load_average=0.0)
    assert len(found["runs"]) == 12
    assert {"concurrency": 1, "metric": "time_to_first_token", "statistic": "p50"}.items() <= found["ratios"][1].items()


@pytest.mark.parametrize(("workers", "requests"), [(1, 8), (3, 9), (4, 8), (8, 16)])
def test_few_workers_have_several_requests_each(workers: int, requests: int) -> None:
    assert replace(PLAN, least_requests=8).requests(workers) == requests
