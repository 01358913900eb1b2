"""Draft tokens that come with their logits: the rule, and the distribution of what comes of it."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.sampling import (
    DraftAcceptance,
    SampledRow,
    Sampler,
    SamplingParameters,
    SamplingState,
    TokenDetails,
)
from python_backend.engine.sampling.counter_random import ACCEPT, DRAW, REDRAW, uniform
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from tests.unit.engine import acceptance_oracle, markov_executor
from tests.unit.engine import sampling_oracle as oracle
from tests.unit.engine.block_reading_executor import VOCABULARY, BlockReadingExecutor, next_logits
from tests.unit.engine.markov_executor import MarkovExecutor

SMALL = 12
TARGET = (np.random.default_rng(3).standard_normal(SMALL) * 2).astype(np.float32)
DRAFT = (TARGET + np.random.default_rng(4).standard_normal(SMALL)).astype(np.float32)
CONFIG = SchedulerConfig(max_batch_size=8, max_num_tokens=32, max_seq_len=64)


def verify(said: SamplingParameters, guess: int, acceptance: DraftAcceptance, target: Any = TARGET) -> int:
    """What comes of a draft of one token."""
    sequence = Sequence(
        id="", prompt=np.array([1, 2]), max_new_tokens=9, sampling=SamplingState(said, acceptance=acceptance)
    )
    tokens, _ = Sampler(SMALL).select(np.asarray(target)[np.newaxis], [SampledRow(sequence, [], guess)])
    return int(tokens[0])


@pytest.mark.parametrize(
    "said",
    [
        {"top_p": 1.0},
        {"top_p": 1.0, "temperature": 2.0},
        {"top_p": 1.0, "temperature": 0.4},
        {"top_k": 5},
        {"top_p": 0.8},
        {"top_p": 0.3},
        {"top_k": 6, "top_p": 0.7, "temperature": 1.5, "presence_penalty": 0.5, "bad_words": ((4,),)},
    ],
)
@pytest.mark.parametrize("kept", [SMALL, 3], ids=["draft-of-all", "draft-of-top-3"])
def test_what_comes_out_has_the_targets_distribution(said: dict[str, Any], kept: int) -> None:
    """Chi-square over 2500 seeds; they are fixed, and so is the outcome. As many are accepted as must be."""
    rounds, random = 2500, np.random.default_rng(1)
    logits = DRAFT.copy()
    logits[np.argsort(-logits)[kept:]] = -np.inf
    p_d = acceptance_oracle.softmax(logits.tolist())
    guesses = random.choice(SMALL, rounds, p=np.array(p_d) / sum(p_d)).tolist()
    acceptance = DraftAcceptance(logits[np.newaxis])
    found = [verify(SamplingParameters(seed=i, **said), guess, acceptance) for i, guess in enumerate(guesses)]
    made = SamplingParameters(**said)
    values = oracle.adjusted(TARGET.tolist(), made, [1, 2], [], None)
    p_t = oracle.distribution(values, made.top_k, made.top_p or 1.0)
    assert set(found) <= p_t.keys()
    assert fit(Counter(found), p_t, rounds) > 0.001
    share = sum(min(p_t.get(token, 0.0), p) for token, p in enumerate(p_d))
    accepted = sum(token == guess for token, guess in zip(found, guesses, strict=True))
    assert stats.binomtest(accepted, rounds, share).pvalue > 0.001


def fit(counts: Counter[Any], expected: dict[Any, float], draws: int) -> float:
    """How likely counts so far off are; what is expected less than 5 times shares a class."""
    often = [outcome for outcome, share in expected.items() if share * draws >= 5]
    observed, shares = [counts[outcome] for outcome in often], [expected[outcome] for outcome in often]
    if 1 - sum(shares) > 1e-6:
        observed.append(draws - sum(observed))
        shares.append(1 - sum(shares))
    if len(observed) == 1:
        return 1.0 if observed == [draws] else 0.0
    return float(stats.chisquare(observed, np.array(shares) / sum(shares) * draws).pvalue)


def test_the_rule_for_one_token() -> None:
    target = np.log(np.array([0.5, 0.3, 0.2] + [0.0] * 9, np.float32) + 1e-30).astype(np.float32)
    draft = np.log(np.array([0.1, 0.7, 0.2] + [0.0] * 9, np.float32) + 1e-30).astype(np.float32)
    for seed in range(200):
        said = SamplingParameters(top_p=1.0, seed=seed)
        assert verify(said, 0, DraftAcceptance(draft[np.newaxis]), target) == 0
        # 0.3 / 0.7 = 0.43; of the differences only that of token 0 is positive.
        accepted = uniform(seed, 2, ACCEPT) <= 0.3 / 0.7
        assert verify(said, 1, DraftAcceptance(draft[np.newaxis]), target) == (1 if accepted else 0)


def test_a_threshold_takes_the_place_of_the_random_number() -> None:
    target = np.log(np.array([0.5, 0.3, 0.2] + [1e-30] * 9)).astype(np.float32)
    draft = np.log(np.array([0.1, 0.7, 0.2] + [1e-30] * 9)).astype(np.float32)[np.newaxis]
    for seed in range(50):
        said = SamplingParameters(top_k=3, seed=seed)
        assert verify(said, 1, DraftAcceptance(draft, 0.42), target) == 1
        assert verify(said, 1, DraftAcceptance(draft, 0.44), target) == 0
        assert verify(said, 1, DraftAcceptance(draft, 0.0), target) == 1
        assert verify(said, 0, DraftAcceptance(draft, 1.0), target) == 0


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_what_the_target_cannot_choose_is_never_accepted(threshold: float | None) -> None:
    flat = np.zeros((1, SMALL), np.float32)
    absent = flat.copy()
    absent[0, 3] = -np.inf
    for logits, seed in product((flat, absent), range(30)):
        said = SamplingParameters(top_p=1.0, bad_words=((3,),), seed=seed)
        assert verify(said, 3, DraftAcceptance(logits, threshold)) != 3
    # The draft's distribution is the target's, which has no token 3: nothing is left but to draw from it.
    only = np.full((1, SMALL), -np.inf, np.float32)
    only[0, 5] = 0
    said = SamplingParameters(top_p=1.0, seed=1)
    assert verify(said, 3, DraftAcceptance(only, threshold), only[0]) == 5


@pytest.mark.parametrize("said", [{"return_log_probs": True}, {"top_k": 1, "presence_penalty": 0.1}])
def test_a_greedy_request_takes_no_notice_of_logits(said: dict[str, Any]) -> None:
    likely = np.full((1, SMALL), -9, np.float32)
    for guess in range(SMALL):
        likely[0, guess] = 9
        chosen = verify(SamplingParameters(**said), guess, DraftAcceptance(likely, 0.0))
        assert chosen == TARGET.argmax()


def test_numbers_for_different_purposes_are_independent() -> None:
    numbers = [[uniform(7, i, purpose) for i in range(5000)] for purpose in (DRAW, ACCEPT, REDRAW)]
    assert abs(np.corrcoef(numbers) - np.eye(3)).max() < 0.05
    assert all(stats.kstest(each, "uniform").pvalue > 0.001 for each in numbers)


# ---------------------------------------------------------------- through the engine


class Run:
    """A client's loop over requests that each bring a draft."""

    def __init__(self, executor: Any, config: SchedulerConfig = CONFIG) -> None:
        self.engine = Engine(executor, config, self._listen)
        self.tokens: list[int] = []
        self.details: list[TokenDetails] = []
        self.finish: FinishReason | None = None

    def round(self, prompt: list[int], draft: list[int], state: SamplingState | None, **said: Any) -> Sequence:
        """One request to its end; its tokens are appended to ``tokens``."""
        sequence = Sequence(
            id="",
            prompt=np.array(prompt + self.tokens),
            sampling=state,
            draft=list(draft),
            ends_after_draft=bool(draft),
            **{"max_new_tokens": len(draft) + 1, **said},
        )
        self.engine.submit(sequence)
        while self.engine.step():
            pass
        return sequence

    def _listen(self, report: StepReport) -> None:
        for sequence, tokens, finish in report.progress:
            self.tokens += tokens
            self.finish = finish
            if sequence in report.details:
                self.details.append(report.details[sequence])


