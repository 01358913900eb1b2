"""How many tokens to draft for each sequence of the next step: as many as bring the most tokens per second.

Liu et al., "Optimizing Speculative Decoding for Serving Large Language Models Using Goodput", 2024.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from python_backend.speculative.step_cost import Float64Array, StepCost

TO_START = 1.05  # times the tokens per second without drafts that those with drafts must promise
TO_GO_ON = 1.02
KEPT_FOR = 4  # steps that a size of steps with drafts is expected to serve, once the executor is prepared for it


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sequence that would take drafts."""

    chances: Float64Array
    """That the first 1, 2, ... tokens are all accepted; as many as may be drafted, 1 or more."""
    is_priced: bool = False
    """Its guess is yet to be made, and that costs time."""


@dataclass(frozen=True, slots=True)
class DraftLengths:
    """What was chosen for one step, and what it promises."""

    lengths: list[int]  #: by candidate; 0: none
    tokens: float  #: that the step is expected to bring
    step_s: float  #: what they cost, drafts included and context left out
    tokens_without: int
    step_without_s: float

    @property
    def speedup(self) -> float:
        """Tokens per second over those without drafts."""
        return self.tokens / self.step_s * self.step_without_s / self.tokens_without


class DraftLengthController:
    """Chooses lengths step by step. With hysteresis: to begin, drafts must promise 5 % more, to go on 2 %."""

    def __init__(self, step_cost: StepCost) -> None:
        self._cost = step_cost
        self._is_drafting = False
        self._kept: deque[int] = deque(maxlen=step_cost.kept_shapes)  # tokens of the latest steps, each once

    def choose(
        self,
        candidates: Many[Candidate],
        *,
        generating: int,
        context_tokens: int,
        budget: int,
        price_s: Callable[[int, int], float] | None = None,
    ) -> DraftLengths:
        """The lengths with the best goodput, at most ``budget`` tokens in all.

        ``generating`` sequences, candidates among them, get a token each without drafts. ``context_tokens`` are
        computed in the same step. ``price_s`` says what guesses for so many sequences, so many tokens each, cost; it
        is not needed where no candidate is priced.

        What the context costs is left out on both sides: it has to be computed anyway. But a draft token costs what it
        adds to the step as it is going to be, and with context in it that is busy. Gains fall with the length and costs
        have steps, so the largest gains are taken one after another, and the best total of all wins.
        """
        busy, step_s = generating + context_tokens, self._cost.seconds(generating)
        if not candidates:
            self._keep(busy)
            return DraftLengths([], generating, step_s, generating, step_s)
        gains, owners, ranks = _marginal_gains(candidates, budget)
        tokens = generating + np.concatenate(([0.0], np.cumsum(gains)))
        priced = np.array([candidate.is_priced for candidate in candidates], dtype=np.bool_)[owners]
        seconds = step_s + self._added_s(busy, ranks) + self._reshaping_s(busy, priced)
        if price_s is not None and priced.any():
            seconds += _prices(priced, ranks, price_s)
        goodput = tokens / seconds
        best = int(np.argmax(goodput))
        self._is_drafting = bool(goodput[best] > goodput[0] * (TO_GO_ON if self._is_drafting else TO_START))
        if not self._is_drafting:
            best = 0
        self._keep(busy + best)
        lengths = np.bincount(owners[:best], minlength=len(candidates)).tolist()
        return DraftLengths(lengths, float(tokens[best]), float(seconds[best]), generating, float(seconds[0]))

    def _reshaping_s(self, tokens: int, priced: npt.NDArray[np.bool_]) -> Float64Array:
        """What the first 0, 1, ... draft tokens lose by a size of step that the executor is not prepared for.

        Nothing where it would have to prepare without drafts, too. An executor that keeps one size forgets that of the
        steps without drafts, so the first step with drafts also pays for the way back: looked-up guesses come and go.
        Whoever is paid for guesses always has one, so with those the first step is one of many.
        """
        if tokens not in self._kept:
            return np.zeros(len(priced) + 1)
        changes = 2.0 if self._cost.kept_shapes == 1 else 1 / KEPT_FOR
        charge = np.full(len(priced) + 1, changes * self._cost.reshaping_s)
        for kept in self._kept:
            if 0 <= kept - tokens < charge.size:
                charge[kept - tokens] = 0.0
        if priced.any():
            charge[1 + int(np.argmax(priced)) :] = 0.0
        return charge

    def _keep(self, tokens: int) -> None:
        if tokens in self._kept:
            self._kept.remove(tokens)
        self._kept.append(tokens)

    def _added_s(self, tokens: int, ranks: npt.NDArray[np.int64]) -> Float64Array:
        """What the first 0, 1, ... draft tokens add to a step of so many tokens."""
        curve = self._cost.curve[tokens : tokens + len(ranks) + 1]
        added: Float64Array = curve - curve[0]
        others = np.cumsum(ranks == 1)[1:] - 1  # the first to draft is free of the charge
        added[2:] += others * self._cost.per_drafting_sequence_s
        return added


def _marginal_gains(
    candidates: Many[Candidate], budget: int
) -> tuple[Float64Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Expected tokens that one more draft token adds, largest first; whose it is, and which of that sequence's.

    The j-th draft token adds one when it and all before it are accepted.
    """
    if len(candidates) == 1:
        gains = candidates[0].chances[: max(budget, 0)]
        return gains, np.zeros(gains.size, np.int64), np.arange(1, gains.size + 1)
    gains = np.concatenate([candidate.chances for candidate in candidates])
    owners = np.repeat(np.arange(len(candidates)), [candidate.chances.size for candidate in candidates])
    ranks = np.concatenate([np.arange(1, candidate.chances.size + 1) for candidate in candidates])
    # Of equal gains the lower rank comes first: a token counts only with those before it.
    order = np.lexsort((owners, ranks, -gains))[: max(budget, 0)]
    return gains[order], owners[order], ranks[order]


def _prices(
    priced: npt.NDArray[np.bool_], ranks: npt.NDArray[np.int64], price_s: Callable[[int, int], float]
) -> Float64Array:
    """Of making the first 0, 1, ... guesses: a proposer drafts for all its sequences side by side."""
    sequences = np.cumsum(priced & (ranks == 1))
    longest = np.maximum.accumulate(np.where(priced, ranks, 0))
    known: dict[tuple[int, int], float] = {(0, 0): 0.0}
    prices = np.zeros(len(priced) + 1)
    for place, load in enumerate(zip(sequences.tolist(), longest.tolist(), strict=True), 1):
        if load not in known:
            known[load] = price_s(*load)
        prices[place] = known[load]
    return prices
