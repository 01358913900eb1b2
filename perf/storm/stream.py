"""One stream of the storm: asked, read to the end or left on the way, and compared with the calm answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perf.storm.door import Content, Door, Question
from perf.storm.transport import StreamFailed, Transport


class WrongAnswer(Exception):
    """A stream brought something else than the same question did in calm."""


@dataclass(frozen=True, slots=True)
class Leave:
    """When and how a client disconnects: ``delay_s`` after it has received ``after_tokens`` tokens."""

    after_tokens: int
    delay_s: float
    farewell: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a client received before the end, or before it left."""

    content: Content
    tokens: int
    complete: bool


async def read(transport: Transport, door: Door, question: Question, leave: Leave | None = None) -> Reading:
    """Puts the question and reads its answer. StreamFailed when the server does not bring it to an end."""
    try:
        await transport.send(door.model, door.inputs(question))
        if leave is not None and leave.after_tokens == 0:
            await asyncio.sleep(leave.delay_s)
            await transport.leave(leave.farewell)
            return Reading([], 0, complete=False)
        return await _read(transport, door, leave)
    except OSError as error:
        raise StreamFailed(f"no connection: {error}") from error
    finally:
        await transport.close()


async def _read(transport: Transport, door: Door, leave: Leave | None) -> Reading:
    content: list[Any] = []
    tokens = 0
    async for outputs in transport.responses():
        content += door.content(outputs)
        tokens += _token_count(outputs)
        if leave is not None and tokens >= leave.after_tokens:
            await asyncio.sleep(leave.delay_s)
            await transport.leave(leave.farewell)
            return Reading(content, tokens, complete=False)
    return Reading(content, tokens, complete=True)


def _token_count(outputs: Mapping[str, Any]) -> int:
    if "num_output_tokens" not in outputs:
        raise StreamFailed("a response does not say how many tokens it holds (num_output_tokens).")
    return int(outputs["num_output_tokens"])


def check(reading: Reading, calm: Reading, question: Question) -> None:
    """WrongAnswer unless the reading is the calm answer or, if the client left, its beginning.

    Decoding is greedy and exact, so the calm answer is the only right one: a token lost, doubled or out of order shows.
    """
    if reading.complete and reading.tokens != question.max_tokens:
        raise WrongAnswer(f"a complete answer has {reading.tokens} tokens; {question.max_tokens} were asked for.")
    expected = calm.content if reading.complete else calm.content[: len(reading.content)]
    if reading.content != expected:
        place = next(
            (index for index, pair in enumerate(zip(reading.content, expected, strict=False)) if pair[0] != pair[1]),
            min(len(reading.content), len(expected)),
        )
        raise WrongAnswer(
            f"an answer differs from the calm one at {place}: {reading.content[place : place + 12]!r} "
            f"in place of {expected[place : place + 12]!r} (lengths {len(reading.content)} and {len(calm.content)})."
        )
