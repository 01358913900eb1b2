"""Answers with a drafter in the loop are those without, however it guesses and whatever is in the batch."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from python_backend.engine.engine import Engine
from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.openvino_executor import OpenVinoExecutor
from python_backend.engine.sampling import SamplingParameters, SamplingState
from python_backend.metrics import Recorder
from python_backend.scheduling import CapacityPolicy, Progress, SchedulerConfig, Sequence, StepPlan
from python_backend.speculative.engine_drafter import EngineDrafter
from python_backend.speculative.ngram import NgramProposer
from python_backend.speculative.proposer import Proposer
from python_backend.speculative.step_cost import StepCost
from tests import tiny_llama
from tests.unit.engine.block_reading_executor import VOCABULARY as READ_VOCABULARY
from tests.unit.engine.block_reading_executor import BlockReadingExecutor
from tests.unit.scheduling.simulated_engine import VOCABULARY, SimulatedEngine, generate

KINDS = ["right", "wrong", "random", "late", "lookup"]
COSTS = {
    "free": StepCost.through({1: 1.0, 600: 1.0001}, 600),
    "stepped": StepCost.through({1: 10.4, 4: 15, 5: 21.4, 8: 25.5, 16: 38.8, 64: 119}, 600, 0.65),
}


@dataclass
class Adversary:
    """A ``Proposer`` that is always right, always wrong, random, or right up to some place.

    It knows what the answers will be, pays no heed to end ids, and often guesses more than it was asked for.
    """

    kind: str
    random: Random
    vocabulary: int
    answers: dict[str, list[int]]

    def propose(self, wanted: Many[tuple[Sequence, int]]) -> list[list[int]]:
        return [self._guess(sequence, count + self.random.choice([0, 0, 3])) for sequence, count in wanted]

    def run(self, sequence: Sequence) -> int:
        return 0

    def cost_s(self, sequences: int, tokens: int) -> float:
        return 1e-6 * sequences * tokens

    def forget(self, sequence: Sequence) -> None:
        del sequence

    def _guess(self, sequence: Sequence, count: int) -> list[int]:
        done = len(sequence.output)
        right = self.answers[sequence.id][done : done + count]
        if self.kind == "random":
            return [self.random.randrange(self.vocabulary) for _ in range(count)]
        if self.kind == "wrong":
            return [(token + 1) % self.vocabulary for token in right]
        right += [0] * (count - len(right))
        if self.kind == "late":
            right[self.random.randrange(count) :] = [1]
        return right


def proposer(kind: str, random: Random, vocabulary: int, answers: dict[str, list[int]]) -> Proposer:
    return NgramProposer(min_ngram=1) if kind == "lookup" else Adversary(kind, random, vocabulary, answers)


def drafter(one: Proposer, place: Literal["lookup", "model"], cost: str, max_num_tokens: int) -> EngineDrafter:
    return EngineDrafter(
        COSTS[cost],
        max_num_tokens=max_num_tokens,
        lookup=one if place == "lookup" else None,
        draft_model=one if place == "model" else None,
        recorder=Recorder(),
    )


class DraftingEngine(SimulatedEngine):
    """The loop that checks every promise, with a drafter in it."""

    drafter: EngineDrafter

    def begin_step(self) -> StepPlan | None:
        running = list(self.scheduler.running)
        came_with = {sequence: list(sequence.draft) for sequence in running}
        self.drafter.draft(running, 0)
        for sequence in running:
            if sequence.draft != came_with[sequence]:
                assert not came_with[sequence]
                assert len(sequence.draft) <= min(sequence.max_draft_tokens, sequence.remaining_tokens - 1)
        generating = sum(sequence.is_running and bool(sequence.output) for sequence in running)
        drafted = sum(len(sequence.draft) for sequence in running)
        assert not drafted or generating + drafted <= self.scheduler.config.max_num_tokens
        return super().begin_step()

    def end_step(self, plan: StepPlan, sampled: list[int]) -> list[Progress]:
        progress = super().end_step(plan, sampled)
        self.drafter.verified(plan)
        return progress


@st.composite
def configs(draw: st.DrawFn) -> SchedulerConfig:
    batch = draw(st.sampled_from([4, 3, 1]))
    chunked = draw(st.sampled_from([True, True, False]))
    return SchedulerConfig(
        max_batch_size=batch,
        max_num_tokens=batch + draw(st.sampled_from([0, 2, 9, 30])) if chunked else 24,
        max_seq_len=24,
        capacity_policy=draw(st.sampled_from(CapacityPolicy)),
        enable_chunked_context=chunked,
        enable_kv_cache_reuse=draw(st.booleans()),
    )


@given(
    config=configs(),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    place=st.sampled_from(["lookup", "model"]),
    cost=st.sampled_from(sorted(COSTS)),
    tokens_per_block=st.integers(2, 4),
    spare_blocks=st.integers(0, 6),
)
@settings(max_examples=150, deadline=None)
def test_a_storm_of_requests_gets_the_tokens_of_the_model_run_alone(
    config: SchedulerConfig,
    seed: int,
    kind: str,
    place: Literal["lookup", "model"],
    cost: str,
    tokens_per_block: int,
    spare_blocks: int,
) -> None:
    random, answers = Random(seed), dict[str, list[int]]()
    engine = DraftingEngine(config, 24 // tokens_per_block + spare_blocks, tokens_per_block)
    engine.drafter = drafter(proposer(kind, random, VOCABULARY, answers), place, cost, config.max_num_tokens)
    for _ in range(25):
        for _ in range(random.choice([0, 1, 3])):
            prompt = [random.randrange(2) for _ in range(random.randint(1, 12))]
            length = random.randint(1, 24 - len(prompt))
            sequence = engine.add(prompt, length, end_id=random.choice([None, None, 0]), priority=random.random())
            sequence.max_draft_tokens = random.choice([0, 1, 4, 30])
            answers[sequence.id] = generate(prompt, 24)
        engine.step()
        if engine.live and random.random() < 0.1:
            engine.cancel(random.choice(engine.live))
    engine.drain()
    event(f"accepted {sum(sequence.accepted_draft_tokens for sequence in engine.received) > 0}")
    event(f"paused {engine.pauses > 0}")


@dataclass
class Asked:
    """A request that can be made twice."""

    prompt: list[int]
    count: int
    end_id: int | None
    said: dict[str, Any] = field(default_factory=dict)
    max_draft_tokens: int = 0

    def sequence(self, name: str, drafts: bool) -> Sequence:
        state = SamplingState(SamplingParameters(**self.said)) if self.said else None
        return Sequence(
            id=name,
            prompt=np.array(self.prompt),
            max_new_tokens=self.count,
            end_id=self.end_id,
            sampling=state,
            max_draft_tokens=self.max_draft_tokens if drafts else 0,
        )


SAID: list[dict[str, Any]] = [
    {},
    {"temperature": 1.2, "top_p": 0.9, "seed": 3},
    {"temperature": 0.8, "top_k": 4, "seed": 4, "repetition_penalty": 1.3},
    {"temperature": 2.0, "seed": 5, "frequency_penalty": 0.4, "min_tokens": 6},
]


def requests(vocabulary: int) -> st.SearchStrategy[list[Asked]]:
    one = st.builds(
        Asked,
        prompt=st.lists(st.integers(3, min(vocabulary, 9)), min_size=1, max_size=20),
        count=st.integers(1, 24),
        end_id=st.sampled_from([None, 4]),
        said=st.sampled_from(SAID),
        max_draft_tokens=st.sampled_from([1, 3, 12]),
    )
    return st.lists(one, min_size=1, max_size=5)


def run(
    executor: BlockReadingExecutor | OpenVinoExecutor,
    asked: list[Asked],
    config: SchedulerConfig,
    with_drafter: EngineDrafter | None,
) -> dict[str, list[int]]:
    engine = Engine(executor, config, lambda _: None, drafter=with_drafter)
    sequences = [each.sequence(str(i), with_drafter is not None) for i, each in enumerate(asked)]
    for sequence in sequences:
        engine.submit(sequence)
    while engine.step():
        engine.check_integrity()
    event(f"accepted {sum(sequence.accepted_draft_tokens for sequence in sequences) > 0}")
    return {sequence.id: sequence.output for sequence in sequences}


def check(
    executor: BlockReadingExecutor | OpenVinoExecutor,
    vocabulary: int,
    asked: list[Asked],
    policy: CapacityPolicy,
    kind: str,
    place: Literal["lookup", "model"],
    cost: str,
    seed: int,
) -> None:
    config = SchedulerConfig(max_batch_size=4, max_num_tokens=24, max_seq_len=64, capacity_policy=policy)
    plain = run(executor, asked, config, None)
    one = proposer(kind, Random(seed), vocabulary, plain)
    assert run(executor, asked, config, drafter(one, place, cost, config.max_num_tokens)) == plain


@given(
    asked=requests(READ_VOCABULARY),
    policy=st.sampled_from(CapacityPolicy),
    kind=st.sampled_from(KINDS),
    place=st.sampled_from(["lookup", "model"]),
    cost=st.sampled_from(sorted(COSTS)),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_sampled_and_greedy_answers_are_the_same_with_and_without_drafter(
    asked: list[Asked], policy: CapacityPolicy, kind: str, place: Literal["lookup", "model"], cost: str, seed: int
) -> None:
    check(BlockReadingExecutor(20), READ_VOCABULARY, asked, policy, kind, place, cost, seed)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> OpenVinoExecutor:
    folder: Path = tiny_llama.engine(tmp_path_factory.mktemp("tiny"))
    return OpenVinoExecutor(folder, max_kv_cache_tokens=512, mode=ExecutionMode.EXACT)


@given(
    asked=requests(tiny_llama.VOCAB_SIZE),
    policy=st.sampled_from(CapacityPolicy),
    kind=st.sampled_from(KINDS),
    place=st.sampled_from(["lookup", "model"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_so_they_are_on_a_real_model_in_exact_mode(
    tiny: OpenVinoExecutor,
    asked: list[Asked],
    policy: CapacityPolicy,
    kind: str,
    place: Literal["lookup", "model"],
    seed: int,
) -> None:
    check(tiny, tiny_llama.VOCAB_SIZE, asked, policy, kind, place, "free", seed)
