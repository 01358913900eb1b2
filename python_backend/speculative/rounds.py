"""Draft and target take turns: speculative decoding by calls of the contract, for any engine behind it.

A round is a call that verifies draft tokens (`draft_input_ids`), which ends after one step. Between rounds that do not
pay, the target generates plainly. Source of the loop: NVIDIA's ``tensorrt_llm_bls`` (lib/decode.py), which shows
nothing before the end and serves one request at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.speculative.round_length import Acceptance, RoundLength

#: Tokens generated plainly before drafts are thought of again; doubled up to the second while they do not pay.
PLAIN_TOKENS = (16, 256)
#: The same where drafts would pay, but the drafter has no guess.
NO_GUESS_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """Guesses for the tokens that follow, and the logits they were chosen from, [tokens, vocabulary], if wanted."""

    tokens: list[int]
    logits: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """New tokens from the target, and other tensors of the same response."""

    tokens: list[int]
    tensors: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    finish: FinishReason | None = None


class Target(Protocol):
    """The engine whose answer it is. ``sequence`` holds the prompt and all output so far."""

    @property
    def shows_end_id(self) -> bool:
        """False: the token that ends generation is not among the output, as with TensorRT-LLM."""
        ...

    def generate(self, sequence: Sequence, count: int) -> Generator[Piece, None, None]:
        """The next ``count`` tokens as they come; fewer when generation ends. May be closed before its end."""
        ...

    def verify(self, sequence: Sequence, draft: Draft) -> Piece:
        """The draft tokens that it accepts, and its own next token."""
        ...


class RoundDrafter(Protocol):
    """Where drafts come from."""

    def draft(self, sequence: Sequence, count: int) -> Draft | None:
        """At most ``count`` tokens (1 or more) that may follow; None: no guess."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        ...


@dataclass(eq=False, slots=True, kw_only=True)
class Rounds:
    """Generates one sequence. Its pieces together are the answer that the target would give without drafts.

    Greedy: the same tokens. At random: tokens of the same distribution.
    """

    sequence: Sequence
    target: Target
    drafter: RoundDrafter | None
    length: RoundLength
    most: int
    """Draft tokens in a round; 0: none."""
    is_greedy: bool = True
    clock: Callable[[], float] = time.monotonic
    acceptance: Acceptance = field(default_factory=Acceptance)
    _plain_tokens: int = PLAIN_TOKENS[0]

    def pieces(self) -> Generator[Piece, None, None]:
        """All pieces; the last one says why it is the last. To be closed when nobody wants more."""
        try:
            while self.sequence.finish_reason is None:
                yield from self._turn()
        finally:
            if self.drafter is not None:
                self.drafter.forget(self.sequence)

    def _turn(self) -> Iterator[Piece]:
        started_s = self.clock()
        if self.drafter is None or not self.most:
            yield from self._generate(self.sequence.remaining_tokens)
        elif count := self.length.choose(self.acceptance, min(self.most, self.sequence.remaining_tokens - 1)):
            self._plain_tokens = PLAIN_TOKENS[0]
            draft = self.drafter.draft(self.sequence, count)
            if draft is not None and draft.tokens:
                yield self._verify(draft, started_s)
            else:
                yield from self._generate(NO_GUESS_TOKENS)
        else:
            yield from self._generate(self._plain_tokens)
            self._plain_tokens = min(2 * self._plain_tokens, PLAIN_TOKENS[1])
            self.acceptance.forget()

    def _verify(self, draft: Draft, started_s: float) -> Piece:
        piece = self.target.verify(self.sequence, draft)
        accepted = _common(piece.tokens, draft.tokens)
        self.length.observe_round(len(draft.tokens), accepted, self.clock() - started_s)
        self.acceptance.observe(len(draft.tokens), accepted)
        self.sequence.draft_tokens += len(draft.tokens)
        self.sequence.accepted_draft_tokens += accepted
        # Without a token of the target's own at the end, that token was the end, or the engine had no room for all of
        # the draft. A greedy target asked again says which; one that draws might change its mind about the end.
        ended = not self.target.shows_end_id and len(piece.tokens) == accepted
        return self._extend(piece, ended=ended and not (self.is_greedy and piece.tokens))

    def _generate(self, most: int) -> Iterator[Piece]:
        """That many tokens without drafts."""
        missing = min(most, self.sequence.remaining_tokens)
        # The first piece takes the context phase, too: it counts only where that is over, since the text has begun.
        began_s, timed = (self.clock() if self.sequence.output else None), 0
        came_s = began_s
        call = self.target.generate(self.sequence, missing)
        try:
            for piece in call:
                missing -= len(piece.tokens)
                timed += len(piece.tokens) if began_s is not None else 0
                came_s = self.clock()
                began_s = came_s if began_s is None else began_s
                yield self._extend(piece, ended=False)
                if self.sequence.finish_reason is not None:
                    break
        finally:
            call.close()
        if timed and began_s is not None and came_s is not None:
            self.length.observe_plain(timed, came_s - began_s)
        if missing > 0 and self.sequence.finish_reason is None:
            yield self._extend(Piece([]), ended=True)

    def _extend(self, piece: Piece, *, ended: bool) -> Piece:
        sequence, tokens = self.sequence, piece.tokens[: self.sequence.remaining_tokens]
        reason = FinishReason.STOP if ended else None
        if len(tokens) == sequence.remaining_tokens:
            reason = FinishReason.LENGTH
        if sequence.end_id is not None and sequence.end_id in tokens:
            tokens, reason = tokens[: tokens.index(sequence.end_id) + 1], FinishReason.STOP
        sequence.output.extend(tokens)
        sequence.finish_reason = reason
        return Piece(tokens, piece.tensors, reason)


def _common(tokens: list[int], draft: list[int]) -> int:
    """How many leading tokens agree."""
    count = 0
    while count < min(len(tokens), len(draft)) and tokens[count] == draft[count]:
        count += 1
    return count
