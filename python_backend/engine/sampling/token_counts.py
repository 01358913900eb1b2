"""How often each token occurs in a sequence."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class TokenCounts:
    """Of the tokens that occur at all, so that a penalty touches those and not the whole vocabulary."""

    def __init__(self, tokens: npt.NDArray[np.int64]) -> None:
        ids, counts = np.unique(tokens, return_counts=True)
        self._size = ids.size
        self._ids = ids
        self._counts = counts.astype(np.float32)
        self._place = {token: place for place, token in enumerate(ids.tolist())}

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """[N], each once."""
        return self._ids[: self._size]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """[N], each at least 1."""
        return self._counts[: self._size]

    def add(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            place = self._place.get(token)
            if place is None:
                self._append(token)
            else:
                self._counts[place] += 1

    def take_back(self, tokens: list[int]) -> None:
        """Undo the latest ``add`` of these tokens."""
        for token in reversed(tokens):
            place = self._place[token]
            if self._counts[place] == 1:  # It came last: what came after it is gone already.
                self._size -= 1
                del self._place[token]
            else:
                self._counts[place] -= 1

    def _append(self, token: int) -> None:
        if self._size == self._ids.size:
            room = max(16, self._size)
            self._ids = np.concatenate((self._ids, np.empty(room, self._ids.dtype)))
            self._counts = np.concatenate((self._counts, np.empty(room, np.float32)))
        self._place[token] = self._size
        self._ids[self._size], self._counts[self._size] = token, 1
        self._size += 1
