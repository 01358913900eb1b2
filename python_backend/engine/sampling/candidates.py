"""The most likely tokens of a row without sorting the vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_LOWEST = np.finfo(np.float32).min
_GROUPS_PER_CANDIDATE = 8
_BINS_PER_UNIT = 64
_BINS = 64 * _BINS_PER_UNIT


def in_order(logits: Row, ids: Ids) -> Ids:
    """Those tokens, most likely first; the lowest id first among equals, given ids that ascend."""
    return ids.take((-logits.take(ids)).argsort(kind="stable"))


def most_likely(logits: Row, count: int) -> Ids:
    """The ``count`` most likely tokens in order; fewer when the others are banned (-inf), but at least one is not.

    The row is cut into ``count`` groups or more. At least ``count`` of them have a maximum that reaches the
    count-th largest of the maxima, so that is a bound which as many tokens reach, and seldom many more.
    """
    size = logits.size // max(logits.size // (count * _GROUPS_PER_CANDIDATE), 1)
    maxima = logits[: logits.size - logits.size % size].reshape(-1, size).max(axis=0)
    bound = max(np.partition(maxima, -count)[-count], _LOWEST)
    reached = (logits >= bound).nonzero()[0]
    return in_order(logits, reached)[:count]


def around_mass(logits: Row, most: float, weights: Row, mass: float) -> tuple[Ids, float]:
    """The tokens, in order, among which the running sum of weights from the most likely token on reaches ``mass``.

    With them the sum before the first of them. A histogram over the logits finds the bin that the sum reaches it in;
    only that bin is put in order (the idea of TensorRT-LLM's AIR top-p). weights[i] = exp(logits[i] - most).
    """
    below = np.minimum(np.float32(most) - logits, np.float32((_BINS - 1) / _BINS_PER_UNIT))
    bins = (below * np.float32(_BINS_PER_UNIT)).astype(np.intp)
    # The last bin holds all that is 64 below the maximum: too little to show in the sum, so it is never hit.
    reached = np.bincount(bins, weights=weights, minlength=_BINS).cumsum()
    hit = int(np.searchsorted(reached, min(mass, reached[-1])))
    return in_order(logits, (bins == hit).nonzero()[0]), float(reached[hit - 1]) if hit else 0.0
