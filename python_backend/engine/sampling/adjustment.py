"""From the model's logits to those that a token is chosen from.

In this order, 1 to 5 as in TensorRT-LLM (penaltyKernels.cu, then banBadWords.cu):

1. embedding_bias is added
2. the temperature divides: x / (temperature + 1e-6), unless it is 1 (or 0, which means greedy)
3. repetition_penalty divides what is positive and multiplies what is negative, presence_penalty is subtracted, and
   frequency_penalty for each occurrence; all three for tokens of the prompt and of the output
4. end_id gets the lowest number there is while the output is shorter than min_tokens
5. bad words get -inf
6. so does what the guide of guided decoding does not allow; if bans leave nothing of what it allows, they are void

Since 3 comes after 2, a presence penalty weighs the more against the logits the higher the temperature. Since 4 is a
number and 5 and 6 are not, end_id is chosen before min_tokens where nothing else is left, as where a guide is complete.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from python_backend.engine.sampling.state import SamplingState
from python_backend.scheduling.sequence import Sequence

Row = npt.NDArray[np.float32]

_EPSILON = 1e-6  # TensorRT-LLM adds it to the temperature
_LOWEST = np.finfo(np.float32).min


def adjust(logits: Row, state: SamplingState, sequence: Sequence, draft: list[int], out: Row) -> None:
    """Write the adjusted logits of the token that follows the sequence and ``draft`` to ``out``; [vocabulary] both."""
    said = state.parameters
    scale = 1.0 if said.temperature in (0.0, 1.0) else 1.0 / (said.temperature + _EPSILON)
    np.multiply(logits, np.float32(scale), out=out)  # Also by 1: numpy's own copy is several times slower.
    if state.bias_ids.size:
        out[state.bias_ids] += state.bias * np.float32(scale)
    if said.has_penalties:
        _penalise(out, state, sequence, draft)
    if len(sequence.output) + len(draft) < said.min_tokens and sequence.end_id is not None:
        out[sequence.end_id] = _LOWEST
    if state.bad_words is not None:
        out[state.bad_words.always] = -np.inf
        known = sequence.tokens(max(sequence.num_tokens - state.bad_words.longest_start, 0), sequence.num_tokens)
        out[state.bad_words.completing([*known.tolist(), *draft])] = -np.inf
    if state.guide is not None:
        allowed = state.guide.allowed(draft)
        out[~allowed] = -np.inf
        if out.max() == -np.inf:
            out[allowed] = logits[allowed]


def _penalise(out: Row, state: SamplingState, sequence: Sequence, draft: list[int]) -> None:
    said, counts = state.parameters, state.counts(sequence)
    counts.add(draft)
    values = out.take(counts.ids)
    if said.repetition_penalty != 1.0:
        repetition = np.float32(said.repetition_penalty)
        values = np.where(values < 0, values * repetition, values / repetition)
    out[counts.ids] = values - (said.presence_penalty + said.frequency_penalty * counts.counts)
    counts.take_back(draft)
