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
    return ids[np.argsort(-logits[ids], kind="stable")]


def most_likely(logits: Row, count: int) -> Ids:
    """The ``count`` most likely tokens in order; fewer when the others are banned (-inf), but at least one is not.

    The row is seen as groups of a few tokens. ``count`` of the groups have a maximum of at least the count-th largest
    of the maxima, so that is a bound which at least ``count`` tokens reach, and seldom many more.
    """
    size = logits.size // max(logits.size // (count * _GROUPS_PER_CANDIDATE), 1)
    grouped = logits.size - logits.size % size
    maxima = logits[:grouped].reshape(-1, size).max(axis=0)
    maxima = np.concatenate((maxima, logits[grouped:]))
    bound = max(np.partition(maxima, -count)[-count], _LOWEST)
    reached = np.flatnonzero(logits >= bound)
    return in_order(logits, reached)[:count]


def around_mass(logits: Row, most: float, weights: Row, mass: float) -> tuple[Ids, float]:
    """The tokens, in order, among which the running sum of weights from the most likely token on reaches ``mass``.

    With them the sum before the first of them. A histogram over the logits finds the bin that the sum reaches it in;
    only that bin is put in order (the idea of TensorRT-LLM's AIR top-p). weights[i] = exp(logits[i] - most).
    """
    below = np.minimum(np.float32(most) - logits, np.float32((_BINS - 1) / _BINS_PER_UNIT))
    bins = (below * np.float32(_BINS_PER_UNIT)).astype(np.intp)
    reached = np.bincount(bins, weights=weights, minlength=_BINS).cumsum()
    hit = int(np.searchsorted(reached, min(mass, reached[-1])))
    return in_order(logits, np.flatnonzero((bins == hit) & (weights > 0))), float(reached[hit - 1]) if hit else 0.0
