from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.speculative.acceptance import (
    DRAFT_MODEL_RATES,
    LONGEST_RUN,
    MEMORY,
    NGRAM_RATES,
    PRIOR_WEIGHT,
    AcceptanceRate,
    SequenceAcceptance,
)

RUNS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=12)


@given(RUNS)
def test_it_is_the_weighted_mean_over_single_tokens_behind_such_a_run(guesses: list[tuple[int, int]]) -> None:
    """All of them behind long runs, which count alike."""
    pool = AcceptanceRate(NGRAM_RATES)
    one = SequenceAcceptance(pool)
    tokens: list[int] = []
    for right, wrong in guesses:
        one.add(LONGEST_RUN, right, wrong)
        tokens += [1] * right + [0] * wrong
    weights = [MEMORY**age for age in range(len(tokens))][::-1]
    right_weight = sum(weight * token for weight, token in zip(weights, tokens, strict=True))
    prior = SequenceAcceptance(pool).rate(LONGEST_RUN)
    expected = (right_weight + PRIOR_WEIGHT * prior) / (sum(weights) + PRIOR_WEIGHT)
    assert one.rate(LONGEST_RUN) == pytest.approx(expected)
    assert 0 <= one.rate(LONGEST_RUN) <= 1
    assert one.rate(2) == SequenceAcceptance(pool).rate(2)


@given(st.integers(0, 30), st.integers(1, 20))
def test_the_chances_of_a_guess_follow_the_run_as_it_grows(run: int, count: int) -> None:
    one = SequenceAcceptance(AcceptanceRate(NGRAM_RATES))
    rates = [one.rate(run + index) for index in range(count)]
    assert one.chances(run, count) == pytest.approx(np.cumprod(rates))


def test_before_anything_is_known_long_runs_are_surer() -> None:
    one = SequenceAcceptance(AcceptanceRate(NGRAM_RATES))
    rates = [one.rate(run) for run in range(LONGEST_RUN + 1)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == pytest.approx((NGRAM_RATES[0], NGRAM_RATES[-1]))


def test_what_others_found_is_where_a_new_sequence_begins() -> None:
    pool = AcceptanceRate(DRAFT_MODEL_RATES)
    for _ in range(200):
        SequenceAcceptance(pool).add(0, 0, 1)
    assert SequenceAcceptance(pool).rate(0) < 0.05
    assert SequenceAcceptance(pool).rate(LONGEST_RUN) == pytest.approx(DRAFT_MODEL_RATES[-1])


def test_it_follows_a_change_within_some_dozen_tokens() -> None:
    one = SequenceAcceptance(AcceptanceRate(NGRAM_RATES))
    for _ in range(50):
        one.add(LONGEST_RUN, 0, 1)
    assert one.rate(LONGEST_RUN) < 0.4
    one.add(LONGEST_RUN, 30, 0)
    assert one.rate(LONGEST_RUN) > 0.7
