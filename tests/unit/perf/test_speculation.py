"""The comparison of answers with drafts and without: its prompts, its sides, its counting."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers

from perf.bench import BenchPlan, measure
from perf.cli import main
from perf.closed_loop import Load
from perf.prometheus import total
from perf.record import Arrival, RequestRecord
from perf.repetition import Pair
from perf.speculation import ACCEPTED, DRAFTS, OTHER_DOOR, PLAIN, PROPOSED, Drafting, document, repetition_table, table
from perf.speculation_plot import save
from perf.tasks import TaskSource
from python_backend.metrics import COUNTERS

PLAN = BenchPlan(concurrencies=(1, 2), requests_per_worker=1, max_tokens=8, rounds=2, seed=1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.mark.parametrize("kind", ["copy", "chat", "mixed"])
def test_no_prompt_begins_like_another(tokenizer: Tokenizer, kind: str) -> None:
    taken = [prompt.text for prompt in TaskSource(kind, tokenizer, seed=3).take(60)]
    assert len({text[: text.index(".")] for text in taken}) == 60


def test_copies_hold_the_text_to_copy_and_questions_do_not(tokenizer: Tokenizer) -> None:
    copies = TaskSource("copy", tokenizer, seed=3).take(40)
    questions = TaskSource("chat", tokenizer, seed=3).take(40)
    assert min(len(prompt.token_ids) for prompt in copies) > max(len(prompt.token_ids) for prompt in questions)
    assert any("```python" in prompt.text for prompt in copies)


def test_counters_are_summed_over_their_series() -> None:
    text = 'a_total{drafter="ngram"} 3\na_total{drafter="model"} 4\na_total_more 9\n# a_total 5\nplain 2\n'
    assert (total(text, "a_total"), total(text, "plain"), total(text, "none")) == (7, 2, 0)


def pretend(load: Load, token_s: float) -> list[RequestRecord]:
    arrivals = tuple(Arrival(token_s * (index + 1), 1) for index in range(load.max_tokens))
    return [RequestRecord(0.0, len(prompt.token_ids), arrivals) for worker in load.workers for prompt in worker]


def test_table_figures_and_picture(tokenizer: Tokenizer, tmp_path: Path) -> None:
    speeds = {DRAFTS: 0.005, PLAIN: 0.01, OTHER_DOOR: 0.01}
    sides = {name: lambda load, s=seconds: pretend(load, s) for name, seconds in speeds.items()}
    runs = {"copy": list(measure(PLAN, sides, TaskSource("copy", tokenizer, seed=1)))}
    drafting = [Drafting(workload="copy", concurrency=1, proposed=8, accepted=6)]
    console = Console(width=200, record=True, file=StringIO())
    console.print(table(runs, drafting))
    shown = console.export_text()
    assert "0.50 (0.50-0.50)" in shown  # response time with drafts over that without
    assert "75% of 8" in shown
    assert "none drafted" in shown
    alone = [Pair(repeated=0.8, ratio=0.5), Pair(repeated=1.0, ratio=0.4), Pair(repeated=0.0, ratio=1.0)]
    written = document(PLAN, runs, drafting, alone, 0.5)
    assert written["drafting"] == [{"workload": "copy", "concurrency": 1, "proposed": 8, "accepted": 6}]
    assert written["alone"] == [{"repeated": pair.repeated, "ratio": pair.ratio} for pair in alone]
    console.print(repetition_table(alone))
    assert "75% to 100%         2   0.45 (0.40-0.50)" in console.export_text()
    save(runs, alone, (DRAFTS, PLAIN), tmp_path / "picture.png", "subtitle")
    assert (tmp_path / "picture.png").read_bytes()[1:4] == b"PNG"


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speculation", "--workload", "copy,paste"])
    assert "is not one or more of copy,chat,mixed" in capsys.readouterr().err


def test_the_counters_are_those_that_the_server_has() -> None:

    assert {PROPOSED, ACCEPTED} <= {counter.name for counter in COUNTERS}
