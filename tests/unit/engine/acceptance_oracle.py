"""Speculative sampling, slow and obvious: plain Python, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

Probabilities = Sequence[float]


def softmax(logits: Probabilities) -> list[float]:
    weights = [exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def is_accepted(target: Probabilities, draft: Probabilities, guess: int, needed: float) -> bool:
    return target[guess] > 0 and (draft[guess] == 0 or target[guess] / draft[guess] >= needed)


def rest(target: Probabilities, draft: Probabilities) -> list[float]:
    """What a token is drawn from when the guess is rejected."""
    over = [max(p_t - p_d, 0.0) for p_t, p_d in zip(target, draft, strict=True)]
    return [weight / sum(over) for weight in over]


def draw(probabilities: Probabilities, number: float) -> int:
    """The token at which the running sum, by id, reaches the number."""
    reached = 0.0
    for token, probability in enumerate(probabilities):
        reached += probability
        if probability > 0 and reached >= number:
            return token
    return max(token for token, probability in enumerate(probabilities) if probability > 0)
