"""Where draft tokens come from inside the engine: lookup of n-grams, or a draft model."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Protocol

from python_backend.scheduling.sequence import Sequence


class Proposer(Protocol):
    """Guesses how sequences go on. For one thread; it may look at sequences and changes nothing of them."""

    def propose(self, wanted: Many[tuple[Sequence, int]]) -> list[list[int]]:
        """At most that many tokens (1 or more) to follow each sequence's newest one, in the order of ``wanted``.

        Fewer, or none, where it has no guess.
        """
        ...

    def run(self, sequence: Sequence) -> int:
        """How many tokens in a row led to the latest guess for it: the more, the surer. 0: nothing is known of that."""
        ...

    def cost_s(self, sequences: int, tokens: int) -> float:
        """What ``propose`` takes for that many sequences and that many tokens each, in seconds."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended: drop whatever is kept for it."""
        ...
