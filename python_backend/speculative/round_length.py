"""How many tokens to draft in a round, from what rounds and plain generation have been seen to take.

Goodput (Liu et al., "Optimizing Speculative Decoding for Serving Large Language Models Using Goodput", 2024): the
length is taken that promises the most tokens a second, and none where plain generation promises more. Times are those
of whole calls, so a loaded engine, slow hops and an expensive draft model all show in them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from python_backend.engine.drafter import DraftStatistics

#: Rounds have to promise this much more than plain generation.
MARGIN = 1.05
#: What was measured holds no longer once the other way was chosen that often without a break: it is measured anew.
PLAIN_TURNS, ROUNDS = 32, 256
_KEPT = 0.9  # what a measurement still counts when the next one comes
_PRIOR_ACCEPTANCE = 0.7


@dataclass(slots=True)
class Acceptance:
    """Probability that a draft token is accepted, given that those before it were; one request's, as far as known."""

    rate: float = _PRIOR_ACCEPTANCE

    def observe(self, drafted: int, accepted: int) -> None:
        """A round accepted that many of its draft tokens."""
        judged = min(accepted + 1, drafted)  # what follows the first rejected token was not judged
        for index in range(judged):
            self.rate = _KEPT * self.rate + (1 - _KEPT) * (index < accepted)

    def forget(self) -> None:
        """A while without drafts: what was known of them counts less."""
        self.rate += (_PRIOR_ACCEPTANCE - self.rate) / 4

    def tokens(self, drafted: int) -> float:
        """Tokens that a round is expected to bring, the target's own among them."""
        return sum(self.rate**index for index in range(drafted + 1))


@dataclass(slots=True)
class _Line:
    """Seconds of a round over its draft length: a straight line through what was seen, old rounds counting less."""

    count: float = 0.0
    lengths: float = 0.0
    squares: float = 0.0
    seconds: float = 0.0
    products: float = 0.0

    def observe(self, length: int, seconds: float) -> None:
        for name, value in (("count", 1.0), ("lengths", length), ("squares", length * length)):
            setattr(self, name, _KEPT * getattr(self, name) + value)
        self.seconds = _KEPT * self.seconds + seconds
        self.products = _KEPT * self.products + seconds * length

    def at(self, length: int, slope: float) -> float:
        """``slope`` is what is assumed while all rounds had about the same length.

        Never is a line let fall, nor so steep that nothing is left for the token of the target's own.
        """
        mean_length, mean_s = self.lengths / self.count, self.seconds / self.count
        spread = self.squares / self.count - mean_length**2
        if spread > 0.25:
            slope = max((self.products / self.count - mean_length * mean_s) / spread, 0.0)
        slope = min(slope, mean_s / (mean_length + 1))
        return max(mean_s + slope * (length - mean_length), 1e-9)


@dataclass(slots=True)
class RoundLength:
    """Chooses draft lengths for all requests of a model. Thread-safe."""

    _rounds: _Line = field(default_factory=_Line)
    _plain_s: float | None = None  # a token of plain generation
    _plain_turns: int = 0  # chosen since the last round
    _rounds_since_plain: int = 0
    _accepted: float = 0.0  # as the sums of the line
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def observe_round(self, drafted: int, accepted: int, seconds: float) -> None:
        """A round with that many draft tokens took that long, drafting included."""
        with self._lock:
            self._rounds.observe(drafted, seconds)
            self._accepted = _KEPT * self._accepted + accepted
            self._plain_turns = 0
            self._rounds_since_plain += 1
            if self._rounds_since_plain >= ROUNDS:
                self._plain_s = None

    def observe_plain(self, tokens: int, seconds: float) -> None:
        """That many tokens came in that time without drafts, after the first one."""
        with self._lock:
            seen = seconds / tokens
            self._plain_s = seen if self._plain_s is None else _KEPT * self._plain_s + (1 - _KEPT) * seen
            self._rounds_since_plain = 0

    def choose(self, acceptance: Acceptance, most: int) -> int:
        """The best length up to ``most``; 0: generate plainly for a while."""
        with self._lock:
            if self._plain_s is None or most < 1:
                return 0
            if not self._rounds.count:
                return min(most, 4)
            rates = [
                acceptance.tokens(length) / self._rounds.at(length, slope=self._plain_s / 8)
                for length in range(1, most + 1)
            ]
            best = max(rates)
            if best * self._plain_s > MARGIN:
                return rates.index(best) + 1
            self._plain_turns += 1
            if self._plain_turns >= PLAIN_TURNS:
                self._rounds, self._plain_turns, self._accepted = _Line(), 0, 0.0
            return 0

    @property
    def statistics(self) -> DraftStatistics:
        """Of the latest rounds."""
        with self._lock:
            rounds = self._rounds
            if not rounds.count:
                return DraftStatistics()
            gained = (rounds.count + self._accepted) / rounds.seconds * self._plain_s if self._plain_s else 1.0
            return DraftStatistics(self._accepted / rounds.lengths, rounds.lengths / rounds.count, gained)
