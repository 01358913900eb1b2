"""A target whose every token follows from all before it, answering in the manners of different engines."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import cycle

import numpy as np

from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.speculative.round_length import Acceptance, RoundLength
from python_backend.speculative.rounds import Draft, Piece, Rounds

VOCABULARY = 11

Guess = Callable[[list[int], int], list[int] | None]


def next_token(tokens: Iterable[int]) -> int:
    """Of a model with that text behind it."""
    return blake2b(bytes(tokens), digest_size=2).digest()[0] % VOCABULARY


def plain_answer(
    prompt: list[int], max_tokens: int, end_id: int | None, *, shows_end_id: bool
) -> tuple[list[int], FinishReason]:
    """The oracle: what comes without drafts, token by token."""
    output: list[int] = []
    while len(output) < max_tokens:
        token = next_token(prompt + output)
        if token == end_id:
            return output + [token] * shows_end_id, FinishReason.STOP
        output.append(token)
    return output, FinishReason.LENGTH


def future(known: list[int], count: int) -> list[int]:
    """What a drafter that is always right would say; it knows of no end."""
    text = list(known)
    for _ in range(count):
        text.append(next_token(text))
    return text[len(known) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How an engine answers."""

    shows_end_id: bool
    most_verified: int | None = None  # draft tokens that it has room for; the rest is ignored
    goes_on: int = 0  # tokens it adds to its own one after a draft
    piece_sizes: tuple[int, ...] = (1,)  # of a call without draft; 0 is a response without tokens


@dataclass(slots=True)
class SimulatedTarget:
    manner: Manner
    open_calls: int = 0
    verified: list[int] = field(default_factory=list)  # length of each draft

    @property
    def shows_end_id(self) -> bool:
        return self.manner.shows_end_id

    def generate(self, sequence: Sequence, count: int) -> Generator[Piece, None, None]:
        assert 1 <= count <= sequence.remaining_tokens
        tokens = self._follow(sequence, count)
        self.open_calls += 1
        try:
            sizes = cycle(self.manner.piece_sizes)
            while tokens:
                size = next(sizes)
                piece, tokens = tokens[:size], tokens[size:]
                yield Piece(piece)
        finally:
            self.open_calls -= 1

    def verify(self, sequence: Sequence, draft: Draft) -> Piece:
        assert draft.tokens
        self.verified.append(len(draft.tokens))
        looked_at = draft.tokens[: self.manner.most_verified]
        own = self._follow(sequence, len(looked_at) + 1)
        accepted = 0
        while accepted < min(len(own), len(looked_at)) and own[accepted] == looked_at[accepted]:
            accepted += 1
        return Piece(self._follow(sequence, accepted + 1 + self.manner.goes_on))

    def _follow(self, sequence: Sequence, count: int) -> list[int]:
        known = sequence.tokens(0, sequence.num_tokens).tolist()
        return plain_answer(known, count, sequence.end_id, shows_end_id=self.shows_end_id)[0]


@dataclass(slots=True)
class ScriptedDrafter:
    """Says what a function makes of the text so far and of how much is wanted; and remembers whom it forgot."""

    guess: Guess
    forgotten: list[Sequence] = field(default_factory=list)

    def draft(self, sequence: Sequence, count: int) -> Draft | None:
        assert count >= 1
        guess = self.guess(sequence.tokens(0, sequence.num_tokens).tolist(), count)
        return None if guess is None else Draft(guess)

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence)


@dataclass
class ScriptedLength(RoundLength):
    """Draft lengths out of the blue, over and over."""

    lengths: Iterable[int] = (4,)

    def __post_init__(self) -> None:
        self._cycle = cycle(self.lengths)

    def choose(self, acceptance: Acceptance, most: int) -> int:
        return next(self._cycle)


def sequence(prompt: list[int], max_tokens: int, end_id: int | None = None) -> Sequence:
    return Sequence(id="", prompt=np.array(prompt), max_new_tokens=max_tokens, end_id=end_id)


def rounds(
    target: SimulatedTarget,
    drafter: ScriptedDrafter | None,
    of: Sequence,
    *,
    lengths: Iterable[int] = (4,),
    most: int = 8,
) -> Rounds:
    return Rounds(sequence=of, target=target, drafter=drafter, length=ScriptedLength(lengths=lengths), most=most)
