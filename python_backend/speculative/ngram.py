"""Prompt lookup: where the newest tokens stood before in prompt or output, what followed them then is the guess.

Saxena, "Prompt Lookup Decoding", 2023; TensorRT-LLM calls it NGram decoding.
"""

from __future__ import annotations

from collections.abc import Sequence as Many

from python_backend.scheduling.sequence import Sequence
from python_backend.speculative.acceptance import LONGEST_RUN

MAX_NGRAM = 6
MIN_NGRAM = 2


class NgramIndex:
    """The tokens of one text, where each of its n-grams stood last, and the place that is being copied.

    That place goes on through a disagreement, for an edit often changes one token: what follows it there is a guess
    again as soon as one token agrees. ``extend`` costs O(max_ngram - min_ngram) dictionary entries a token, ``follow``
    as many look-ups.
    """

    def __init__(self, tokens: list[int], *, max_ngram: int, min_ngram: int) -> None:
        self._tokens = tokens
        self._lengths = range(max_ngram, min_ngram - 1, -1)
        # An n-gram counts once a token follows it: range() ends before the last one, and zip() with it.
        self._behind = {
            n: dict(zip(zip(*(tokens[i:] for i in range(n)), strict=False), range(n, len(tokens)), strict=False))
            for n in self._lengths
        }
        self._place = 0  # of the token that comes next, if the text goes on as before
        self.run = 0
        """Tokens in a row that agree before the place, up to ``LONGEST_RUN``; 0: there is no guess."""

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Many[int]) -> None:
        """The text goes on."""
        text = self._tokens
        for token in tokens:
            end = len(text)
            for n in self._lengths:
                if n <= end:
                    self._behind[n][tuple(text[end - n :])] = end
            if self._place:
                self.run = min(self.run + 1, LONGEST_RUN) if text[self._place] == token else 0
                self._place += 1
            text.append(token)

    def follow(self, count: int) -> list[int]:
        """What may come next: ``count`` tokens, or none.

        They are what followed the longest n-gram that the text ends with, where that stood last, unless as many tokens
        agree with the place that was followed before. Where a place runs into the end of the text, the text repeats
        itself, and the guess is that it goes on to.
        """
        text = self._tokens
        if self.run < LONGEST_RUN:
            self._look_up()
        found = text[self._place : self._place + count] if self.run else []
        while found and len(found) < count:
            found += found[: count - len(found)]
        return found

    def _look_up(self) -> None:
        """Go to the latest place of the longest n-gram, if more agrees there."""
        text = self._tokens
        for n in self._lengths:
            behind = self._behind[n].get(tuple(text[-n:]))
            if behind is not None:
                run = self._agreeing(behind, n)
                if run > self.run:
                    self._place, self.run = behind, run
                return

    def _agreeing(self, behind: int, known: int) -> int:
        """Tokens before that place that are those at the end of the text; so many are ``known`` to be."""
        text, run = self._tokens, known
        most = min(LONGEST_RUN, behind)
        while run < most and text[behind - 1 - run] == text[-1 - run]:
            run += 1
        return run


class NgramProposer:
    """A ``Proposer`` that looks guesses up in the sequence's own text.

    The defaults were measured on the demo model: over copying, summaries, code and open chat, one token alone is right
    too seldom to be worth a row, and beyond six nothing more is gained. The latest occurrence does as well as the most
    frequent continuation, within 1 %.
    """

    def __init__(self, *, max_ngram: int = MAX_NGRAM, min_ngram: int = MIN_NGRAM) -> None:
        assert 1 <= min_ngram <= max_ngram, f"{min_ngram}- to {max_ngram}-grams"
        self._max_ngram, self._min_ngram = max_ngram, min_ngram
        self._indexes: dict[Sequence, NgramIndex] = {}

    def propose(self, wanted: Many[tuple[Sequence, int]]) -> list[list[int]]:
        """See ``Proposer.propose``: as many as wanted, or none."""
        return [self._index(sequence).follow(count) for sequence, count in wanted]

    def run(self, sequence: Sequence) -> int:
        """See ``Proposer.run``."""
        return self._indexes[sequence].run

    def cost_s(self, sequences: int, tokens: int) -> float:
        """Nothing beside a step: microseconds a sequence."""
        return 0.0

    def forget(self, sequence: Sequence) -> None:
        """See ``Proposer.forget``."""
        self._indexes.pop(sequence, None)

    def _index(self, sequence: Sequence) -> NgramIndex:
        index = self._indexes.get(sequence)
        if index is None:
            known = sequence.prompt.tolist() + sequence.output
            index = NgramIndex(known, max_ngram=self._max_ngram, min_ngram=self._min_ngram)
            self._indexes[sequence] = index
        elif len(index) < sequence.num_tokens:
            index.extend(sequence.output[len(index) - sequence.prompt_tokens :])
        return index