MARKOV: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}
GUESSER = np.array([[1, 1, -1, -1], [0.5, 0.5, 0, 0], [0, 0, 2, 0], [1, 0, 1, 0]], np.float32)
ANSWER = 3


def guesses(newest: int, numbers: list[float]) -> tuple[list[int], npt.NDArray[np.float32]]:
    """A draft model: what it draws, and the logits that it draws from."""
    tokens = [newest]
    for number in numbers:
        tokens.append(acceptance_oracle.draw(acceptance_oracle.softmax(GUESSER[tokens[-1]].tolist()), number))
    return tokens[1:], GUESSER[tokens[:-1]]


@pytest.mark.parametrize("shared", [False, True], ids=["draft-of-another-seed", "draft-of-the-same-seed"])
@pytest.mark.parametrize("with_logits", [True, False])
def test_answers_made_in_rounds_have_the_distribution_of_the_target(shared: bool, with_logits: bool) -> None:
    """All answers of three tokens, by chi-square. The rounds of one answer have one seed, as with NVIDIA's client.

    The draft model may use the numbers that the target would draw with: then its tokens depend on the seed, too.
    """
    answers, random, run = 2000, np.random.default_rng(2), Run(MarkovExecutor())
    found: Counter[tuple[int, ...]] = Counter()
    for seed in range(answers):
        run.tokens = []
        while len(run.tokens) < ANSWER:
            position, newest = 1 + len(run.tokens), (run.tokens or [0])[-1]
            own = random.random(2).tolist()
            left = ANSWER - len(run.tokens) - 1
            draft, logits = guesses(newest, [uniform(seed, position + i) if shared else own[i] for i in range(left)])
            acceptance = DraftAcceptance(logits) if with_logits and draft else None
            run.round([0], draft, SamplingState(SamplingParameters(seed=seed, **MARKOV), acceptance=acceptance))
        found[tuple(run.tokens)] += 1
    made = SamplingParameters(**MARKOV)
    follow = [
        oracle.distribution(oracle.adjusted(row, made, [0], [], None), 0, made.top_p or 1.0)
        for row in markov_executor.LOGITS.tolist()
    ]
    expected = {
        answer: prod(follow[before].get(token, 0.0) for before, token in zip((0, *answer), answer, strict=False))
        for answer in product(range(markov_executor.VOCABULARY), repeat=ANSWER)
    }
    assert sum(expected.values()) == pytest.approx(1)
    assert fit(found, expected, answers) > 0.001


