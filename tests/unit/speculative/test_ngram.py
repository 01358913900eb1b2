"""Look-up in the text, next to the obvious scan of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.scheduling.sequence import Sequence
from python_backend.speculative.acceptance import LONGEST_RUN
from python_backend.speculative.ngram import NgramIndex, NgramProposer

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=40)  # few tokens, so that they come back


def scan(text: list[int], max_ngram: int, min_ngram: int) -> int | None:
    """How far before the end of the text stands what followed its longest n-gram, where that stood last."""
    for n in range(min(max_ngram, len(text) - 1), min_ngram - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[-n:]:
                return len(text) - start - n
    return None


def agreeing(text: list[int], shift: int) -> int:
    """How many tokens at the end of the text are those before the place."""
    run = 0
    while run < min(len(text) - shift, LONGEST_RUN) and text[-1 - run] == text[-1 - run - shift]:
        run += 1
    return run


def guess(text: list[int], shift: int, count: int) -> list[int]:
    """The tokens from the place on; behind the end of the text, the text as guessed so far."""
    guessed = list(text)
    for _ in range(count):
        guessed.append(guessed[-shift])
    return guessed[len(text) :]


@given(text=TEXTS, pieces=st.lists(TEXTS, max_size=5), count=st.integers(1, 12), n=st.tuples(*[st.integers(1, 5)] * 2))
def test_the_index_finds_what_a_scan_finds_however_the_text_grows(
    text: list[int], pieces: list[list[int]], count: int, n: tuple[int, int]
) -> None:
    shortest, longest = sorted(n)
    index = NgramIndex(list(text), max_ngram=longest, min_ngram=shortest)
    shift = None  # how far before the end of the text the place is that is being copied
    for piece in [[], *pieces]:
        index.extend(piece)
        text = text + piece
        assert len(index) == len(text)
        places = [shift, scan(text, longest, shortest)]
        runs = [0 if place is None else agreeing(text, place) for place in places]
        # The place that is being copied is left only for one where more agrees.
        shift, run = (places[1], runs[1]) if runs[1] > runs[0] else (places[0], runs[0])
        assert index.follow(count) == (guess(text, shift, count) if shift is not None and run else [])
        assert index.run == run


def test_after_a_changed_token_the_guess_goes_on_behind_it() -> None:
    index = NgramIndex([1, 2, 3, 4, 5, 6, 7, 8], max_ngram=3, min_ngram=2)
    index.extend([1, 2, 3])
    assert index.follow(3) == [4, 5, 6]
    index.extend([9])
    assert index.follow(3) == []
    index.extend([5])  # one token alone: too little to be looked up
    assert (index.follow(3), index.run) == ([6, 7, 8], 1)


def test_of_places_where_as_much_agrees_the_one_that_was_copied_counts() -> None:
    index = NgramIndex([1, 2, 3, 4, 5, 4, 6], max_ngram=3, min_ngram=1)
    index.extend([1, 2])
    assert index.follow(1) == [3]
    index.extend([9, 4])
    assert index.follow(1) == [5]


def test_a_proposer_follows_the_output_of_each_sequence() -> None:
    proposer = NgramProposer(max_ngram=3, min_ngram=1)
    one = Sequence(id="one", prompt=np.array([1, 2, 3, 4, 1, 2]), max_new_tokens=9)
    other = Sequence(id="other", prompt=np.array([7, 8, 9]), max_new_tokens=9)
    assert proposer.propose([(other, 3), (one, 3)]) == [[], [3, 4, 1]]
    one.output, other.output = [3], [7, 8]
    assert proposer.propose([(one, 2), (other, 1)]) == [[4, 1], [9]]
    assert [proposer.run(sequence) for sequence in (one, other)] == [3, 2]


def test_a_text_that_repeats_itself_is_guessed_to_go_on_so() -> None:
    sequence = Sequence(id="", prompt=np.array([5, 1, 2, 1, 2]), max_new_tokens=9)
    assert NgramProposer(min_ngram=2).propose([(sequence, 5)]) == [[1, 2, 1, 2, 1]]


def test_what_is_forgotten_is_read_anew() -> None:
    proposer = NgramProposer(min_ngram=1)
    sequence = Sequence(id="", prompt=np.array([1, 2, 1]), max_new_tokens=9)
    proposer.forget(sequence)
    assert proposer.propose([(sequence, 1)]) == [[2]]
    proposer.forget(sequence)
    sequence.output = [2, 2]
    assert proposer.propose([(sequence, 1)]) == [[2]]


@pytest.mark.parametrize(("longest", "shortest"), [(2, 3), (2, 0)])
def test_lengths_that_make_no_sense_are_no_lengths(longest: int, shortest: int) -> None:
    with pytest.raises(AssertionError):
        NgramProposer(max_ngram=longest, min_ngram=shortest)
