"""One sequence on its way from the engine to the sender: tokens that wait to be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_backend.engine.sampling import TokenDetails
from python_backend.errors import SlipstreamError
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.triton.answer import Answer, Pending


@dataclass(eq=False, slots=True, kw_only=True)
class Stream:
    """State of one sequence; the engine's thread adds tokens and the sender's takes them, under the sender's lock.

    ``answer`` belongs to the sender's thread alone.
    """

    sequence: Sequence
    answer: Answer
    is_watched: bool  # told or not, each token is looked at when it comes: it may complete a stop word
    tokens: list[int] = field(default_factory=list)
    details: list[TokenDetails] = field(default_factory=list)
    finish: FinishReason | None = None
    refusal: SlipstreamError | None = None  # why the sequence never ran
    fault: SlipstreamError | None = None  # why it failed while it ran
    queued: bool = False  # stands in the sender's queue
    first_token_s: float | None = None
    last_token_s: float = 0.0

    def add(self, tokens: list[int], details: TokenDetails | None, finish: FinishReason | None, at_s: float) -> None:
        """Note what a step brought."""
        if tokens:
            self.tokens += tokens
            self.last_token_s = at_s
            if self.first_token_s is None:
                self.first_token_s = at_s
        if details is not None:
            self.details.append(details)
        self.finish = finish

    @property
    def is_due(self) -> bool:
        """Whether the sender has something to do."""
        return self.finish is not None or (self.is_watched and bool(self.tokens))

    def take(self) -> Pending:
        """All that waits, however many steps it came from."""
        pending = Pending(self.tokens, self.details, self.finish, self.first_token_s, self.last_token_s)
        self.tokens, self.details = [], []
        return pending