def test_with_a_seed_and_no_logits_rounds_give_the_very_answer_of_one_request() -> None:
    said: dict[str, Any] = {"temperature": 1.5, "top_k": 20, "repetition_penalty": 1.2, "seed": 5}
    plain, rounds, random = Run(BlockReadingExecutor()), Run(BlockReadingExecutor()), np.random.default_rng(6)
    plain.round([5, 6], [], SamplingState(SamplingParameters(**said)), max_new_tokens=30)
    accepted = 0
    while len(rounds.tokens) < 30:
        done = len(rounds.tokens)
        draft = plain.tokens[done : done + 5]
        if draft and random.random() < 0.5:
            draft[int(random.integers(len(draft)))] = 1
        sequence = rounds.round(
            [5, 6], draft, SamplingState(SamplingParameters(**said)), max_new_tokens=min(len(draft) + 1, 30 - done)
        )
        accepted += sequence.accepted_draft_tokens
    assert rounds.tokens == plain.tokens
    assert accepted > 10


@pytest.mark.parametrize("with_logits", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        {"temperature": 1.5, "top_k": 10, "repetition_penalty": 1.2, "frequency_penalty": 0.1},
        {"top_p": 0.9, "min_tokens": 4, "bad_words": ((3,), (4, 5)), "top_p_decay": 0.9},
        {},
    ],
)
def test_what_comes_with_the_tokens_is_that_of_the_tokens(said: dict[str, Any], with_logits: bool) -> None:
    """Log probabilities and logits: of accepted tokens, of what took a rejected one's place, and of the last."""
    made = SamplingParameters(
        return_log_probs=True, return_generation_logits=True, return_context_logits=True, seed=3, **said
    )
    prompt, random = [5, 6, 7], np.random.default_rng(8)
    plain = Run(BlockReadingExecutor())
    plain.round(prompt, [], SamplingState(made), end_id=2, max_new_tokens=5)
    lengths = set()
    for wrong in (0, 1, 2, 3, None):
        draft = plain.tokens[:4]
        if wrong is not None:
            draft[wrong] = (draft[wrong] + 1) % VOCABULARY
        acceptance = DraftAcceptance(random.random((4, VOCABULARY), dtype=np.float32)) if with_logits else None
        run = Run(BlockReadingExecutor())
        sequence = run.round(prompt, draft, SamplingState(made, acceptance=acceptance), end_id=2)
        tokens = run.tokens
        lengths.add(len(tokens))
        assert tokens[: sequence.accepted_draft_tokens] == draft[: sequence.accepted_draft_tokens]
        assert len(tokens) == sequence.accepted_draft_tokens + 1
        (details,) = run.details
        raw = [next_logits(prompt + tokens[:i]) for i in range(len(tokens))]
        assert details.generation_logits is not None
        np.testing.assert_array_equal(details.generation_logits, raw)
        values = [oracle.adjusted(row.tolist(), made, prompt, tokens[:i], 2) for i, row in enumerate(raw)]
        expected = [oracle.log_probs(row)[token] for row, token in zip(values, tokens, strict=True)]
        assert details.log_probs is not None
        np.testing.assert_allclose(details.log_probs, expected, atol=1e-4)
        assert details.context_logits is not None
        assert details.context_logits.shape == (len(prompt), VOCABULARY)
    assert len(lengths) > 1


