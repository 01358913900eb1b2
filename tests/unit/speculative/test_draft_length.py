"""The controller, next to a search through all combinations of lengths."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.speculative.draft_length import TO_GO_ON, TO_START, Candidate, DraftLengthController
from python_backend.speculative.step_cost import StepCost

#: Milliseconds by tokens as measured on an AVX2 machine: nearly flat, a step behind 4, then as many as tokens.
MACHINE = StepCost.through(
    {1: 10.4, 2: 12, 3: 13, 4: 15, 5: 21.4, 6: 22, 8: 25.5, 12: 31.9, 16: 38.8, 24: 51.6, 32: 67.5, 64: 119, 128: 256},
    1024,
    per_drafting_sequence_s=0.65,
)
CURVES = st.lists(st.floats(0.0, 5.0), min_size=40, max_size=40).map(
    lambda rises: StepCost(np.cumsum([1.0, *rises], dtype=np.float64))
)
RATES = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=1, max_size=4)
CANDIDATES = st.lists(RATES.map(lambda rates: Candidate(np.cumprod(rates))), min_size=1, max_size=3)


def guessing(limit: int, acceptance: float, *, is_priced: bool = False) -> Candidate:
    """Each token is accepted with the same chance, if those before it are."""
    return Candidate(acceptance ** np.arange(1, limit + 1), is_priced)


def goodput(cost: StepCost, candidates: list[Candidate], lengths: tuple[int, ...], others: int, context: int) -> float:
    generating = len(candidates) + others
    tokens = generating + sum(float(c.chances[:n].sum()) for c, n in zip(candidates, lengths, strict=True))
    busy = generating + context
    return tokens / (cost.seconds(generating) + cost.seconds(busy + sum(lengths)) - cost.seconds(busy))


@given(
    cost=CURVES, candidates=CANDIDATES, others=st.integers(0, 5), context=st.integers(0, 9), budget=st.integers(0, 14)
)
@settings(max_examples=200)
def test_no_combination_of_lengths_brings_more(
    cost: StepCost, candidates: list[Candidate], others: int, context: int, budget: int
) -> None:
    controller = DraftLengthController(cost)
    generating = len(candidates) + others
    choice = controller.choose(candidates, generating=generating, context_tokens=context, budget=budget)
    assert sum(choice.lengths) <= budget
    assert all(length <= candidate.chances.size for length, candidate in zip(choice.lengths, candidates, strict=True))
    ways = [way for way in product(*(range(c.chances.size + 1) for c in candidates)) if sum(way) <= budget]
    best = max(goodput(cost, candidates, way, others, context) for way in ways)
    none = goodput(cost, candidates, (0,) * len(candidates), others, context)
    if any(choice.lengths):
        assert goodput(cost, candidates, tuple(choice.lengths), others, context) == pytest.approx(best)
        assert choice.speedup == pytest.approx(best / none)
        assert choice.speedup > TO_START
    else:
        assert best / none <= TO_START * (1 + 1e-9)
        assert choice.speedup == pytest.approx(1.0)


def choose(candidates: list[Candidate], generating: int, context: int = 0, cost: StepCost = MACHINE) -> list[int]:
    controller = DraftLengthController(cost)
    return controller.choose(candidates, generating=generating, context_tokens=context, budget=500).lengths


@pytest.mark.parametrize("count", [1, 8, 32])
def test_hopeless_guesses_are_not_verified(count: int) -> None:
    assert choose([guessing(16, 0.0)] * count, count) == [0] * count


def test_a_lone_sequence_gets_what_is_nearly_free_and_more_when_it_is_nearly_sure() -> None:
    assert choose([guessing(16, 0.8)], 1) == [3]
    assert choose([guessing(16, 0.98)], 1) == [16]


def test_a_large_batch_is_not_made_larger() -> None:
    assert not any(choose([guessing(16, 1.0)] * 32, 32))


def test_in_a_middling_batch_those_who_are_copying_are_served() -> None:
    lengths = choose([guessing(16, 0.97)] + [guessing(16, 0.3)] * 7, 8)
    assert lengths[0] > 3
    assert not any(lengths[1:])


def test_context_in_the_step_makes_it_busy_and_guesses_no_cheaper() -> None:
    assert choose([guessing(16, 0.8)], 1, context=200) == [4]
    assert choose([guessing(16, 0.25)], 1) == [1]
    assert choose([guessing(16, 0.2)], 1, context=200) == [0]
    assert not any(choose([guessing(16, 0.6)] * 8, 8, context=200))
    assert not any(choose([guessing(16, 0.9)] * 32, 32, context=200))


def test_drafts_start_for_a_larger_promise_than_they_go_on_for() -> None:
    cost = StepCost.through({1: 1.0, 2: 1.0}, 4)
    controller = DraftLengthController(cost)

    def lengths(gain: float) -> list[int]:
        return controller.choose([guessing(1, gain)], generating=1, context_tokens=0, budget=1).lengths

    low, high = (TO_GO_ON + TO_START) / 2 - 1, TO_START - 1 + 0.01
    assert [lengths(gain) for gain in (low, high, low, 0.0, low)] == [[0], [1], [1], [0], [0]]


def test_the_price_of_guessing_counts_where_it_is_paid() -> None:
    """All priced sequences guess side by side, so the price goes by how many they are and the longest guess."""
    candidates = [guessing(4, 0.9, is_priced=True), guessing(4, 0.8, is_priced=True)]
    asked: list[tuple[int, int]] = []

    def lengths(price_s: float, candidates: list[Candidate]) -> list[int]:
        def price(sequences: int, tokens: int) -> float:
            asked.append((sequences, tokens))
            return price_s * tokens

        controller = DraftLengthController(MACHINE)
        return controller.choose(
            candidates, generating=2, context_tokens=0, budget=99, price_s=price
        ).lengths  # fmt: skip

    free = lengths(0.0, candidates)
    assert (2, 4) in asked
    assert all(1 <= sequences <= 2 and 1 <= tokens <= 4 for sequences, tokens in asked)
    assert sum(free) > sum(lengths(5.0, candidates)) >= 0
    assert lengths(50.0, candidates) == [0, 0]
    assert lengths(50.0, [guessing(4, 0.9), guessing(4, 0.8)]) == free


def test_a_change_of_shape_counts_there_and_back_for_guesses_that_come_and_go() -> None:
    cost = StepCost.through({1: 10.0, 2: 10.0, 3: 10.0}, 16, reshaping_s=5.0)
    controller = DraftLengthController(cost)

    def lengths(acceptance: float, *, limit: int = 1, is_priced: bool = False, context: int = 0) -> list[int]:
        candidate = guessing(limit, acceptance, is_priced=is_priced)
        return controller.choose([candidate], generating=1, context_tokens=context, budget=9).lengths

    def rest() -> None:
        controller.choose([], generating=1, context_tokens=0, budget=9)
        assert lengths(0.0) == [0]

    rest()
    assert lengths(0.9) == [0]  # 1.9 tokens in 20
    assert lengths(0.9, limit=2) == [2]  # 2.71
    assert lengths(0.3, limit=2) == [2]  # as before: free
    rest()
    assert lengths(0.9, context=3) == [1]  # the context changes the size anyway
    rest()
    assert lengths(0.3, is_priced=True) == [1]  # somebody who always has a guess
    assert lengths(0.3, is_priced=True) == [1]


def test_sizes_that_the_executor_keeps_are_free_and_others_are_spread_over_some_steps() -> None:
    cost = StepCost.through({1: 10.0, 2: 10.0, 3: 10.0}, 16, reshaping_s=8.0, kept_shapes=2)
    controller = DraftLengthController(cost)

    def lengths(acceptance: float, limit: int) -> list[int]:
        candidates = [guessing(limit, acceptance)] if limit else []
        return controller.choose(candidates, generating=1, context_tokens=0, budget=9).lengths

    lengths(0.0, 0)
    assert lengths(0.2, 2) == [0]  # 1.24 tokens in 12
    assert lengths(0.4, 2) == [2]  # 1.56
    lengths(0.0, 0)  # steps without drafts are kept,
    assert lengths(0.2, 2) == [2]  # and so are those with two
    assert lengths(0.2, 1) == [0]  # 1.2 in 12
