"""The sampler against an oracle in plain Python, over random logits, parameters and histories."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.engine.sampling import SampledRow, Sampler, SamplingParameters, SamplingState
from python_backend.engine.sampling.candidates import around_mass, most_likely
from python_backend.engine.sampling.counter_random import uniform
from python_backend.scheduling.sequence import Sequence
from tests.unit.engine import sampling_oracle as oracle

VOCABULARY = 40
SAMPLER = Sampler(VOCABULARY)
TOKENS = st.integers(0, VOCABULARY - 1)


def floats(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most, width=32)


LOGITS = st.lists(floats(-20, 20), min_size=VOCABULARY, max_size=VOCABULARY) | st.lists(
    st.integers(-4, 4).map(float), min_size=VOCABULARY, max_size=VOCABULARY
)


@st.composite
def parameters(draw: st.DrawFn) -> SamplingParameters:
    bias = draw(st.none() | st.dictionaries(TOKENS, floats(-5, 5) | st.just(-np.inf), max_size=5))
    dense = None
    if bias is not None:
        dense = np.zeros(VOCABULARY, np.float32)
        dense[list(bias)] = list(bias.values())
    return SamplingParameters(
        temperature=draw(st.sampled_from([0.0, 1.0]) | floats(0.125, 4)),
        top_k=draw(st.sampled_from([0, 1, 2, 5, VOCABULARY, 1000])),
        top_p=draw(st.none() | floats(0.03125, 1)),
        top_p_decay=draw(floats(0.5, 1)),
        top_p_min=draw(floats(0.0078125, 1)),
        top_p_reset_ids=draw(st.none() | TOKENS),
        repetition_penalty=draw(floats(0.5, 2)),
        presence_penalty=draw(floats(-2, 2)),
        frequency_penalty=draw(floats(-2, 2)),
        min_tokens=draw(st.integers(0, 8)),
        seed=draw(st.integers(0, 2**64 - 1)),
        embedding_bias=dense,
        bad_words=tuple(draw(st.lists(st.lists(TOKENS, min_size=1, max_size=3).map(tuple), max_size=4))),
        return_log_probs=draw(st.booleans()),
    )


@settings(max_examples=400, deadline=None)
@given(data=st.data(), logits=LOGITS, said=parameters(), end_id=st.none() | TOKENS)
def test_tokens_and_log_probs_are_those_of_the_oracle(
    data: st.DataObject, logits: list[float], said: SamplingParameters, end_id: int | None
) -> None:
    prompt, output = data.draw(st.lists(TOKENS, min_size=1, max_size=6)), data.draw(st.lists(TOKENS, max_size=6))
    draft = data.draw(st.lists(TOKENS, max_size=3))
    sequence = Sequence(id="", prompt=np.array(prompt), max_new_tokens=99, end_id=end_id, sampling=SamplingState(said))
    sequence.output.extend(output)
    rows = [SampledRow(sequence, draft[:i]) for i in range(len(draft) + 1)]
    tokens, log_probs = SAMPLER.select(np.tile(np.array(logits, np.float32), (len(rows), 1)), rows)
    for i, (token, log_prob) in enumerate(zip(tokens.tolist(), log_probs.tolist(), strict=True)):
        history = output + draft[:i]
        values = oracle.adjusted(logits, said, prompt, history, end_id)
        check_choice(token, values, said, len(prompt), history)
        if said.return_log_probs:
            np.testing.assert_allclose(log_prob, oracle.log_probs(values)[token], atol=1e-4)
        else:
            assert np.isnan(log_prob)


def check_choice(
    token: int, values: list[float], said: SamplingParameters, prompt_tokens: int, history: list[int]
) -> None:
    """The token is the oracle's, or one that differs from it by no more than float32 can tell."""
    rounding = 1e-4
    if said.is_greedy:
        assert values[token] >= max(values) - rounding
        return
    ordered = sorted(values, reverse=True)[: said.top_k or None]
    weights = [float(np.exp(value - ordered[0])) for value in ordered]
    target = uniform(said.seed or 0, prompt_tokens + len(history)) * oracle.top_p(said, history) * sum(weights)
    above = sum(w for w, value in zip(weights, ordered, strict=True) if value > values[token] + rounding)
    reached = sum(w for w, value in zip(weights, ordered, strict=True) if value >= values[token] - rounding)
    assert values[token] >= ordered[-1] - rounding
    assert above - rounding <= target <= reached + rounding


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(floats(-30, 30) | st.just(-np.inf) | st.integers(-2, 2).map(float), min_size=1, max_size=700),
    count=st.integers(1, 700),
)
def test_the_most_likely_tokens_are_those_of_a_sort(logits: list[float], count: int) -> None:
    row, count = np.array(logits, np.float32), min(count, len(logits))
    if row.max() == -np.inf:
        return
    expected = [token for token in sorted(range(row.size), key=lambda t: (-logits[t], t)) if logits[token] > -np.inf]
    assert most_likely(row, count).tolist() == expected[:count]


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(floats(-200, 30) | st.just(-np.inf) | st.integers(-2, 2).map(float), min_size=1, max_size=300),
    share=floats(0, 1),
)
def test_the_histogram_finds_the_token_that_a_sort_finds(logits: list[float], share: float) -> None:
    row = np.array(logits, np.float32)
    most = float(row.max())
    if most == -np.inf:
        return
    weights = np.exp(row - row.max())
    order = np.argsort(-row, kind="stable")
    sums = weights[order].cumsum(dtype=np.float64)
    mass = share * sums[-1]
    ids, before = around_mass(row, most, weights, mass)
    reached = before + weights[ids].cumsum(dtype=np.float64)
    place = int(np.searchsorted(sums, mass))
    np.testing.assert_allclose(before, sums[order.tolist().index(ids[0])] - weights[ids[0]], atol=1e-9)
    assert order[place : place + 1] in ids or min(abs(sums - mass)) < 1e-9
    assert (weights[ids] > 0).all()
    assert reached[-1] >= mass * (1 - 1e-9)
