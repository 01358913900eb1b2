"""What a load generator notes of one request. Times are readings of one monotonic clock, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """One response: when it came, and how many tokens it brought."""

    received_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One answered request: when it was sent, its prompt's length, and every response that brought tokens.

    ``text`` is the answer, where the load generator reads it.
    """

    sent_s: float
    input_tokens: int
    arrivals: tuple[Arrival, ...]
    text: str = ""

    def __post_init__(self) -> None:
        if not self.arrivals or any(arrival.tokens < 1 for arrival in self.arrivals):
            raise ValueError("a record needs at least one response, and each must bring a token.")

    @property
    def duration_s(self) -> float:
        """Until the last token came."""
        return self.arrivals[-1].received_s - self.sent_s

    @property
    def output_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(arrival.tokens for arrival in self.arrivals)
