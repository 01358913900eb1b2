"""What guesses tokens inside the engine's loop, for the step that computes the next ones to verify."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from python_backend.scheduling.sequence import Sequence
from python_backend.scheduling.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class DraftStatistics:
    """How drafting goes, smoothed over the latest steps that somebody wanted drafts in."""

    acceptance_rate: float = 0.0  #: accepted draft tokens of those verified
    draft_length: float = 0.0  #: draft tokens a step of each sequence that takes them, steps without any included
    speedup: float = 1.0  #: tokens per second over what steps without drafts would have brought, by what steps cost


class Drafter(Protocol):
    """Called by the engine's thread alone, between steps. It may look at sequences, and sets only their ``draft``.

    One that raises is dropped for good: the engine goes on without drafts.
    """

    @property
    def statistics(self) -> DraftStatistics:
        """Thread-safe."""
        ...

    def draft(self, running: Many[Sequence], context_tokens: int) -> None:
        """Set the draft of those sequences for which guessing is worth its price. Called before every step.

        ``running`` is all that runs: in a draft go at most ``max_draft_tokens`` (0: none) and
        ``remaining_tokens - 1`` tokens, and only into sequences in generation phase that have none yet. The step is
        going to compute up to ``context_tokens`` besides, for contexts that run or wait.
        """
        ...

    def verified(self, plan: StepPlan) -> None:
        """A step is over that verified the drafts in its plan."""
        ...
