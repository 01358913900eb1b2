"""How often a proposer is right about a sequence: the chance that one more of its tokens is accepted.

It depends on the run: how many tokens in a row have agreed with the proposer's source by then. After two, every other
guess is right, in any kind of text; after two dozen, the text is being copied, and hardly any is wrong.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt

LONGEST_RUN = 24
"""Longer ones count as that long."""
_KINDS = (2, 3, 4, 5, 6, 8, 12, 16, LONGEST_RUN)  # runs from each of these on, to the next, are counted together
MEMORY = 0.9  # weight of an observation after one more of its kind
PRIOR_WEIGHT = 8.0
POOL_MEMORY = 0.999
#: Of a proposer nobody has seen yet. N-grams': measured over copies, code and open chat of the demo model.
#: A draft model's: about the demo's own.
NGRAM_RATES = (0.45, 0.55, 0.70, 0.75, 0.82, 0.83, 0.90, 0.94, 0.96, 0.98)
DRAFT_MODEL_RATES = (0.4,) * 10
FIRST_WEIGHT = 20.0


class AcceptanceRate:
    """Of one proposer over all sequences, by run; the prior for those it has not guessed for yet."""

    def __init__(self, first: Many[float]) -> None:
        assert len(first) == len(_KINDS) + 1, f"{len(first)} rates for {len(_KINDS) + 1} kinds of runs"
        self._right = [rate * FIRST_WEIGHT for rate in first]
        self._seen = [FIRST_WEIGHT] * len(first)

    def of(self, kind: int) -> float:
        return self._right[kind] / self._seen[kind]

    def add(self, kind: int, right: bool) -> None:
        self._right[kind] = self._right[kind] * POOL_MEMORY + right
        self._seen[kind] = self._seen[kind] * POOL_MEMORY + 1


class SequenceAcceptance:
    """Of one proposer for one sequence: exponentially weighted over its tokens, those before the first wrong one."""

    __slots__ = ("_pool", "_right", "_seen")

    def __init__(self, pool: AcceptanceRate) -> None:
        self._pool = pool
        self._right = [0.0] * (len(_KINDS) + 1)
        self._seen = [0.0] * (len(_KINDS) + 1)

    def rate(self, run: int) -> float:
        """The chance that the next token is right when that many in a row have been."""
        return self._of(bisect(_KINDS, run))

    def chances(self, run: int, count: int) -> npt.NDArray[np.float64]:
        """The chance that the first 1, 2, ... ``count`` tokens of a guess are all right."""
        kinds = [bisect(_KINDS, run + index) for index in range(count)]
        rates = {kind: self._of(kind) for kind in set(kinds)}
        return np.cumprod([rates[kind] for kind in kinds])

    def add(self, run: int, right: int, wrong: int) -> None:
        """Behind that run so many tokens were right, and then came a wrong one (1), or the end of what is known."""
        assert wrong in (0, 1), f"{wrong} wrong tokens in a row"
        for index in range(right + wrong):
            kind = bisect(_KINDS, run + index)
            self._right[kind] = self._right[kind] * MEMORY + (index < right)
            self._seen[kind] = self._seen[kind] * MEMORY + 1
            self._pool.add(kind, index < right)

    def _of(self, kind: int) -> float:
        return (self._right[kind] + PRIOR_WEIGHT * self._pool.of(kind)) / (self._seen[kind] + PRIOR_WEIGHT)
