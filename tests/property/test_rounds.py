"""Speculative rounds over every manner of engine, against drafters that mean no good: the answer is the plain one."""

from __future__ import annotations

from itertools import cycle

from hypothesis import event, given, settings
from hypothesis import strategies as st

from python_backend.scheduling.sequence import FinishReason
from tests.unit.speculative.simulated_target import (
    VOCABULARY,
    Guess,
    Manner,
    ScriptedDrafter,
    SimulatedTarget,
    future,
    plain_answer,
    rounds,
    sequence,
)

tokens = st.integers(0, VOCABULARY - 1)
manners = st.builds(
    Manner,
    shows_end_id=st.booleans(),
    most_verified=st.none() | st.integers(0, 6),
    goes_on=st.integers(0, 3),
    piece_sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any).map(tuple),
)


Kind = tuple[int, list[int], int] | list[int] | None
kinds: st.SearchStrategy[Kind] = st.one_of(
    st.none(), st.just([]), st.tuples(st.integers(0, 12), st.lists(tokens, max_size=6), st.integers(0, 20))
)


@st.composite
def guesses(draw: st.DrawFn) -> Guess:
    """Each call of the drafter is of another kind: right up to some place, of any length, or nothing."""
    calls = cycle(draw(st.lists(kinds, min_size=1, max_size=5)))

    def guess(known: list[int], count: int) -> list[int] | None:
        kind = next(calls)
        if not isinstance(kind, tuple):
            return kind
        right, noise, beyond = kind
        return future(known, right) + noise + future(known, beyond)[len(noise) :]

    return guess


@settings(max_examples=200, deadline=None)
@given(
    prompt=st.lists(tokens, min_size=1, max_size=8),
    max_tokens=st.integers(1, 60),
    end_id=st.none() | tokens,
    manner=manners,
    guess=guesses(),
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5),
    most=st.integers(0, 16),
)
def test_the_pieces_together_are_the_answer_without_drafts(
    prompt: list[int],
    max_tokens: int,
    end_id: int | None,
    manner: Manner,
    guess: Guess,
    lengths: list[int],
    most: int,
) -> None:
    target, drafter, of = SimulatedTarget(manner), ScriptedDrafter(guess), sequence(prompt, max_tokens, end_id)
    pieces = list(rounds(target, drafter, of, lengths=lengths, most=most).pieces())
    expected, reason = plain_answer(prompt, max_tokens, end_id, shows_end_id=manner.shows_end_id)
    assert [token for piece in pieces for token in piece.tokens] == of.output == expected
    assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + [reason]
    assert of.finish_reason is reason
    assert of.accepted_draft_tokens <= of.draft_tokens == sum(target.verified)
    assert drafter.forgotten == [of]
    assert target.open_calls == 0
    event(f"{reason.value}, {'with' if of.accepted_draft_tokens else 'without'} accepted drafts")


@settings(max_examples=100, deadline=None)
@given(manner=manners, guess=guesses(), lengths=st.lists(st.integers(0, 9), min_size=1), read=st.integers(0, 12))
def test_left_anywhere_it_leaves_nothing_open(manner: Manner, guess: Guess, lengths: list[int], read: int) -> None:
    target, drafter, of = SimulatedTarget(manner), ScriptedDrafter(guess), sequence([1, 2], 40)
    pieces = rounds(target, drafter, of, lengths=lengths).pieces()
    seen = [token for _, piece in zip(range(read), pieces, strict=False) for token in piece.tokens]
    pieces.close()
    assert seen == future([1, 2], len(seen))
    assert target.open_calls == 0
    assert drafter.forgotten == [of] * bool(read)
    assert of.finish_reason in (None, FinishReason.LENGTH)
