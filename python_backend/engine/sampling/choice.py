"""One token from one row of adjusted logits."""

from __future__ import annotations

from math import log, nan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from python_backend.engine.sampling.candidates import around_mass, most_likely

Row = npt.NDArray[np.float32]

_FEW = (64, 512)


class Choice(NamedTuple):
    token: int
    log_prob: float  # NaN when nobody asks for it


class Chooser:
    """Holds scratch memory for a vocabulary of that size. ``most`` is the largest of the logits, and a number."""

    def __init__(self, vocab_size: int) -> None:
        self._weights = np.empty(vocab_size, np.float32)

    def most_likely(self, logits: Row, most: float, *, with_log_prob: bool) -> Choice:
        """The token with the largest logit; the lowest id among equals."""
        token = int(logits.argmax())
        return Choice(token, _log_prob(most, most, self._mass(logits, most)) if with_log_prob else nan)

    def draw(
        self, logits: Row, most: float, top_k: int, top_p: float, uniform: float, *, with_log_prob: bool
    ) -> Choice:
        """The token at which the running sum of probabilities, most likely first, reaches uniform * top_p.

        As in TensorRT-LLM (samplingTopKKernels.cu, samplingTopPKernels.cu): with top-k, probabilities are those among
        the k most likely; and of the last token of the nucleus only the part counts that is missing to top-p, where
        others count all of it. ``top_k`` 0 means no limit; ``uniform`` lies in (0, 1].
        """
        mass = self._mass(logits, most) if with_log_prob or not top_k else nan
        if top_k:
            token = _draw_among(logits, most_likely(logits, min(top_k, logits.size)), uniform * top_p)
        else:
            token = self._draw_any(logits, most, mass * top_p * uniform)
        return Choice(token, _log_prob(float(logits[token]), most, mass) if with_log_prob else nan)

    def probabilities(self, logits: Row, most: float, top_k: int, top_p: float) -> Row:
        """With what probability ``draw`` gives each token, [vocabulary]."""
        mass, before = self._mass(logits, most), 0.0
        if top_k:
            ids = most_likely(logits, min(top_k, logits.size))
        elif top_p == 1.0:
            return self._weights / np.float32(mass)
        else:
            ids, before = around_mass(logits, most, self._weights, mass * top_p)
        reached = before + self._weights.take(ids).cumsum(dtype=np.float64)
        nucleus = top_p * (float(reached[-1]) if top_k else mass)
        place = _place(reached, nucleus)
        last = int(ids[place])
        above = logits > logits[last]
        above[:last] |= logits[:last] == logits[last]
        found = np.where(above, self._weights, np.float32(0))
        found[last] = float(self._weights[last]) - max(float(reached[place]) - nucleus, 0.0)
        return found / np.float32(nucleus)

    def log_prob(self, logits: Row, most: float, token: int) -> float:
        """That of a token which was chosen by other means."""
        return _log_prob(float(logits[token]), most, self._mass(logits, most))

    def _mass(self, logits: Row, most: float) -> float:
        """The sum of exp(logit - most), whose terms are left in ``_weights``."""
        np.subtract(logits, np.float32(most), out=self._weights)
        np.exp(self._weights, out=self._weights)
        return float(self._weights.sum())

    def _draw_any(self, logits: Row, most: float, mass: float) -> int:
        for few in _FEW:
            if mass < few < logits.size:  # No weight is above 1.
                ids = most_likely(logits, few)
                reached = self._weights.take(ids).cumsum(dtype=np.float64)
                if mass <= reached[-1]:
                    return _pick(ids, reached, mass)
        ids, before = around_mass(logits, most, self._weights, mass)
        return _pick(ids, before + self._weights.take(ids).cumsum(dtype=np.float64), mass)


def _log_prob(logit: float, most: float, mass: float) -> float:
    """Over the whole vocabulary, also for greedy choices and with top-k.

    TensorRT-LLM up to 1.2 normalises output_log_probs over the top-k by default, so that they are 0 for greedy
    decoding, while cum_log_probs is over the vocabulary; from March 2026 on (pull request 12366) both are over the
    vocabulary, as here.
    """
    return logit - most - log(mass)


def _draw_among(logits: Row, ids: npt.NDArray[np.int64], share: float) -> int:
    values = logits.take(ids)
    reached = np.exp(values - values[0]).cumsum(dtype=np.float64)
    return _pick(ids, reached, share * reached[-1])


def _pick(ids: npt.NDArray[np.int64], reached: npt.NDArray[np.float64], mass: float) -> int:
    return int(ids[_place(reached, mass)])


def _place(reached: npt.NDArray[np.float64], mass: float) -> int:
    return min(int(np.searchsorted(reached, mass)), reached.size - 1)
