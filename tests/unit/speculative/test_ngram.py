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


def scan(text: list[int], count: int, max_ngram: int, min_ngram: int) -> tuple[list[int], int]:
    """What followed the longest n-gram at the end where it stood last; behind the end, the text as guessed so far.

    And how many tokens before that place are those at the end.
    """
    for n in range(min(max_ngram, len(text) - 1), min_ngram - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[-n:]:
                guessed = list(text)
                for place in range(start + n, start + n + count):
                    guessed.append(guessed[place])
                run = n
                while run < min(start + n, LONGEST_RUN) and text[start + n - run - 1 :][:1] == text[-run - 1 :][:1]:
                    run += 1
                return guessed[len(text) :], run
    return [], 0


@given(text=TEXTS, pieces=st.lists(TEXTS, max_size=5), count=st.integers(1, 12), n=st.tuples(*[st.integers(1, 5)] * 2))
def test_the_index_finds_what_a_scan_finds_however_the_text_grows(
    text: list[int], pieces: list[list[int]], count: int, n: tuple[int, int]
) -> None:
    shortest, longest = sorted(n)
    index = NgramIndex(list(text), max_ngram=longest, min_ngram=shortest)
    for piece in [[], *pieces]:
        index.extend(piece)
        text = text + piece
        assert len(index) == len(text)
        guess, run = scan(text, count, longest, shortest)
        assert index.follow(count) == guess
        assert not guess or index.run == run


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
