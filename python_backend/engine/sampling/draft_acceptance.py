"""Which draft tokens are accepted when the logits that they were drawn from come with them.

Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023; TensorRT-LLM:
externalDraftTokensKernels.cu. With p_t the target's probabilities and p_d the draft's, draft token x is accepted when
p_t(x) / p_d(x) reaches a number u from (0, 1]; if not, a token is drawn from max(p_t - p_d, 0), renormalised. Where x
was drawn from p_d and u is uniform, what comes of it has the distribution p_t, whatever the draft. With a constant
threshold for u, it has not.

p_t is what the target draws from without a draft: after bias, temperature, penalties, bans, guide, top-k and top-p.
p_d is the softmax of the draft's logits as they are, and no parameter of the request is applied to them. So whoever
draws a draft with a temperature or a top-k sends the logits after those, -inf for what they leave out.

A greedy request needs no rule: all of p_t is on one token. A draft token is accepted if it is that one, with logits and
without.

Two things are not as in TensorRT-LLM. Its kernel counts the last token of a nucleus whole, unlike its own sampler;
here p_t is the same with draft logits and without. And it accepts what p_t leaves out where the threshold is 0, or
where p_d leaves it out as well; here a token that the request bans is never accepted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from python_backend.engine.sampling.counter_random import ACCEPT, REDRAW, uniform

Row = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DraftAcceptance:
    """For the draft that comes with a request: the first one of its sequence."""

    logits: npt.NDArray[np.float32]  #: [draft tokens, vocabulary]; -inf is allowed, but not for a whole row
    threshold: float | None = None  #: 0 to 1, in place of random numbers

    def choose(self, target: Row, index: int, guess: int, seed: int, position: int) -> int:
        """``guess``, draft token ``index``, if it is accepted; else the token that takes its place, never equal to it.

        ``target`` [vocabulary] are the probabilities p_t; ``position`` is that of the token in prompt and output.
        """
        draft = _softmax(self.logits[index])
        needed = uniform(seed, position, ACCEPT) if self.threshold is None else self.threshold
        if target[guess] > 0 and float(target[guess]) >= needed * float(draft[guess]):
            return guess
        # Rejected, so p_t < p_d: the difference is 0 at the guess.
        rest = np.maximum(target - draft, 0)
        reached = rest.cumsum(dtype=np.float64)
        if reached[-1] == 0:  # p_t and p_d are equal but for rounding, or for a guess that neither could draw.
            rest = target.copy()
            rest[guess] = 0
            reached = rest.cumsum(dtype=np.float64)
        return int(np.searchsorted(reached, uniform(seed, position, REDRAW) * reached[-1]))


def _softmax(logits: Row) -> Row:
    weights: Row = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights
