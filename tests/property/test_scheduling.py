"""Whatever happens around it, every sequence gets the tokens that it would get alone."""

from __future__ import annotations

from random import Random

from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from python_backend.errors import InvalidRequest, Overloaded
from python_backend.scheduling import (
    BlockRetention,
    CapacityPolicy,
    KvRetention,
    SchedulerConfig,
    Sequence,
    StepBatch,
    TokenRange,
    Urgency,
)
from tests.unit.scheduling.simulated_engine import VOCABULARY, Drafter, SimulatedEngine, generate

MAX_SEQ_LEN = 18
# Few different prompts, so that sequences share blocks all the time.
PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=9)
KINDS = ["none", "right", "wrong", "random", "late"]
DRAFTERS = st.sampled_from(KINDS)
TENANTS = ["", "", "a", "b"]
TIMEOUTS = [None, None, None, 0.0, 2.0, 6.0]  # in steps
RETENTIONS = [
    None,
    KvRetention(decode=BlockRetention(0)),
    KvRetention(
        (TokenRange(0, 4, BlockRetention(90, 3000)), TokenRange(5, None, BlockRetention(20))), BlockRetention(60)
    ),
]


@st.composite
def configs(draw: st.DrawFn) -> SchedulerConfig:
    max_batch_size = draw(st.sampled_from([4, 3, 2, 1]))
    chunked = draw(st.sampled_from([True, True, False]))
    return SchedulerConfig(
        max_batch_size=max_batch_size,
        max_num_tokens=max_batch_size + draw(st.sampled_from([0, 0, 1, 3, 9])) if chunked else MAX_SEQ_LEN,
        max_seq_len=MAX_SEQ_LEN,
        capacity_policy=draw(st.sampled_from(CapacityPolicy)),
        enable_chunked_context=chunked,
        enable_kv_cache_reuse=draw(st.sampled_from([True, True, False])),
        enable_partial_reuse=draw(st.sampled_from([True, True, False])),
        max_queue_size=draw(st.sampled_from([0, 0, 5])),
        max_queue_size_per_tenant=draw(st.sampled_from([0, 0, 3])),
        urgency=Urgency(priority_s=draw(st.sampled_from([0.0, 20.0])), length_s=draw(st.sampled_from([0.0, 4.0]))),
    )


def make_drafter(kind: str, random: Random) -> Drafter | None:
    """Drafts that are all right, all wrong, random, or right up to some place."""

    def draft(sequence: Sequence) -> list[int]:
        known = sequence.prompt.tolist() + sequence.output
        right = generate(known, random.randint(0, 6))
        if kind == "wrong":
            return [(token + 1) % VOCABULARY for token in right]
        if kind == "random":
            return [random.randrange(VOCABULARY) for _ in right]
        if kind == "late" and right:
            right[random.randrange(len(right)) :] = [0]
        return right

    return None if kind == "none" else draft


