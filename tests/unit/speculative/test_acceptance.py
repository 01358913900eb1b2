from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.speculative.acceptance import FIRST_RATE, MEMORY, PRIOR_WEIGHT, AcceptanceRate, SequenceAcceptance

RUNS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=12)


@given(RUNS)
def test_it_is_the_weighted_mean_over_single_tokens(runs: list[tuple[int, int]]) -> None:
    pool = AcceptanceRate()
    one = SequenceAcceptance(pool)
    tokens: list[int] = []
    for right, wrong in runs:
        one.add(right, wrong)
        tokens += [1] * right + [0] * wrong
    weights = [MEMORY**age for age in range(len(tokens))][::-1]
    right_weight = sum(weight * token for weight, token in zip(weights, tokens, strict=True))
    expected = (right_weight + PRIOR_WEIGHT * pool.rate / 2) / (sum(weights) + PRIOR_WEIGHT)
    assert one.rate == pytest.approx(expected)
    assert 0 <= one.rate <= 1


def test_a_new_sequence_is_taken_for_half_as_good_as_the_others() -> None:
    pool = AcceptanceRate()
    assert SequenceAcceptance(pool).rate == FIRST_RATE / 2
    for _ in range(200):
        SequenceAcceptance(pool).add(0, 1)
    assert SequenceAcceptance(pool).rate < 0.05


def test_it_follows_a_change_within_some_ten_tokens() -> None:
    one = SequenceAcceptance(AcceptanceRate())
    for _ in range(50):
        one.add(0, 1)
    assert one.rate < 0.1
    one.add(20, 0)
    assert one.rate > 0.7
