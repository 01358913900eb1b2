"""How often a proposer is right about a sequence: the chance that one more of its tokens is accepted."""

from __future__ import annotations

MEMORY = 0.9  # weight of an observation after one more
PRIOR_WEIGHT = 2.0
POOL_MEMORY = 0.999
FIRST_RATE = 0.5  # of a proposer nobody has seen yet: n-gram's, measured over copying, code and open chat
FIRST_WEIGHT = 20.0


class AcceptanceRate:
    """Of one proposer over all sequences; the prior for those it has not guessed for yet."""

    def __init__(self) -> None:
        self._right, self._seen = FIRST_RATE * FIRST_WEIGHT, FIRST_WEIGHT

    @property
    def rate(self) -> float:
        return self._right / self._seen

    def add(self, right: int, wrong: int) -> None:
        weight = POOL_MEMORY ** (right + wrong)
        self._right = self._right * weight + right
        self._seen = self._seen * weight + right + wrong


class SequenceAcceptance:
    """Of one proposer for one sequence: exponentially weighted over its tokens, those before the first wrong one.

    It forgets fast, within some ten tokens, since what matters is whether the text is being copied just now. Before
    anything is known it is taken for half as good as others: guesses are scored at no cost before any is verified.
    """

    __slots__ = ("_pool", "_right", "_seen")

    def __init__(self, pool: AcceptanceRate) -> None:
        self._pool = pool
        self._right = self._seen = 0.0

    @property
    def rate(self) -> float:
        return (self._right + PRIOR_WEIGHT * self._pool.rate / 2) / (self._seen + PRIOR_WEIGHT)

    def add(self, right: int, wrong: int) -> None:
        """So many tokens were right, one after another, and then came a wrong one (1), or the end of what is known."""
        assert wrong in (0, 1), f"{wrong} wrong tokens in a row"
        geometric = (1 - MEMORY**right) / (1 - MEMORY)
        kept = MEMORY ** (right + wrong)
        self._right = self._right * kept + geometric * MEMORY**wrong
        self._seen = self._seen * kept + geometric * MEMORY**wrong + wrong
        self._pool.add(right, wrong)