class InFlightBatching(RuleBasedStateMachine):
    @initialize(
        config=configs(),
        tokens_per_block=st.integers(2, 4),
        spare_blocks=st.integers(0, 5),
        pinned=st.lists(PROMPTS, max_size=2),
        crowd=st.lists(st.tuples(PROMPTS, st.integers(1, 8), DRAFTERS), min_size=3, max_size=6),
    )
    def start(
        self,
        config: SchedulerConfig,
        tokens_per_block: int,
        spare_blocks: int,
        pinned: list[list[int]],
        crowd: list[tuple[list[int], int, str]],
    ) -> None:
        self.engine = SimulatedEngine(config, MAX_SEQ_LEN // tokens_per_block + spare_blocks, tokens_per_block)
        for prompt in pinned:
            self.engine.pin(prompt)
        for prompt, max_new_tokens, kind in crowd:
            self.add(prompt, 0, max_new_tokens, None, 0.5, b"", kind, seed=0, copies=1)

    @rule(
        prompt=PROMPTS,
        history=st.integers(0, 5),
        max_new_tokens=st.integers(1, 8),
        end_id=st.sampled_from([None, None, 0, 1]),
        priority=st.sampled_from([0.0, 0.5, 1.0]),
        salt=st.sampled_from([b"", b"", b"", b"other"]),
        kind=DRAFTERS,
        seed=st.integers(0, 5),
        copies=st.integers(1, 3),
        tenant=st.sampled_from(TENANTS),
        timeout_s=st.sampled_from(TIMEOUTS),
        retention=st.sampled_from(RETENTIONS),
    )
    def add(
        self,
        prompt: list[int],
        history: int,
        max_new_tokens: int,
        end_id: int | None,
        priority: float,
        salt: bytes,
        kind: str,
        seed: int,
        copies: int,
        tenant: str = "",
        timeout_s: float | None = None,
        retention: KvRetention | None = None,
    ) -> None:
        """New prompts, or turns that go on where another request is now."""
        texts = [[], *(s.prompt.tolist() + out for s, out in self.engine.received.items())]
        text = texts[-history % len(texts)][:9]
        drafter = make_drafter(kind, Random(seed))
        for _ in range(copies):
            try:
                self.engine.add(
                    text + prompt,
                    max_new_tokens,
                    end_id=end_id,
                    priority=priority,
                    salt=salt,
                    drafter=drafter,
                    tenant=tenant,
                    timeout_s=timeout_s,
                    retention=retention,
                )
            except (InvalidRequest, Overloaded) as error:
                event(type(error).__name__)

    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        if self.engine.live:
            self.engine.cancel(self.engine.live[which % len(self.engine.live)])

    @rule(count=st.integers(1, 6))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()

    @rule(which=st.sets(st.integers(0, 6)), prompt=PROMPTS)
    def step_with_arrival_and_cancellations_in_flight(self, which: set[int], prompt: list[int]) -> None:
        plan = self.engine.begin_step()
        if plan is None:
            return
        sampled = self.engine.execute(plan, StepBatch.of(plan))
        for sequence in [s for n, s in enumerate(self.engine.live) if n in which]:
            self.engine.cancel(sequence)
        self.add(prompt, 0, 3, None, 1.0, b"", "none", seed=0, copies=1)
        gained = {progress.sequence for progress in self.engine.end_step(plan, sampled)}
        assert gained == {e.sequence for e in plan.entries if e.rows and e.sequence not in self.cancelled}

    @rule()
    def failing_step(self) -> None:
        plan = self.engine.begin_step()
        if plan is not None:
            self.engine.fail_step(plan, StepBatch.of(plan))

    @property
    def cancelled(self) -> set[Sequence]:
        return {s for s, reason in self.engine.reasons.items() if reason.value == "cancelled"}

    @invariant()
    def bookkeeping_agrees(self) -> None:
        if hasattr(self, "engine"):
            self.engine.scheduler.check_integrity()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.drain()
            statistics = self.engine.blocks.statistics
            event(f"paused {self.engine.pauses > 0}")
            event(f"reused {statistics.reused_total > 0}, evicted {statistics.evicted_total > 0}")


InFlightBatching.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestInFlightBatching = InFlightBatching.TestCase


@given(config=configs(), seed=st.integers(0, 2**32), tokens_per_block=st.integers(2, 4), spare_blocks=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_sequence_gets_the_tokens_of_the_model_run_alone_in_a_storm(
    config: SchedulerConfig, seed: int, tokens_per_block: int, spare_blocks: int
) -> None:
    random = Random(seed)
    engine = SimulatedEngine(config, MAX_SEQ_LEN // tokens_per_block + spare_blocks, tokens_per_block)
    if random.random() < 0.5:
        engine.pin([random.randrange(2) for _ in range(random.randint(1, 9))])
    for _ in range(40):
        for _ in range(random.choice([0, 1, 4])):
            offer(engine, random)
        plan = engine.begin_step()
        if plan is None:
            continue
        batch = StepBatch.of(plan)
        if random.random() < 0.03:
            engine.fail_step(plan, batch)
            continue
        sampled = engine.execute(plan, batch)
        if random.random() < 0.1:
            engine.cancel(random.choice(engine.live))
        engine.end_step(plan, sampled)
    engine.drain()
    statistics = engine.blocks.statistics
    event(f"paused {engine.pauses > 0}")
    event(f"reused {statistics.reused_total > 0}, evicted {statistics.evicted_total > 0}")


def offer(engine: SimulatedEngine, random: Random) -> None:
    """A request that often goes on where another one is, with whatever drafts."""
    known = [s.prompt.tolist() + output for s, output in engine.received.items()]
    text = random.choice(known)[: random.randint(0, 10)] if known and random.random() < 0.6 else []
    prompt = text + [random.randrange(2) for _ in range(random.randint(1, 6))]
    try:
        engine.add(
            prompt,
            random.randint(1, MAX_SEQ_LEN - len(prompt)),
            end_id=random.choice([None, None, 0]),
            priority=random.random(),
            salt=random.choice([b"", b"", b"other"]),
            drafter=make_drafter(random.choice(KINDS), random),
            tenant=random.choice(TENANTS),
            timeout_s=random.choice(TIMEOUTS),
            retention=random.choice(RETENTIONS),
        )
    except (InvalidRequest, Overloaded) as error:
        event(type(error).__name__)
