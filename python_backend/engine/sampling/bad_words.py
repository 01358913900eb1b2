"""Words that may not be completed."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np


class BadWords:
    """Which tokens to ban next, given the tokens so far.

    TensorRT-LLM: banBadWords. A word of one token is always banned; the last token of a longer one where the others
    stand before it, be it in the prompt or in the output. Its kernel never bans token 0; here every token can be.
    """

    def __init__(self, words: Many[tuple[int, ...]]) -> None:
        self.always = np.unique(np.array([word[0] for word in words if len(word) == 1], np.int64))
        self.longest_start = max(len(word) for word in words) - 1
        """Tokens that have to be known to decide."""
        self._starts: dict[int, list[tuple[list[int], int]]] = {}
        for word in words:
            if len(word) > 1:
                self._starts.setdefault(word[-2], []).append((list(word[:-1]), word[-1]))

    def completing(self, tokens: list[int]) -> list[int]:
        """Last tokens of the longer words whose start is what ``tokens`` ends with."""
        starts = self._starts.get(tokens[-1], ()) if tokens else ()
        return [last for start, last in starts if tokens[-len(start) :] == start]