def test_a_guide_is_obeyed_whatever_the_draft_and_its_logits_say() -> None:
    class Ascending:
        """Allows tokens above the newest."""

        def __init__(self) -> None:
            self.output: list[int] = []

        def follow(self, output: Any) -> None:
            self.output = list(output)

        def allowed(self, draft: Any) -> npt.NDArray[np.bool_]:
            return np.arange(VOCABULARY) > max([*self.output, *draft], default=-1)

    accepted = 0
    for seed, threshold in product(range(40), (None, 0.0)):
        random = np.random.default_rng(seed)
        draft = random.integers(0, VOCABULARY // 2, 4).tolist()
        acceptance = DraftAcceptance(random.random((4, VOCABULARY), dtype=np.float32), threshold)
        state = SamplingState(SamplingParameters(top_p=1.0, seed=seed), Ascending(), acceptance)
        run = Run(BlockReadingExecutor())
        sequence = run.round([5, 6], draft, state)
        assert run.tokens == sorted(set(run.tokens))
        accepted += sequence.accepted_draft_tokens
    assert accepted > 0


def test_the_next_round_reuses_the_blocks_of_accepted_tokens() -> None:
    plain, run = Run(BlockReadingExecutor()), Run(BlockReadingExecutor(tokens_per_block=2))
    plain.round([5, 6], [], None, max_new_tokens=12)
    run.round([5, 6], plain.tokens[:7], None)
    sequence = run.round([5, 6], plain.tokens[8:11], None)
    assert run.tokens == plain.tokens
    assert run.finish is FinishReason.LENGTH
    assert sequence.reused_blocks >= 4  # full ones of the 9 tokens whose KV was there, which is all but the newest
