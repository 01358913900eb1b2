"""The ``Drafter`` of the CPU engine: proposers, how often each is right, and the controller that weighs the price."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np

from python_backend.engine.drafter import DraftStatistics
from python_backend.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS, Recorder
from python_backend.scheduling.sequence import Sequence, SequenceState
from python_backend.scheduling.step_plan import StepEntry, StepPlan
from python_backend.speculative.acceptance import DRAFT_MODEL_RATES, NGRAM_RATES, AcceptanceRate, SequenceAcceptance
from python_backend.speculative.draft_length import Candidate, DraftLengthController, DraftLengths
from python_backend.speculative.proposer import Proposer
from python_backend.speculative.step_cost import StepCost

NGRAM, DRAFT_MODEL = "ngram", "draft_model"

PROBE_STEPS = 64  # without a guess of the draft model, though it could have made one
PROBE_ACCEPTANCE = 0.9  # that such a guess is taken to have: where not even that would pay, nothing is tried
SMOOTHING = 0.98  # weight of a step's figures after one more


@dataclass(slots=True)
class _Guess:
    """Tokens to come behind an output of that length."""

    by: str
    tokens: list[int]
    behind: int
    run: int = 0

    def right(self, output: list[int]) -> tuple[int, int]:
        """How many of the tokens that have come since it foresaw, and how many of them are known by now."""
        come = output[self.behind : self.behind + len(self.tokens)]
        return next((i for i, (a, b) in enumerate(zip(self.tokens, come, strict=False)) if a != b), len(come)), len(
            come
        )


@dataclass(slots=True)
class _Followed:
    """A sequence that takes drafts."""

    acceptance: dict[str, SequenceAcceptance]
    guess: _Guess | None = None

    def score(self, output: list[int]) -> None:
        """Compare the latest guess, verified or not, with what came."""
        if self.guess is not None:
            right, known = self.guess.right(output)
            self.acceptance[self.guess.by].add(self.guess.run, right, int(right < known))
            self.guess = None


@dataclass(slots=True)
class _Figures:
    """Sums over steps, the older the less."""

    verified: float = 0.0
    accepted: float = 0.0
    proposed: float = 0.0
    wanting: float = 0.0
    with_drafts: list[float] = field(default_factory=lambda: [0.0, 0.0])  # tokens, seconds
    without: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, choice: DraftLengths, wanting: int, verified: int, accepted: int) -> None:
        if verified:
            self.verified = self.verified * SMOOTHING + verified
            self.accepted = self.accepted * SMOOTHING + accepted
        self.proposed = self.proposed * SMOOTHING + sum(choice.lengths)
        self.wanting = self.wanting * SMOOTHING + wanting
        for sums, tokens, seconds in (
            (self.with_drafts, choice.tokens_without + accepted, choice.step_s),
            (self.without, choice.tokens_without, choice.step_without_s),
        ):
            sums[:] = sums[0] * SMOOTHING + tokens, sums[1] * SMOOTHING + seconds

    def statistics(self) -> DraftStatistics:
        tokens, seconds = self.with_drafts
        tokens_without, seconds_without = self.without
        return DraftStatistics(
            acceptance_rate=self.accepted / self.verified if self.verified else 0.0,
            draft_length=self.proposed / self.wanting,
            speedup=tokens / seconds * seconds_without / tokens_without,
        )


class EngineDrafter:
    """Drafts by look-up in the text, which is free, and by ``draft_model`` where there is nothing to look up.

    Looked-up guesses are made for every step and compared with what comes, also while none is verified: so acceptance
    stays known at no cost. A guess of the model costs time: where it was left alone for ``PROBE_STEPS``, it is tried.
    """

    def __init__(
        self,
        step_cost: StepCost,
        *,
        max_num_tokens: int,
        lookup: Proposer | None,
        draft_model: Proposer | None,
        recorder: Recorder,
    ) -> None:
        self._lookup = lookup
        self._model = draft_model
        self._controller = DraftLengthController(step_cost)
        self._max_num_tokens = max_num_tokens
        self._recorder = recorder
        self._rates = {NGRAM: AcceptanceRate(NGRAM_RATES), DRAFT_MODEL: AcceptanceRate(DRAFT_MODEL_RATES)}
        self._followed: dict[Sequence, _Followed] = {}
        self._drafted: dict[Sequence, _Guess] = {}  # on their way through the step
        self._choice: DraftLengths | None = None
        self._wanting = 0
        self._steps_without_model = 0
        self._figures = _Figures()
        self._statistics = DraftStatistics()

    @property
    def statistics(self) -> DraftStatistics:
        """See ``Drafter.statistics``."""
        return self._statistics

    def draft(self, running: Many[Sequence], context_tokens: int) -> None:
        """See ``Drafter.draft``."""
        self._forget_ended()
        self._choice = None
        wanting = [sequence for sequence in running if sequence.max_draft_tokens and _is_ready(sequence)]
        if not wanting:
            return
        guesses = self._look_up(wanting)
        able = wanting if self._model is not None else [sequence for sequence in wanting if sequence in guesses]
        self._choice = self._choose(running, context_tokens, able, guesses)
        self._wanting = len(wanting)
        chosen = [(sequence, length) for sequence, length in zip(able, self._choice.lengths, strict=True) if length]
        for sequence, length in chosen:
            if sequence in guesses:
                self._set(sequence, NGRAM, guesses[sequence].tokens[:length])
        self._draft_by_model([(sequence, length) for sequence, length in chosen if sequence not in guesses])

    def verified(self, plan: StepPlan) -> None:
        """See ``Drafter.verified``."""
        if self._choice is None and not self._drafted:
            return
        verified = accepted = 0
        for entry in plan.entries:
            guess = self._drafted.pop(entry.sequence, None)
            if guess is not None:
                tokens, right = self._count(entry, guess)
                verified, accepted = verified + tokens, accepted + right
        if self._choice is not None:
            self._figures.add(self._choice, self._wanting, verified, accepted)
            self._statistics = self._figures.statistics()
        self._forget_ended()

    def _look_up(self, wanting: list[Sequence]) -> dict[Sequence, _Guess]:
        """Score the guesses made before, and make new ones where look-up finds any."""
        for sequence in wanting:
            followed = self._followed.get(sequence)
            if followed is None:
                acceptance = {name: SequenceAcceptance(rate) for name, rate in self._rates.items()}
                self._followed[sequence] = _Followed(acceptance)
            else:
                followed.score(sequence.output)
        if self._lookup is None:
            return {}
        found = self._lookup.propose([(sequence, _limit(sequence)) for sequence in wanting])
        guesses = {}
        for sequence, tokens in zip(wanting, found, strict=True):
            if tokens:
                run = self._lookup.run(sequence)
                guesses[sequence] = _Guess(NGRAM, tokens[: _limit(sequence)], len(sequence.output), run)
                self._followed[sequence].guess = guesses[sequence]
        return guesses

    def _choose(
        self,
        running: Many[Sequence],
        context_tokens: int,
        able: list[Sequence],
        guesses: dict[Sequence, _Guess],
    ) -> DraftLengths:
        generating = [sequence for sequence in running if sequence.state is SequenceState.GENERATION]
        others = sum(len(sequence.draft) for sequence in generating) + context_tokens
        others = min(others, self._max_num_tokens - len(generating))
        probes = self._steps_without_model >= PROBE_STEPS
        return self._controller.choose(
            [self._candidate(sequence, guesses.get(sequence), probes) for sequence in able],
            generating=len(generating),
            context_tokens=others,
            budget=self._max_num_tokens - len(generating) - others,
            price_s=None if self._model is None else self._model.cost_s,
        )

    def _candidate(self, sequence: Sequence, guess: _Guess | None, probes: bool) -> Candidate:
        acceptance = self._followed[sequence].acceptance
        if guess is not None:
            return Candidate(acceptance[NGRAM].chances(guess.run, len(guess.tokens)))
        limit = _limit(sequence)
        chances = acceptance[DRAFT_MODEL].chances(0, limit)
        if probes:
            chances = np.maximum(chances, PROBE_ACCEPTANCE ** np.arange(1, limit + 1))
        return Candidate(chances, is_priced=True)

    def _draft_by_model(self, wanted: list[tuple[Sequence, int]]) -> None:
        if self._model is None:
            return
        self._steps_without_model = 0 if wanted else self._steps_without_model + 1
        if wanted:
            for (sequence, length), tokens in zip(wanted, self._model.propose(wanted), strict=True):
                self._set(sequence, DRAFT_MODEL, tokens[:length])

    def _set(self, sequence: Sequence, by: str, tokens: list[int]) -> None:
        if tokens:
            guess = _Guess(by, tokens, len(sequence.output))
            sequence.draft = tokens
            self._drafted[sequence] = guess
            if by != NGRAM:
                self._followed[sequence].guess = guess

    def _count(self, entry: StepEntry, guess: _Guess) -> tuple[int, int]:
        """How many tokens of the guess the step verified, and how many it accepted; none if nothing came of it."""
        tokens = len(entry.draft)
        if not tokens or len(entry.sequence.output) == guess.behind:
            return 0, 0
        accepted = min(guess.right(entry.sequence.output)[0], tokens)
        self._recorder.count(DRAFT_TOKENS, guess.by, tokens)
        self._recorder.count(ACCEPTED_DRAFT_TOKENS, guess.by, accepted)
        return tokens, accepted

    def _forget_ended(self) -> None:
        ended = [sequence for sequence in self._followed if sequence.state is SequenceState.FINISHED]
        for sequence in ended:
            del self._followed[sequence]
            self._drafted.pop(sequence, None)
            for proposer in (self._lookup, self._model):
                if proposer is not None:
                    proposer.forget(sequence)


def _is_ready(sequence: Sequence) -> bool:
    return sequence.state is SequenceState.GENERATION and not sequence.draft and sequence.remaining_tokens > 1


def _limit(sequence: Sequence) -> int:
    """The token behind an accepted draft is generated too."""
    return min(sequence.max_draft_tokens, sequence.remaining_tokens - 1)
