"""Draft tokens against oracles in plain Python, over random logits, and over drafters that mean no good."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.sampling import DraftAcceptance, SamplingParameters, SamplingState
from python_backend.engine.sampling.choice import Chooser
from python_backend.engine.sampling.counter_random import ACCEPT, REDRAW, uniform
from python_backend.scheduling import CapacityPolicy, FinishReason, SchedulerConfig, Sequence
from tests.unit.engine import acceptance_oracle, sampling_oracle
from tests.unit.engine.block_reading_executor import VOCABULARY, BlockReadingExecutor

SIZE = 30
ROUNDING = 1e-4


def rows(*others: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    values = st.floats(-20, 20, width=32) | st.integers(-3, 3).map(float)
    for other in others:
        values = values | other
    return st.lists(values, min_size=SIZE, max_size=SIZE)


@settings(max_examples=300, deadline=None)
@given(logits=rows(), top_k=st.sampled_from([0, 1, 2, 7, SIZE, 1000]), top_p=st.floats(0.0078125, 1, width=32))
def test_probabilities_are_those_of_the_oracle(logits: list[float], top_k: int, top_p: float) -> None:
    found = Chooser(SIZE).probabilities(np.array(logits, np.float32), max(logits), top_k, top_p)
    expected = sampling_oracle.distribution(logits, top_k, top_p)
    np.testing.assert_allclose(found, [expected.get(token, 0.0) for token in range(SIZE)], atol=1e-5)
    assert abs(found.sum() - 1) < 1e-5


@settings(max_examples=400, deadline=None)
@given(
    target=rows(),
    draft=rows(st.just(-np.inf)).filter(lambda row: max(row) > -np.inf),
    guess=st.integers(0, SIZE - 1),
    top_k=st.sampled_from([0, 3, 10]),
    threshold=st.none() | st.floats(0, 1, width=32),
    seed=st.integers(0, 2**64 - 1),
)
def test_what_is_accepted_and_what_takes_its_place_is_as_the_oracle_has_it(
    target: list[float], draft: list[float], guess: int, top_k: int, threshold: float | None, seed: int
) -> None:
    p_t = Chooser(SIZE).probabilities(np.array(target, np.float32), max(target), top_k, 1.0)
    token = DraftAcceptance(np.array([draft], np.float32), threshold).choose(p_t, 0, guess, seed, 5)
    assert p_t[token] > 0, "a token that the target cannot choose"
    exact, p_d = p_t.tolist(), acceptance_oracle.softmax(draft)
    needed = uniform(seed, 5, ACCEPT) if threshold is None else threshold
    accepted = acceptance_oracle.is_accepted(exact, p_d, guess, needed)
    if (token == guess) != accepted:
        assert abs(exact[guess] - needed * p_d[guess]) < ROUNDING, "no matter of rounding"
        return
    event("accepted" if accepted else "rejected")
    if not accepted and sum(max(a - b, 0) for a, b in zip(exact, p_d, strict=True)) > 0.01:
        rest = acceptance_oracle.rest(exact, p_d)
        number = uniform(seed, 5, REDRAW)
        assert sum(rest[:token]) - ROUNDING <= number <= sum(rest[: token + 1]) + ROUNDING


@settings(max_examples=300, deadline=None)
@given(target=rows(), draft=rows(), seed=st.integers(0, 2**64 - 1), top_k=st.sampled_from([0, 2, 9]))
def test_a_rejected_token_is_never_what_takes_its_place(
    target: list[float], draft: list[float], seed: int, top_k: int
) -> None:
    """So the scheduler, which compares, and the sampler, which decides, cannot disagree."""
    p_t = Chooser(SIZE).probabilities(np.array(target, np.float32), max(target), top_k, 1.0)
    acceptance = DraftAcceptance(np.array([draft], np.float32))
    weights = np.exp(np.array(draft, np.float32) - np.float32(max(draft)))
    weights /= weights.sum()
    for guess in range(SIZE):
        accepted = p_t[guess] > 0 and float(p_t[guess]) >= uniform(seed, 0, ACCEPT) * float(weights[guess])
        assert (acceptance.choose(p_t, 0, guess, seed, 0) == guess) == accepted


# ---------------------------------------------------------------- rounds of requests, and what else is in the batch

KINDS = ["right", "wrong", "random", "too long", "past the end", "none"]
SAID: list[dict[str, Any] | None] = [
    None,
    {"repetition_penalty": 1.3, "bad_words": ((3,), (4, 5)), "return_log_probs": True},
    {"temperature": 1.5, "top_k": 8},
    {"temperature": 2.0, "top_p": 0.9, "presence_penalty": 0.3},
]
END_ID = 2


class Storm:
    """Clients that each continue their answer in rounds, all on one engine."""

    def __init__(self, config: SchedulerConfig, num_blocks: int) -> None:
        self.engine = Engine(BlockReadingExecutor(num_blocks), config, self._listen)
        self.got: dict[Sequence, list[int]] = {}
        self.finished: dict[Sequence, FinishReason] = {}

    def _listen(self, report: StepReport) -> None:
        for sequence, tokens, finish in report.progress:
            assert sequence not in self.finished
            self.got.setdefault(sequence, []).extend(tokens)
            if finish:
                self.finished[sequence] = finish


def alone(prompt: list[int], length: int, said: dict[str, Any] | None, end_id: int | None, seed: int) -> list[int]:
    storm = Storm(SchedulerConfig(max_batch_size=1, max_num_tokens=64, max_seq_len=64), 16)
    state = None if said is None else SamplingState(SamplingParameters(seed=seed, **said))
    sequence = Sequence(id="", prompt=np.array(prompt), max_new_tokens=length, end_id=end_id, sampling=state)
    storm.engine.submit(sequence)
    while storm.engine.step():
        pass
    return storm.got[sequence]


def guess(kind: str, truth: list[int], random: Random) -> list[int]:
    """A draft for what is to come, which is ``truth``."""
    count = random.randint(1, 5)
    if kind == "wrong":
        return [(token + 1) % VOCABULARY for token in truth[:count]] or [1]
    if kind == "random":
        return [random.randrange(VOCABULARY) for _ in range(count)]
    if kind == "too long":
        return [*truth, *(random.randrange(VOCABULARY) for _ in range(20))]
    if kind == "past the end":
        return [*truth[:count], END_ID, *truth[:count]]
    return truth[:count] if kind == "right" else []


@settings(max_examples=40, deadline=None)
@given(
    clients=st.lists(
        st.tuples(
            st.lists(st.integers(3, 6), min_size=1, max_size=7),
            st.integers(1, 12),
            st.sampled_from(SAID),
            st.sampled_from(KINDS),
        ),
        min_size=1,
        max_size=5,
    ),
    policy=st.sampled_from(CapacityPolicy),
    budget=st.sampled_from([4, 7, 40]),
    reuse=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_rounds_with_any_draft_give_the_answer_of_one_request(
    clients: list[tuple[list[int], int, dict[str, Any] | None, str]],
    policy: CapacityPolicy,
    budget: int,
    reuse: bool,
    seed: int,
) -> None:
    random = Random(seed)
    config = SchedulerConfig(
        max_batch_size=4,
        max_num_tokens=budget,
        max_seq_len=32,
        capacity_policy=policy,
        enable_kv_cache_reuse=reuse,
    )
    storm = Storm(config, num_blocks=9)
    truths = [alone(prompt, length, said, END_ID, seed) for prompt, length, said, _ in clients]
    answers: list[list[int]] = [[] for _ in clients]
    running: dict[int, Sequence] = {}
    ended: set[int] = set()
    while len(ended) < len(clients):
        for i, (prompt, length, said, kind) in enumerate(clients):
            if i in ended or i in running:
                continue
            draft = guess(kind, truths[i][len(answers[i]) :], random)
            state = None if said is None else SamplingState(SamplingParameters(seed=seed, **said))
            running[i] = Sequence(
                id=str(i),
                prompt=np.array(prompt + answers[i]),
                max_new_tokens=length - len(answers[i]),
                end_id=END_ID,
                sampling=state,
                draft=draft,
                ends_after_draft=True,
            )
            storm.engine.submit(running[i])
        assert storm.engine.step()
        storm.engine.check_integrity()
        for i, sequence in list(running.items()):
            if sequence in storm.finished:
                assert 0 < len(storm.got[sequence]) <= sequence.draft_tokens + 1
                assert 0 <= sequence.accepted_draft_tokens <= sequence.draft_tokens
                answers[i] += storm.got[sequence]
                del running[i]
                if storm.finished[sequence] is FinishReason.STOP or len(answers[i]) == clients[i][1]:
                    ended.add(i)
    assert answers == truths
    for answer, (_, length, _, _) in zip(answers, clients, strict=True):
        assert (answer[-1] == END_ID) or len(answer) == length
