from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.errors import InvalidRequest
from python_backend.scheduling import Sequence

TOKENS = st.lists(st.integers(0, 2**31), max_size=8)


@given(prompt=TOKENS.filter(bool), output=TOKENS, start=st.integers(0, 16), count=st.integers(0, 16))
def test_tokens_are_a_slice_of_prompt_and_output(prompt: list[int], output: list[int], start: int, count: int) -> None:
    sequence = Sequence(id="s", prompt=np.array(prompt), max_new_tokens=9, output=output)
    stop = min(start + count, sequence.num_tokens)
    start = min(start, stop)
    tokens = sequence.tokens(start, stop)
    assert tokens.tolist() == (prompt + output)[start:stop]
    assert tokens.dtype == np.int64


def test_equality_is_identity() -> None:
    first, second = (Sequence(id="same", prompt=np.array([1]), max_new_tokens=1) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2


def test_the_last_token_needs_no_room_in_the_cache() -> None:
    sequence = Sequence(id="s", prompt=np.array([1, 2, 3]), max_new_tokens=4)
    assert (sequence.max_tokens, sequence.max_kv_tokens) == (7, 6)


def test_it_shows_what_a_debugger_wants_to_know() -> None:
    sequence = Sequence(id="a", prompt=np.array([1, 2, 3]), max_new_tokens=4, output=[5], computed=3)
    assert repr(sequence) == "Sequence('a', waiting, kv=3/4, out=1/4, blocks=0)"


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ([], r"float64 of shape \[0\]"),
        ([[1, 2]], r"int64 of shape \[1, 2\]"),
        ([1.5], r"float64 of shape \[1\]"),
    ],
)
def test_a_prompt_must_be_one_row_of_tokens(prompt: list[int], what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        Sequence(id="s", prompt=np.array(prompt), max_new_tokens=1)


def test_at_least_one_token_must_be_asked_for() -> None:
    with pytest.raises(InvalidRequest, match="max_new_tokens is 0"):
        Sequence(id="s", prompt=np.array([1]), max_new_tokens=0)


@pytest.mark.parametrize("priority", [-0.1, 1.1, float("nan")])
def test_priority_lies_between_zero_and_one(priority: float) -> None:
    with pytest.raises(InvalidRequest, match="between 0 and 1"):
        Sequence(id="s", prompt=np.array([1]), max_new_tokens=1, priority=priority)
