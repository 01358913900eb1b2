"""How much of an answer repeats what stood before it, and what drafts gain by that."""

from __future__ import annotations

import pytest

from perf.closed_loop import Load
from perf.prompts import Prompt
from perf.record import Arrival, RequestRecord
from perf.repetition import Pair, bins, pairs, repeated_share


@pytest.mark.parametrize(
    ("prompt", "answer", "share"),
    [
        ("say: one two three four five six\n", "one two three four five six", 1.0),
        ("say: one two three four five six\n", "new one two three four five new new new new", 0.5),
        ("one two three four\n", "one two three four", 0.0),  # a run too short
        ("ask\n", "a b c d e a b c d e", 0.5),  # it repeats itself
        ("a b c d e\n", "", 0.0),
    ],
)
def test_what_stood_before_counts_in_runs(prompt: str, answer: str, share: float) -> None:
    assert repeated_share(prompt, answer) == pytest.approx(share)


def test_a_pair_is_one_prompt_on_two_sides() -> None:
    load = Load(workers=((Prompt("one two three four five ", (1,)), Prompt("other ", (2,))),), max_tokens=1)
    ours = [RequestRecord(0.0, 1, (Arrival(0.5, 1),), "x"), RequestRecord(1.0, 1, (Arrival(2.0, 1),), "x")]
    theirs = [
        RequestRecord(0.0, 1, (Arrival(1.0, 1),), "one two three four five"),
        RequestRecord(1.0, 1, (Arrival(2.0, 1),), "new"),
    ]
    assert pairs(load, ours, theirs) == [Pair(repeated=1.0, ratio=0.5), Pair(repeated=0.0, ratio=1.0)]


def test_every_pair_is_in_one_bin() -> None:
    found = bins([Pair(repeated=share, ratio=share) for share in (0.0, 0.1, 0.5, 0.75, 1.0)])
    assert [each.ratios for each in found] == [(0.0, 0.1), (0.5,), (0.75, 1.0)]
    assert [each.title for each in found] == ["0% to 25%", "50% to 75%", "75% to 100%"]
