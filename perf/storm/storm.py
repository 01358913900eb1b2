"""The storm: waves of streams of which half are left on the way, and a check of the server after each wave."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from perf.prompts import PromptSource
from perf.storm import gauges
from perf.storm.door import Door, Question
from perf.storm.stream import Leave, Reading, WrongAnswer, check, read
from perf.storm.transport import StreamFailed, Transport

QUESTIONS = 8
ANSWER_TOKENS = (8, 64)
LARGEST_DELAY_S = 0.05
DRAIN_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server under the storm: connections by name, what its engine holds, and whether its process still runs."""

    connect: Mapping[str, Callable[[], Transport]]
    engine_load: Callable[[], gauges.Load]
    is_alive: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take, in seconds; a wave is followed by a check of the server."""

    wave_s: float = 30.0
    stream_timeout_s: float = 120.0
    drain_timeout_s: float = 60.0


@dataclass(slots=True)
class Outcome:
    """What happened at one door: streams by (transport, ending), seconds until idle after each wave, failures."""

    streams: Counter[tuple[str, str]] = field(default_factory=Counter)
    drains_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def fail(self, what: str) -> None:
        """Notes a failure; equal ones are counted."""
        self.failures[what] += 1


class Storm:
    """One door under the storm; the same seed asks the same questions and leaves at the same tokens."""

    def __init__(
        self, target: Target, door: Door, prompts: PromptSource, seed: int, limits: Limits | None = None
    ) -> None:
        self._target = target
        self._door = door
        self._random = random.Random(seed)
        self._limits = limits or Limits()
        self._questions = [Question(prompt, self._random.randint(*ANSWER_TOKENS)) for prompt in prompts.take(QUESTIONS)]
        self._calm: list[Reading] = []
        self.outcome = Outcome()

    async def run(self, seconds: float, streams: int) -> Outcome:
        """Asks everything once in calm, then storms in waves. StreamFailed when the server fails before the storm."""
        for question in self._questions:
            self._calm.append(await self._ask_calmly(question))
        left_s = seconds
        while left_s > 0 and self._target.is_alive():
            await self._wave(min(self._limits.wave_s, left_s), streams)
            await self._after_wave()
            left_s -= self._limits.wave_s
        for name in self._target.connect:
            for ending in ("complete", "left"):
                if not self.outcome.streams[name, ending]:
                    self.outcome.fail(f"the storm was too short to say anything: no {name} stream was {ending}")
        return self.outcome

    async def _wave(self, seconds: float, streams: int) -> None:
        end_s = time.monotonic() + seconds
        kinds = cycle(self._target.connect.values())
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(self._client(next(kinds), random.Random(self._random.random()), end_s))

    async def _client(self, connect: Callable[[], Transport], dice: random.Random, end_s: float) -> None:
        """One stream after the other until the wave ends."""
        while time.monotonic() < end_s and self._target.is_alive():
            index = dice.randrange(QUESTIONS)
            transport = connect()
            await self._stream(transport, index, self._leave(transport, index, dice))

    def _leave(self, transport: Transport, index: int, dice: random.Random) -> Leave | None:
        if dice.random() < 0.5:
            return None
        # A third before the first token, the others at any token but the last.
        after_tokens = 0 if dice.random() < 1 / 3 else dice.randrange(1, self._questions[index].max_tokens)
        return Leave(after_tokens, dice.uniform(0, LARGEST_DELAY_S), dice.choice(transport.farewells))

    async def _stream(self, transport: Transport, index: int, leave: Leave | None) -> None:
        question = self._questions[index]
        try:
            async with asyncio.timeout(self._limits.stream_timeout_s):
                reading = await read(transport, self._door, question, leave)
            check(reading, self._calm[index], question)
        except TimeoutError:
            self._failed(transport, f"a stream had no end after {self._limits.stream_timeout_s:g} s")
        except (StreamFailed, WrongAnswer) as error:
            self._failed(transport, str(error))
        else:
            self.outcome.streams[transport.name, "complete" if reading.complete else "left"] += 1

    def _failed(self, transport: Transport, what: str) -> None:
        self.outcome.streams[transport.name, "failed"] += 1
        self.outcome.fail(f"{transport.name}: {what}")

    async def _after_wave(self) -> None:
        """The process is the one that was started, its engine becomes idle, and it answers on both transports."""
        if not self._target.is_alive():
            self.outcome.fail("the server process ended")
            return
        await self._drain()
        for connect in self._target.connect.values():
            await self._stream(connect(), 0, None)

    async def _drain(self) -> None:
        started_s = time.monotonic()
        while True:
            try:
                load = await asyncio.to_thread(self._target.engine_load)
            except OSError as error:
                self.outcome.fail(f"/metrics does not answer: {error}")
                return
            spent_s = time.monotonic() - started_s
            if load.is_idle:
                self.outcome.drains_s.append(spent_s)
                return
            if spent_s > self._limits.drain_timeout_s:
                self.outcome.fail(
                    f"after {self._limits.drain_timeout_s:g} s of quiet, {load.active_requests} requests are active "
                    f"and {load.used_blocks} blocks of the KV cache are used"
                )
                return
            await asyncio.sleep(DRAIN_POLL_S)

    async def _ask_calmly(self, question: Question) -> Reading:
        connect = next(iter(self._target.connect.values()))
        try:
            async with asyncio.timeout(self._limits.stream_timeout_s):
                reading = await read(connect(), self._door, question)
        except TimeoutError:
            raise StreamFailed(f"no answer in {self._limits.stream_timeout_s:g} s, before the storm.") from None
        if reading.tokens != question.max_tokens:
            raise StreamFailed(f"{reading.tokens} tokens came in calm; {question.max_tokens} were asked for.")
        return reading


def all_passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing went wrong at any door."""
    return not any(outcome.failures for outcome in outcomes)
