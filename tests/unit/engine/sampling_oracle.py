"""The rules of sampling, slow and obvious: plain Python, float64, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log

from python_backend.engine.sampling.parameters import SamplingParameters

LOWEST = -3.4028234663852886e38  # of a float32


def adjusted(
    logits: Sequence[float], said: SamplingParameters, prompt: list[int], output: list[int], end_id: int | None
) -> list[float]:
    """Bias, temperature, penalties, min_tokens, bad words."""
    tokens = prompt + output
    result = [float(logit) for logit in logits]
    for token in range(len(result)):
        if said.embedding_bias is not None:
            result[token] += float(said.embedding_bias[token])
        if said.temperature not in (0, 1):
            result[token] /= said.temperature + 1e-6
        count = tokens.count(token)
        if count:
            if result[token] < 0:
                result[token] *= said.repetition_penalty
            else:
                result[token] /= said.repetition_penalty
            result[token] -= said.presence_penalty + count * said.frequency_penalty
    if end_id is not None and len(output) < said.min_tokens:
        result[end_id] = LOWEST
    for *start, last in said.bad_words:
        if tokens[len(tokens) - len(start) :] == start:
            result[last] = -inf
    return result


def log_probs(values: list[float]) -> list[float]:
    most = max(values)
    total = sum(exp(value - most) for value in values)
    return [value - most - log(total) for value in values]


def top_p(said: SamplingParameters, output: list[int]) -> float:
    start = current = said.top_p or 1.0
    for token in [] if said.top_k or said.top_p is None else output:
        current = start if token == said.top_p_reset_ids else max(current * said.top_p_decay, said.top_p_min)
    return current


def distribution(values: list[float], top_k: int, top_p: float) -> dict[int, float]:
    """The probability of each token that may be drawn, in the order in which they are counted off."""
    most = max(values)
    ordered = sorted(range(len(values)), key=lambda token: (-values[token], token))[: top_k or len(values)]
    weights = [exp(values[token] - most) for token in ordered]
    nucleus, before = {}, 0.0
    for token, weight in zip(ordered, weights, strict=True):
        share = weight / sum(weights)
        counted = min(share, top_p - before)
        if counted > 0:
            nucleus[token] = counted / top_p
        before += share
    return nucleus
