"""Sampling through the loop: whatever is in the batch, and however its steps are cut, a request gets the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence as Many
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from python_backend.engine.engine import Engine, StepReport
from python_backend.engine.sampling import SamplingParameters, SamplingState, TokenDetails
from python_backend.errors import InvalidRequest
from python_backend.scheduling.scheduler_config import CapacityPolicy, SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence
from tests.unit.engine import sampling_oracle as oracle
from tests.unit.engine.block_reading_executor import VOCABULARY, BlockReadingExecutor, next_logits, next_token

NEW_TOKENS = 12
EVERYTHING: dict[str, Any] = {
    "temperature": 1.5, "top_k": 30, "top_p": 0.95, "repetition_penalty": 1.2, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "min_tokens": 9, "embedding_bias": np.linspace(0, 1, VOCABULARY, dtype=np.float32),
    "bad_words": ((3,), (4, 5)), "return_log_probs": True, "return_generation_logits": True,
    "return_context_logits": True,
}  # fmt: skip
KINDS: list[dict[str, Any] | None] = [
    None,
    EVERYTHING,
    {"top_p": 0.9, "temperature": 2.0, "top_p_decay": 0.9},
    {"return_log_probs": True},
    {"return_context_logits": True},
    {"top_k": 5, "return_generation_logits": True, "return_context_logits": True},
]


class Listener:
    """Collects what is reported; details piece by piece."""

    def __init__(self) -> None:
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        self.details: defaultdict[str, list[TokenDetails]] = defaultdict(list)
        self.finished: dict[str, FinishReason] = {}

    def __call__(self, report: StepReport) -> None:
        for sequence, tokens, finish in report.progress:
            self.tokens[sequence.id] += tokens
            if finish is not None:
                self.finished[sequence.id] = finish
        for sequence, details in report.details.items():
            self.details[sequence.id].append(details)

    def joined(self, name: str, field: str) -> npt.NDArray[np.float32]:
        pieces = [getattr(details, field) for details in self.details[name]]
        whole: npt.NDArray[np.float32] = np.concatenate([piece for piece in pieces if piece is not None])
        return whole


def sequence(name: str, prompt: list[int], said: dict[str, Any] | None, seed: int = 1) -> Sequence:
    state = None if said is None else SamplingState(SamplingParameters(seed=seed, **said))
    return Sequence(id=name, prompt=np.array(prompt), max_new_tokens=NEW_TOKENS, end_id=2, sampling=state)


def run(
    sequences: list[Sequence], executor: BlockReadingExecutor | None = None, **limits: Any
) -> tuple[Listener, Engine]:
    listener = Listener()
    values: dict[str, Any] = {"max_batch_size": 8, "max_num_tokens": 16, "max_seq_len": 64, **limits}
    engine = Engine(executor or BlockReadingExecutor(), SchedulerConfig(**values), listener)
    for each in sequences:
        engine.submit(each)
    while engine.step():
        engine.check_integrity()
    return listener, engine


def many() -> Iterator[Sequence]:
    for i in range(12):
        yield sequence(f"r{i}", [i, 7, i % 3, *range(i)], KINDS[i % len(KINDS)], seed=i)


def assert_same(one: Listener, other: Listener, name: str) -> None:
    assert one.tokens[name] == other.tokens[name]
    assert one.finished[name] == other.finished[name]
    for field in ("log_probs", "generation_logits", "context_logits"):
        pieces = [[d for d in listener.details[name] if getattr(d, field) is not None] for listener in (one, other)]
        assert bool(pieces[0]) == bool(pieces[1])
        if pieces[0]:
            np.testing.assert_array_equal(one.joined(name, field), other.joined(name, field))


@pytest.mark.parametrize(
    ("num_blocks", "limits"),
    [
        (64, {}),
        (64, {"max_num_tokens": 8}),
        (18, {"capacity_policy": CapacityPolicy.MAX_UTILIZATION, "max_num_tokens": 8}),
        (18, {"capacity_policy": CapacityPolicy.MAX_UTILIZATION, "enable_kv_cache_reuse": False}),
    ],
    ids=["together", "in small chunks", "paused", "paused, all recomputed"],
)
def test_same_seed_same_answer_alone_and_together(num_blocks: int, limits: dict[str, Any]) -> None:
    together, _ = run(list(many()), BlockReadingExecutor(num_blocks), **limits)
    for each in many():
        alone, _ = run([each])
        assert_same(alone, together, each.id)


def test_sequences_are_paused_in_that_test() -> None:
    engine = Engine(
        BlockReadingExecutor(18),
        SchedulerConfig(
            max_batch_size=8, max_num_tokens=8, max_seq_len=64, capacity_policy=CapacityPolicy.MAX_UTILIZATION
        ),
        Listener(),
    )
    for each in many():
        engine.submit(each)
    paused = 0
    while engine.step():
        paused = max(paused, engine.statistics.requests.paused)
    assert paused > 0


def test_other_seeds_other_answers_and_none_is_another_each_time() -> None:
    answers = []
    for seed in (1, 2, None, None):
        said = SamplingParameters(temperature=2.0, top_p=1.0, seed=seed)
        each = Sequence(id="a", prompt=np.array([5, 6]), max_new_tokens=NEW_TOKENS, sampling=SamplingState(said))
        answers.append(tuple(run([each])[0].tokens["a"]))
    assert len(set(answers)) == 4


@pytest.mark.parametrize("said", [said for said in KINDS if said is not None])
def test_draft_tokens_change_nothing_but_the_number_of_steps(said: dict[str, Any]) -> None:
    plain, alone = run([sequence("a", [5, 6, 7], said)])
    expected = plain.tokens["a"]
    listener = Listener()
    engine = Engine(
        BlockReadingExecutor(), SchedulerConfig(max_batch_size=8, max_num_tokens=16, max_seq_len=64), listener
    )
    guessed = sequence("a", [5, 6, 7], said)
    engine.submit(guessed)
    wrong = True
    while not listener.finished:
        done = len(guessed.output)
        guessed.draft = expected[done : done + 4]
        if wrong and len(guessed.draft) > 2:
            guessed.draft[2] = (guessed.draft[2] + 1) % VOCABULARY
        wrong = not wrong
        engine.step()
    assert_same(plain, listener, "a")
    assert guessed.accepted_draft_tokens > 0
    assert engine.statistics.iterations < alone.statistics.iterations


def test_the_outputs_are_those_of_the_model() -> None:
    prompt = [5, 6, 7, 8, 9, 10, 11, 12, 13]
    listener, _ = run([sequence("a", prompt, EVERYTHING)], max_num_tokens=8)
    tokens = listener.tokens["a"]
    said = SamplingParameters(**EVERYTHING)
    context = listener.joined("a", "context_logits")
    np.testing.assert_array_equal(context, [next_logits(prompt[: i + 1]) for i in range(len(prompt))])
    raw = [next_logits(prompt + tokens[:i]) for i in range(len(tokens))]
    np.testing.assert_array_equal(listener.joined("a", "generation_logits"), raw)
    expected = [
        oracle.log_probs(oracle.adjusted(row.tolist(), said, prompt, tokens[:i], 2))[tokens[i]]
        for i, row in enumerate(raw)
    ]
    np.testing.assert_allclose(listener.joined("a", "log_probs"), expected, atol=1e-4)
    sums = [details.cum_log_prob for details in listener.details["a"]]
    assert sums == pytest.approx(np.cumsum(expected).tolist(), abs=1e-3)
    assert [details.context_logits is not None for details in listener.details["a"]] == [True] + [False] * (
        len(tokens) - 1
    )


def test_context_logits_are_complete_though_the_prompt_is_in_the_cache() -> None:
    prompt = list(range(10, 23))
    executor = BlockReadingExecutor()
    listener = Listener()
    engine = Engine(executor, SchedulerConfig(max_batch_size=8, max_num_tokens=16, max_seq_len=64), listener)
    for name, said in (("first", {"return_context_logits": True}), ("again", {"return_context_logits": True})):
        engine.submit(sequence(name, prompt, said))
        while engine.step():
            pass
    other = sequence("greedy", prompt, None)
    engine.submit(other)
    while engine.step():
        pass
    for name in ("first", "again"):
        assert listener.joined(name, "context_logits").shape == (len(prompt), VOCABULARY)
    assert_same(listener, listener, "again")
    np.testing.assert_array_equal(
        listener.joined("first", "context_logits"), listener.joined("again", "context_logits")
    )
    assert other.reused_blocks == 3
    assert listener.tokens["greedy"] == listener.tokens["again"]


class EvenTokens:
    """A guide: even tokens only, each larger than the one before, then token 2, which ends."""

    def __init__(self) -> None:
        self.output: list[int] = []

    def follow(self, output: Many[int]) -> None:
        self.output = list(output)

    def allowed(self, draft: Many[int]) -> npt.NDArray[np.bool_]:
        least = max([2, *self.output, *draft]) + 2
        allowed = np.zeros(VOCABULARY, np.bool_)
        allowed[least::2] = True
        allowed[2] = least >= VOCABULARY
        return allowed


@pytest.mark.parametrize("said", [{}, {"top_p": 0.9}, {"top_k": 40, "min_tokens": 20}])
def test_a_guide_is_followed_with_and_without_draft_tokens(said: dict[str, Any]) -> None:
    answers: list[list[int]] = []
    for drafts in (False, True):
        guided = sequence("a", [5, 6, 7], said)
        guided.sampling = SamplingState(SamplingParameters(seed=1, **said), EvenTokens())
        guided.draft = answers[0][:4] if drafts else []
        answers.append(run([guided])[0].tokens["a"])
    *tokens, end = answers[0]
    assert tokens == sorted({token for token in tokens if token % 2 == 0})
    assert end == 2
    assert answers[0] == answers[1]


def test_who_does_not_sample_never_pays_for_logits() -> None:
    executor = BlockReadingExecutor()
    listener, _ = run([sequence("a", [1, 2], None), sequence("b", [3], {"temperature": 0.7})], executor)
    assert executor.logits_read == 0
    assert not listener.details
    tokens = [1, 2]
    for token in listener.tokens["a"]:
        assert token == next_token(tokens)
        tokens.append(token)


def test_what_does_not_fit_the_model_is_refused_at_the_door() -> None:
    engine = Engine(
        BlockReadingExecutor(), SchedulerConfig(max_batch_size=8, max_num_tokens=16, max_seq_len=64), Listener()
    )
    with pytest.raises(InvalidRequest, match="embedding_bias has 3 values"):
        engine.submit(sequence("a", [1], {"embedding_bias": np.ones(3, np.float32)}))
    assert not engine.step()


def test_broken_logits_end_the_step_and_not_the_engine() -> None:
    class Broken(BlockReadingExecutor):
        def logits(self) -> Any:
            return super().logits() * np.float32(np.nan)

    listener, engine = run([sequence("a", [1], {"top_k": 3}), sequence("b", [2], None)], Broken())
    assert listener.finished == {"a": FinishReason.ERROR, "b": FinishReason.ERROR}
    engine.submit(sequence("c", [2], None))
    while engine.step():
        pass
    assert listener.finished["c"] in (FinishReason.LENGTH, FinishReason.STOP)
