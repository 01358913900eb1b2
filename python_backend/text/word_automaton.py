"""Many words looked for at once in a sequence that grows, symbol by symbol (Aho and Corasick, 1975)."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

Symbol = TypeVar("Symbol", bound=Hashable)


class WordAutomaton(Generic[Symbol]):
    """The words of one request, compiled; it holds no progress, so many sequences may share it.

    A state is the longest end of what was read that begins a word: ``depth[state]`` is its length, and
    ``match[state]`` the index of the longest word that ends there, or None. Reading starts in state 0.
    Words are not empty; of equal ones the first counts.
    """

    __slots__ = ("_edges", "_fallback", "depth", "match")

    def __init__(self, words: Sequence[Sequence[Symbol]]) -> None:
        self._edges: list[dict[Symbol, int]] = [{}]
        self._fallback: list[int] = [0]
        self.depth: list[int] = [0]
        self.match: list[int | None] = [None]
        for index, word in enumerate(words):
            self._add(index, word)
        self._link()

    @property
    def first_symbols(self) -> frozenset[Symbol]:
        """The symbols with which a word begins: any other leaves state 0 as it is."""
        return frozenset(self._edges[0])

    def step(self, state: int, symbol: Symbol) -> int:
        """The state after one more symbol; constant time on average."""
        while True:
            following = self._edges[state].get(symbol)
            if following is not None:
                return following
            if state == 0:
                return 0
            state = self._fallback[state]

    def _add(self, index: int, word: Sequence[Symbol]) -> None:
        state = 0
        for symbol in word:
            following = self._edges[state].get(symbol)
            if following is None:
                following = len(self._edges)
                self._edges[state][symbol] = following
                self._edges.append({})
                self._fallback.append(0)
                self.depth.append(self.depth[state] + 1)
                self.match.append(None)
            state = following
        if self.match[state] is None:
            self.match[state] = index

    def _link(self) -> None:
        """Find each state's fallback, the next shorter end that begins a word; it is less deep, hence known first."""
        states = deque(self._edges[0].values())
        while states:
            state = states.popleft()
            for symbol, child in self._edges[state].items():
                self._fallback[child] = self.step(self._fallback[state], symbol)
                states.append(child)
            if self.match[state] is None:
                self.match[state] = self.match[self._fallback[state]]
