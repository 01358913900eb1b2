from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import product
from random import Random

import pytest
from scipy.stats import chisquare

from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.speculative.round_length import RoundLength
from python_backend.speculative.rounds import NO_GUESS_TOKENS, PLAIN_TOKENS, Draft, Piece, Rounds
from tests.unit.speculative.simulated_target import (
    VOCABULARY,
    Guess,
    Manner,
    ScriptedDrafter,
    ScriptedLength,
    SimulatedTarget,
    future,
    plain_answer,
    rounds,
    sequence,
)

PROMPT = [3, 1, 4]
SHOWN, HIDDEN = Manner(shows_end_id=True), Manner(shows_end_id=False)


def wrong(known: list[int], count: int) -> list[int]:
    return [(token + 1) % VOCABULARY for token in future(known, count)]


def first_of(text: list[int], manner: Manner) -> int:
    """A token that first stands in the middle of ``text``."""
    return next(token for place, token in enumerate(text) if place > 12 and token not in text[:place])


@pytest.mark.parametrize("manner", [SHOWN, HIDDEN])
def test_a_drafter_that_is_always_right_saves_calls(manner: Manner) -> None:
    target, of = SimulatedTarget(manner), sequence(PROMPT, 50)
    pieces = list(rounds(target, ScriptedDrafter(future), of).pieces())
    assert [token for piece in pieces for token in piece.tokens] == future(PROMPT, 50)
    assert [len(piece.tokens) for piece in pieces] == [5] * 10
    assert (of.draft_tokens, of.accepted_draft_tokens) == (40, 40)
    assert [piece.finish for piece in pieces] == [None] * 9 + [FinishReason.LENGTH]


@pytest.mark.parametrize("manner", [SHOWN, HIDDEN])
def test_a_drafter_that_is_always_wrong_costs_nothing_but_time(manner: Manner) -> None:
    target, of = SimulatedTarget(manner), sequence(PROMPT, 9)
    pieces = list(rounds(target, ScriptedDrafter(wrong), of).pieces())
    assert [piece.tokens for piece in pieces] == [[token] for token in future(PROMPT, 9)]
    assert (of.draft_tokens, of.accepted_draft_tokens) == (36, 0)


@pytest.mark.parametrize("nothing", [None, []])
def test_without_a_guess_the_target_goes_on_alone_for_a_while(nothing: list[int] | None) -> None:
    guesses = iter([nothing, future(PROMPT + future(PROMPT, NO_GUESS_TOKENS), 4)])
    target, of = SimulatedTarget(HIDDEN), sequence(PROMPT, NO_GUESS_TOKENS + 5)
    pieces = list(rounds(target, ScriptedDrafter(lambda known, count: next(guesses)), of).pieces())
    assert [len(piece.tokens) for piece in pieces] == [1] * NO_GUESS_TOKENS + [5]
    assert target.verified == [4]


def test_while_drafts_do_not_pay_the_pauses_grow() -> None:
    asked: list[int] = []

    class Target(SimulatedTarget):
        def generate(self, sequence: Sequence, count: int) -> Generator[Piece, None, None]:
            asked.append(count)
            return super().generate(sequence, count)

    list(rounds(Target(SHOWN), ScriptedDrafter(future), sequence(PROMPT, 800), lengths=[0]).pieces())
    assert asked == [16, 32, 64, 128, 256, 256, 48]
    assert (asked[0], max(asked)) == PLAIN_TOKENS


def test_without_drafts_it_is_one_call() -> None:
    for drafter, most in ((None, 8), (ScriptedDrafter(future), 0)):
        target, of = SimulatedTarget(HIDDEN), sequence(PROMPT, 700)
        assert len(list(rounds(target, drafter, of, most=most).pieces())) == 700
        assert target.verified == []


@pytest.mark.parametrize("manner", [SHOWN, HIDDEN])
@pytest.mark.parametrize("guess", [future, wrong])
def test_the_end_is_found_inside_a_draft_and_behind_it(manner: Manner, guess: Guess) -> None:
    end_id = first_of(future(PROMPT, 60), manner)
    of = sequence(PROMPT, 60, end_id)
    pieces = list(rounds(SimulatedTarget(manner), ScriptedDrafter(guess), of).pieces())
    expected, reason = plain_answer(PROMPT, 60, end_id, shows_end_id=manner.shows_end_id)
    assert reason is FinishReason.STOP
    assert [token for piece in pieces for token in piece.tokens] == of.output == expected
    assert [piece.finish for piece in pieces if piece.finish] == [FinishReason.STOP]


def test_a_draft_beyond_what_is_wanted_is_cut_from_the_answer() -> None:
    of = sequence(PROMPT, 3)
    (piece,) = rounds(SimulatedTarget(SHOWN), ScriptedDrafter(future), of, lengths=[30]).pieces()
    assert (piece.tokens, piece.finish) == (future(PROMPT, 3), FinishReason.LENGTH)


def test_who_stops_reading_ends_the_call_and_the_drafters_memory() -> None:
    target, drafter, of = SimulatedTarget(SHOWN), ScriptedDrafter(future), sequence(PROMPT, 40)
    pieces = rounds(target, drafter, of, lengths=[0]).pieces()
    next(pieces)
    assert target.open_calls == 1
    assert drafter.forgotten == []
    pieces.close()
    assert target.open_calls == 0
    assert drafter.forgotten == [of]


