"""Rules of sampling, one by one, and the distribution of what is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from python_backend.engine.sampling import SampledRow, Sampler, SamplingParameters, SamplingState
from python_backend.engine.sampling.candidates import around_mass
from python_backend.engine.sampling.counter_random import uniform
from python_backend.errors import EngineFault, InvalidRequest
from python_backend.scheduling.sequence import Sequence
from tests.unit.engine import sampling_oracle as oracle

VOCABULARY = 300
END = 7
LOGITS = (np.random.default_rng(3).standard_normal(VOCABULARY) * 2).astype(np.float32)
ORDER = np.argsort(-LOGITS, kind="stable").tolist()


def sequence(said: SamplingParameters, output: list[int] | None = None) -> Sequence:
    made = Sequence(id="s", prompt=np.array([1, 2, 2]), max_new_tokens=99, end_id=END, sampling=SamplingState(said))
    made.output.extend(output or [])
    return made


def choose(
    logits: npt.NDArray[np.float32], said: SamplingParameters, output: list[int] | None = None
) -> tuple[int, float]:
    tokens, log_probs = Sampler(logits.size).select(logits[np.newaxis], [SampledRow(sequence(said, output), [])])
    return int(tokens[0]), float(log_probs[0])


def peak(token: int) -> npt.NDArray[np.float32]:
    """``token`` is the most likely, token 100 follows at a distance of 1, then the others, far behind."""
    row = np.full(VOCABULARY, -20, np.float32)
    row[token], row[100] = 0, -1
    return row


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"temperature": -0.5}, r"temperature is -0.5; .* from 0 up"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1; .* 1024"),
        ({"top_k": 1025}, "top_k is 1025; .* 1024"),
        ({"top_p": 0.0}, "top_p is 0.0; .* above 0"),
        ({"top_p": 1.5}, "top_p is 1.5; .* at most 1"),
        ({"top_p_decay": 0.0}, "top_p_decay is 0.0"),
        ({"top_p_min": 1.5}, "top_p_min is 1.5"),
        ({"top_p_reset_ids": -3}, "top_p_reset_ids is -3; .* token id"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"presence_penalty": float("nan")}, "presence_penalty is nan"),
        ({"frequency_penalty": float("-inf")}, "frequency_penalty is -inf"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"bad_words": ((3,), ())}, "word without tokens"),
        ({"embedding_bias": np.zeros((2, 2), np.float32)}, r"shape \[2, 2\]"),
        ({"embedding_bias": np.array([0, np.nan], np.float32)}, "holds nan"),
        ({"embedding_bias": np.array([0, np.inf], np.float32)}, "holds inf"),
        ({"embedding_bias": np.full(3, -np.inf, np.float32)}, "every token"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_limits(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        SamplingParameters(**said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"embedding_bias": np.ones(3, np.float32)}, "has 3 values.* 300"),
        ({"bad_words": ((5, 300),)}, "token id 300 in bad_words"),
        ({"bad_words": ((-1,),)}, "token id -1 in bad_words"),
    ],
)
def test_what_does_not_fit_the_vocabulary_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        SamplingParameters(**said).check_vocabulary(VOCABULARY)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"top_k": 1},
        {"top_k": 1, "top_p": 0.9},
        {"temperature": 5.0},
        {"temperature": 0.0, "top_p": 0.9},
        {"seed": 4},
    ],
)
def test_what_asks_for_nothing_random_is_plain_greedy(said: dict[str, Any]) -> None:
    assert SamplingParameters(**said).is_plain_greedy
    assert choose(LOGITS, SamplingParameters(**said))[0] == LOGITS.argmax()


@pytest.mark.parametrize(
    "said",
    [
        {"top_k": 2}, {"top_p": 0.1}, {"top_p": 1.0}, {"repetition_penalty": 1.1}, {"presence_penalty": 1},
        {"frequency_penalty": 1}, {"min_tokens": 1}, {"bad_words": ((1,),)}, {"return_log_probs": True},
        {"embedding_bias": np.ones(3, np.float32)}, {"return_generation_logits": True},
    ],
)  # fmt: skip
def test_what_needs_logits_is_not_plain_greedy(said: dict[str, Any]) -> None:
    assert not SamplingParameters(**said).is_plain_greedy


def test_the_lowest_id_wins_a_tie() -> None:
    row = np.zeros(VOCABULARY, np.float32)
    row[[50, 20, 70]] = 9
    assert choose(row, SamplingParameters(return_log_probs=True))[0] == 20
    # Sampling counts equals off in the order of their ids: of two, the lower one for numbers up to a half.
    for seed in range(50):
        drawn = choose(row, SamplingParameters(top_k=2, seed=seed))[0]
        assert drawn == (20 if uniform(seed, 3) <= 0.5 else 50)  # the prompt has 3 tokens


def test_temperature_comes_before_penalties() -> None:
    """Token 1 is in the prompt. 8 / 4 - 3 < 4 / 4 - 0, while (8 - 3) / 4 would stay above 4 / 4."""
    row = np.full(VOCABULARY, -20, np.float32)
    row[1], row[9] = 8, 4
    assert choose(row, SamplingParameters(temperature=4, presence_penalty=3))[0] == 9
    assert choose(row, SamplingParameters(presence_penalty=3))[0] == 1


def test_penalties_count_prompt_and_output() -> None:
    once_in_prompt, twice_in_prompt, once_in_output = peak(1), peak(2), peak(5)
    for row, found in ((once_in_prompt, 1), (twice_in_prompt, 2), (once_in_output, 5)):
        assert choose(row, SamplingParameters(presence_penalty=0.9), [5])[0] == found
        assert choose(row, SamplingParameters(presence_penalty=1.1), [5])[0] != found
    assert choose(once_in_prompt, SamplingParameters(frequency_penalty=0.6), [5])[0] == 1
    assert choose(twice_in_prompt, SamplingParameters(frequency_penalty=0.6), [5])[0] != 2


def test_end_id_waits_for_min_tokens_unless_nothing_else_is_left() -> None:
    said = SamplingParameters(min_tokens=2)
    assert choose(peak(END), said, [4])[0] != END
    assert choose(peak(END), said, [4, 4])[0] == END
    others = tuple((token,) for token in range(VOCABULARY) if token != END)
    assert choose(peak(END), replace(said, bad_words=others), [4])[0] == END
    assert choose(peak(END), replace(said, bad_words=others, top_p=0.9), [4])[0] == END


def test_a_word_of_several_tokens_is_not_completed() -> None:
    said = SamplingParameters(bad_words=((4, 6, 8), (6, 9), (0,)))
    assert choose(peak(8), said, [4, 6])[0] != 8
    assert choose(peak(8), said, [6])[0] == 8
    assert choose(peak(8), said, [4, 5, 6])[0] == 8
    assert choose(peak(9), said, [6])[0] != 9
    assert choose(peak(0), said)[0] != 0
    across_the_prompt = SamplingParameters(bad_words=((2, 2, 3, 8),))
    assert choose(peak(8), across_the_prompt, [3])[0] != 8


def test_a_row_of_nothing_but_bans_still_gets_a_token() -> None:
    token, log_prob = choose(
        LOGITS, SamplingParameters(bad_words=tuple((t,) for t in range(VOCABULARY)), top_k=3, return_log_probs=True)
    )
    assert (token, log_prob) == (0, -np.inf)


def test_broken_logits_are_a_fault_of_the_engine() -> None:
    row = LOGITS.copy()
    for broken in (np.nan, np.inf):
        row[5] = broken
        with pytest.raises(EngineFault, match="not numbers"):
            choose(row, SamplingParameters(top_k=5))


def test_rounding_never_leads_to_a_banned_token() -> None:
    row = np.array([0, -70, -np.inf, -1, -np.inf], np.float32)
    weights = np.exp(row)
    for mass in (weights.sum(), weights.sum() * 1.001):
        ids, _ = around_mass(row, 0.0, weights, float(mass))
        assert ids.tolist() == [3]


def test_top_p_decays_and_starts_again() -> None:
    state = SamplingState(SamplingParameters(top_p=0.8, top_p_decay=0.5, top_p_min=0.3, top_p_reset_ids=6))
    assert [state.top_p_after(tokens) for tokens in ([], [1], [1, 1], [1, 1, 6], [6, 1])] == [0.8, 0.4, 0.3, 0.8, 0.4]
    with_top_k = SamplingState(SamplingParameters(top_k=5, top_p=0.8, top_p_decay=0.5))
    assert with_top_k.top_p_after([1, 1]) == 0.8


def test_seeds_of_sequences_of_one_request_follow_each_other() -> None:
    assert [SamplingParameters(seed=2**64 - 2).derived(i).seed for i in range(3)] == [2**64 - 2, 2**64 - 1, 0]
    assert SamplingParameters().derived(1).seed is None
    assert len({SamplingState(SamplingParameters()).seed for _ in range(100)}) == 100


def test_numbers_are_uniform_over_seeds_and_over_positions() -> None:
    for numbers in ([uniform(1, i) for i in range(5000)], [uniform(i, 0) for i in range(5000)]):
        assert stats.kstest(numbers, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05
        assert 0 < min(numbers) < max(numbers) <= 1


@pytest.mark.parametrize(
    "said",
    [
        {"top_p": 1.0},
        {"top_p": 0.7},
        {"top_p": 0.99, "temperature": 3.0},
        {"top_k": 10},
        {"top_k": 10, "top_p": 0.6},
        {"top_k": 1000, "top_p": 0.9, "temperature": 0.5},
        {
            "top_k": 20, "temperature": 0.7, "repetition_penalty": 1.3, "presence_penalty": 0.3,
            "frequency_penalty": 0.2, "min_tokens": 9, "bad_words": ((ORDER[0],), (2, 5, ORDER[1])),
        },
    ],
)  # fmt: skip
def test_draws_follow_the_distribution(said: dict[str, Any]) -> None:
    """Chi-square over 4000 seeds; they are fixed, and so is the outcome."""
    draws, output = 4000, [5]
    rows = [SampledRow(sequence(SamplingParameters(seed=seed, **said), output), []) for seed in range(draws)]
    tokens, _ = Sampler(VOCABULARY).select(np.broadcast_to(LOGITS, (draws, VOCABULARY)), rows)
    made = SamplingParameters(**said)
    values = oracle.adjusted(LOGITS.tolist(), made, [1, 2, 2], output, END)
    expected = oracle.distribution(values, made.top_k, made.top_p or 1.0)
    observed = np.bincount(tokens, minlength=VOCABULARY)
    assert set(np.flatnonzero(observed).tolist()) <= expected.keys()
    often = [token for token, share in expected.items() if share * draws >= 5]
    counts = [*observed[often], draws - observed[often].sum()]
    shares = [expected[token] for token in often]
    shares.append(max(1 - sum(shares), 1e-9))
    if shares[-1] * draws < 5:  # Too few for a class of their own.
        counts, shares = [*counts[:-2], counts[-2] + counts[-1]], [*shares[:-2], shares[-2] + shares[-1]]
    assert stats.chisquare(counts, np.array(shares) / sum(shares) * draws).pvalue > 0.001


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    random = np.random.default_rng(5)
    logits = (random.standard_normal((12, VOCABULARY)) * 2).astype(np.float32)
    kinds: list[dict[str, Any]] = [
        {"top_k": 5},
        {"top_p": 0.9, "temperature": 2.0},
        {},
        {"min_tokens": 4, "top_p": 1.0},
    ]
    said = [SamplingParameters(seed=i, return_log_probs=True, **kinds[i % 4]) for i in range(12)]
    tokens, log_probs = Sampler(VOCABULARY).select(logits, [SampledRow(sequence(s), []) for s in said])
    alone = [choose(row, one) for row, one in zip(logits, said, strict=True)]
    assert alone == list(zip(tokens.tolist(), log_probs.tolist(), strict=True))


def test_a_row_behind_draft_tokens_is_chosen_as_if_they_were_there() -> None:
    said = SamplingParameters(
        top_p=0.9, top_p_decay=0.8, temperature=2.0, repetition_penalty=1.5, frequency_penalty=0.3, min_tokens=3,
        bad_words=((8, 9),), seed=11, return_log_probs=True,
    )  # fmt: skip
    draft = [8, 30, 2, 8]
    ahead = sequence(said, [5])
    tokens, log_probs = Sampler(VOCABULARY).select(
        np.tile(LOGITS, (5, 1)), [SampledRow(ahead, draft[:i]) for i in range(5)]
    )
    behind = [choose(LOGITS, said, [5, *draft[:i]]) for i in range(5)]
    assert behind == list(zip(tokens.tolist(), log_probs.tolist(), strict=True))
