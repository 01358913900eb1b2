from __future__ import annotations

import threading

import pytest

from python_backend.engine.drafter import DraftStatistics
from python_backend.speculative.round_length import MARGIN, PLAIN_TURNS, ROUNDS, Acceptance, RoundLength

MOST = 12


def measured(fixed_s: float, token_s: float, plain_s: float) -> RoundLength:
    """Rounds that take ``fixed_s`` and ``token_s`` for each draft token; a plain token takes ``plain_s``."""
    length = RoundLength()
    length.observe_plain(10, 10 * plain_s)
    for drafted in (1, 4, 8, 2, 12):
        length.observe_round(drafted, 0, fixed_s + token_s * drafted)
    return length


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize(
    "times", [(1.2, 0.05, 1.0), (1.0, 0.3, 1.0), (2.5, 0.1, 1.0), (3.0, 0.0, 0.9), (1.1, 0.9, 1.0)]
)
def test_the_length_is_the_one_that_brings_most_tokens_a_second(rate: float, times: tuple[float, float, float]) -> None:
    fixed_s, token_s, plain_s = times
    goodput = {0: MARGIN / plain_s}
    for drafted in range(1, MOST + 1):
        tokens = sum(rate**accepted for accepted in range(drafted + 1))
        goodput[drafted] = tokens / (fixed_s + token_s * drafted)
    chosen = measured(*times).choose(Acceptance(rate), MOST)
    assert goodput[chosen] >= max(goodput.values()) * (1 - 1e-9)


def test_nothing_is_drafted_before_plain_generation_was_timed() -> None:
    length = RoundLength()
    assert length.choose(Acceptance(), MOST) == 0
    length.observe_round(4, 4, 0.001)
    assert length.choose(Acceptance(), MOST) == 0
    assert length.statistics.speedup == 1.0


@pytest.mark.parametrize("most", [0, 1, 2, 3, 50])
def test_never_more_than_allowed_also_at_first(most: int) -> None:
    length = RoundLength()
    length.observe_plain(1, 1.0)
    assert length.choose(Acceptance(1.0), most) == min(most, 4)
    length.observe_round(4, 4, 1.2)
    assert length.choose(Acceptance(1.0), most) == most


def turns_until(length: RoundLength, wanted: bool) -> int:
    """How often it has to be asked until it drafts, or drafts no more."""
    for turn in range(10_000):
        if bool(length.choose(Acceptance(0.8), MOST)) is wanted:
            return turn
    raise AssertionError("never")


def test_one_slow_round_does_not_end_drafting_for_good() -> None:
    length = RoundLength()
    length.observe_plain(10, 0.1)
    length.observe_round(4, 4, 60.0)  # the draft model had to be warmed up
    assert length.choose(Acceptance(), MOST) == 0
    assert turns_until(length, wanted=True) <= PLAIN_TURNS
    length.observe_round(4, 4, 0.011)
    assert all(length.choose(Acceptance(0.8), MOST) for _ in range(2 * PLAIN_TURNS))


def test_rounds_that_do_not_pay_are_tried_seldom() -> None:
    length = RoundLength()
    length.observe_plain(10, 0.1)
    tried = 0
    for _ in range(10 * PLAIN_TURNS):
        if drafted := length.choose(Acceptance(0.8), MOST):
            tried += 1
            length.observe_round(drafted, 0, 1.0)
    assert 1 <= tried <= 11


def test_drafting_ends_when_plain_generation_has_become_faster() -> None:
    """As after a busy hour: only rounds were timed meanwhile."""
    length = RoundLength()
    length.observe_plain(10, 10 * 0.1)
    rounds = 0
    while drafted := length.choose(Acceptance(0.8), MOST):
        rounds += 1
        length.observe_round(drafted, 0, 0.05)
    assert rounds <= ROUNDS
    length.observe_plain(10, 10 * 0.01)
    assert length.choose(Acceptance(0.8), MOST) == 0


def test_drafting_begins_when_plain_generation_has_become_slower() -> None:
    length = measured(fixed_s=0.05, token_s=0.001, plain_s=0.01)
    assert length.choose(Acceptance(0.8), MOST) == 0
    for _ in range(20):
        length.observe_plain(10, 10 * 0.05)
    assert length.choose(Acceptance(0.8), MOST) > 0


def test_the_statistics_are_those_of_the_rounds() -> None:
    length = RoundLength()
    assert length.statistics == DraftStatistics()
    length.observe_plain(1, 1.0)
    for accepted in (4, 0) * 40:
        length.observe_round(4, accepted, 2.0)
    assert length.statistics.draft_length == pytest.approx(4.0)
    assert length.statistics.acceptance_rate == pytest.approx(0.5, abs=0.05)
    assert length.statistics.speedup == pytest.approx((1 + 4 * length.statistics.acceptance_rate) / 2)


def test_acceptance_follows_what_is_seen_and_comes_back() -> None:
    acceptance = Acceptance()
    prior = acceptance.rate
    for _ in range(60):
        acceptance.observe(4, 4)
    assert acceptance.rate > 0.99
    for _ in range(60):
        acceptance.observe(4, 0)
    assert acceptance.rate < 0.01
    assert acceptance.tokens(5) == pytest.approx(1.0, abs=0.02)
    for _ in range(40):
        acceptance.forget()
    assert acceptance.rate == pytest.approx(prior, abs=0.01)


def test_tokens_behind_the_first_wrong_one_are_not_held_against_a_draft() -> None:
    short, long = Acceptance(), Acceptance()
    short.observe(2, 1)
    long.observe(9, 1)
    assert short.rate == long.rate


def test_many_requests_may_use_it_at_once() -> None:
    length = RoundLength()
    faults: list[object] = []

    def work(seed: int) -> None:
        acceptance = Acceptance()
        try:
            for turn in range(3000):
                chosen = length.choose(acceptance, 1 + turn % 7)
                if not 0 <= chosen <= 1 + turn % 7:
                    faults.append(chosen)
                if (turn + seed) % 3:
                    length.observe_round(1 + turn % 5, 1, 0.01 + turn % 5 / 1000)
                else:
                    length.observe_plain(4, 0.04)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert 1 < length.statistics.speedup < 10