@pytest.mark.parametrize("lengths", [[0], [3]])
def test_an_error_of_the_target_leaves_nothing_behind(lengths: list[int]) -> None:
    class Broken(SimulatedTarget):
        def generate(self, sequence: Sequence, count: int) -> Generator[Piece, None, None]:
            yield from super().generate(sequence, 2)
            raise ConnectionError

        def verify(self, sequence: Sequence, draft: Draft) -> Piece:
            raise ConnectionError

    drafter, of = ScriptedDrafter(future), sequence(PROMPT, 40)
    with pytest.raises(ConnectionError):
        list(rounds(Broken(SHOWN), drafter, of, lengths=lengths).pieces())
    assert drafter.forgotten == [of]


@pytest.mark.parametrize("piece_sizes", [(1,), (16,), (0, 3)])
def test_plain_generation_is_timed_whether_it_streams_or_comes_whole(piece_sizes: tuple[int, ...]) -> None:
    length = RoundLength()
    target = SimulatedTarget(Manner(shows_end_id=True, piece_sizes=piece_sizes))
    run = Rounds(sequence=sequence(PROMPT, 100), target=target, drafter=ScriptedDrafter(future), length=length, most=4)
    list(run.pieces())
    assert target.verified, "drafts were never tried"


WEIGHTS = {0: (5, 2, 3), 1: (1, 6, 3), 2: (4, 4, 2)}
END, LIMIT, RUNS = 2, 4, 8000


def probability(last: int, token: int) -> float:
    return WEIGHTS[last][token] / sum(WEIGHTS[last])


def outcomes(*, shows_end_id: bool) -> dict[tuple[int, ...], float]:
    """Every possible answer to the prompt [0] with its probability."""
    found: Counter[tuple[int, ...]] = Counter()
    for text in product(range(3), repeat=LIMIT):
        chance = 1.0
        for last, token in zip((0, *text), text, strict=False):
            chance *= probability(last, token)
        ended = text.index(END) + shows_end_id if END in text else LIMIT
        found[text[:ended]] += chance  # type: ignore[assignment]
    return dict(found)


@dataclass
class RandomTarget:
    """Draws from WEIGHTS by the last token; verifies by TensorRT-LLM's rules, with the draft's probabilities or not."""

    shows_end_id: bool
    random: Random
    accepts_by_ratio: bool

    def generate(self, sequence: Sequence, count: int) -> Generator[Piece, None, None]:
        return (Piece([token]) for token in self._shown(self._walk(_last(sequence), count)))

    def verify(self, sequence: Sequence, draft: Draft) -> Piece:
        tokens: list[int] = []
        last = _last(sequence)
        for guess in draft.tokens:
            token = self._judged(last, guess)
            tokens.append(token)
            last = token
            if token != guess or token == END:
                return Piece(self._shown(iter(tokens)))
        return Piece(self._shown(iter([*tokens, self._draw(last)])))

    def _judged(self, last: int, guess: int) -> int:
        if not self.accepts_by_ratio:
            return self._draw(last)
        drafted = [GUESSES[last][token] / sum(GUESSES[last]) for token in range(3)]
        if self.random.random() <= probability(last, guess) / drafted[guess]:
            return guess
        rest = [max(probability(last, token) - drafted[token], 0.0) for token in range(3)]
        return self.random.choices(range(3), rest)[0]

    def _walk(self, last: int, count: int) -> Iterator[int]:
        for _ in range(count):
            last = self._draw(last)
            yield last

    def _draw(self, last: int) -> int:
        return self.random.choices(range(3), WEIGHTS[last])[0]

    def _shown(self, tokens: Iterator[int]) -> list[int]:
        shown: list[int] = []
        for token in tokens:
            if token == END:
                return shown + [token] * self.shows_end_id
            shown.append(token)
        return shown


GUESSES = {0: (1, 8, 2), 1: (3, 3, 3), 2: (1, 1, 1)}


def _last(of: Sequence) -> int:
    return int(of.tokens(of.num_tokens - 1, of.num_tokens)[0])


@pytest.mark.parametrize("shows_end_id", [True, False])
@pytest.mark.parametrize("accepts_by_ratio", [True, False])
def test_at_random_the_answers_have_the_targets_distribution(shows_end_id: bool, accepts_by_ratio: bool) -> None:
    random = Random(5)
    target = RandomTarget(shows_end_id, random, accepts_by_ratio)

    def guess(known: list[int], count: int) -> list[int] | None:
        drawn: list[int] = []
        for _ in range(count):
            drawn.append(random.choices(range(3), GUESSES[[*known, *drawn][-1]])[0])
        return drawn if accepts_by_ratio or random.random() < 0.8 else None

    def answer() -> tuple[int, ...]:
        of = sequence([0], LIMIT, END)
        run = Rounds(
            sequence=of,
            target=target,
            drafter=ScriptedDrafter(guess),
            length=ScriptedLength(lengths=[2, 0, 1, 3]) if random.random() < 0.5 else ScriptedLength(lengths=[1, 2]),
            most=3,
            is_greedy=False,
        )
        tokens = tuple(token for piece in run.pieces() for token in piece.tokens)
        assert of.finish_reason is (
            FinishReason.STOP if (shows_end_id and END in tokens) or len(tokens) < LIMIT else FinishReason.LENGTH
        )
        return tokens

    expected = outcomes(shows_end_id=shows_end_id)
    seen = Counter(answer() for _ in range(RUNS))
    assert seen.keys() <= expected.keys()
    result = chisquare([seen[text] for text in expected], [RUNS * chance for chance in expected.values()])
    assert result.pvalue > 1e-4, seen
