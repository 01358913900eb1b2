"""Where one sequence stands in its grammar."""

from __future__ import annotations

from collections.abc import Sequence as Many
from itertools import takewhile

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from python_backend.engine.sampling.state import GuideFault

BoolRow = npt.NDArray[np.bool_]


class GuideMatcher:
    """Says which tokens may follow. All of it follows from the output tokens, so a pause needs no care.

    Use it from one thread at a time.
    """

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer, vocab_size: int, end_id: int) -> None:
        self.end_id = end_id
        """Allowed where the grammar is complete, and nothing but it where no more may follow."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._tokenizer_end_id = tokenizer.eos_token
        self._bits = allocate_token_bitmask(1, tokenizer.vocab_size)
        self._followed = 0  # output tokens that the matcher knows of

    @property
    def is_complete(self) -> bool:
        """The output known so far is all of what the grammar describes, and may end here."""
        return self._matcher.is_accepting()

    def follow(self, output: Many[int]) -> None:
        """Take note of the output tokens that have come since the last call; ``output`` holds all of them.

        Raises GuideFault when they break the grammar.
        """
        new = list(output[self._followed :])
        self._followed += len(new)
        if self._matcher.try_consume_tokens(new) < len(new):
            raise self._fault(f"tokens {new} cannot follow, or not within the limits on work")

    def allowed(self, draft: Many[int] = ()) -> BoolRow:
        """Which tokens may follow the output and ``draft``, [vocabulary]; at least one of them.

        Behind a draft that breaks the grammar, what may follow the last token that does not. Raises GuideFault when
        finding out takes more work than llguidance takes on.
        """
        # Nothing follows an end, and the matcher does not count its own end_id among what it can take back.
        ends = (self.end_id, self._tokenizer_end_id)
        taken = self._matcher.try_consume_tokens(list(takewhile(lambda token: token not in ends, draft)))
        fill_next_token_bitmask(self._matcher, self._bits)
        row = np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little").view(np.bool_)[: self._vocab_size]
        row[self._tokenizer_end_id] = False
        if self._matcher.is_accepting():
            row[self.end_id] = True
        if self._matcher.is_error() or not row.any():
            raise self._fault("no token can follow")
        if taken:
            self._matcher.rollback(taken)
        return row

    def _fault(self, reason: str) -> GuideFault:
        reason = self._matcher.get_error().split("\n", 1)[0] or reason
        return GuideFault(f"guided decoding cannot go on: {reason}. Simplify the guide.")
