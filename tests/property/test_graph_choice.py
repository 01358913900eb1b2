"""Copies of a compiled model are used so that the latest step sizes, as many as there are copies, stay prepared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from python_backend.engine.openvino_graph import GraphChoice, OpenVinoGraph


@given(st.integers(1, 4), st.lists(st.integers(1, 6)))
def test_the_latest_sizes_stay_prepared(copies: int, steps: list[int]) -> None:
    graphs = [cast(OpenVinoGraph, SimpleNamespace(tokens=0)) for _ in range(copies)]
    choice = GraphChoice(list(graphs))
    for number, tokens in enumerate(steps):
        before = list(dict.fromkeys(reversed(steps[:number])))  # sizes, the latest first
        graph = choice.of(tokens)
        assert (graph.tokens == tokens) == (tokens in before[:copies])
        graph.tokens = tokens
