"""Tokens from logits, for sequences of any parameters side by side."""

from __future__ import annotations

from collections.abc import Sequence as Many
from math import inf, nan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from python_backend.engine.sampling.adjustment import adjust
from python_backend.engine.sampling.choice import Choice, Chooser
from python_backend.engine.sampling.counter_random import uniform
from python_backend.engine.sampling.state import SamplingState
from python_backend.errors import EngineFault
from python_backend.scheduling.sequence import Sequence


class SampledRow(NamedTuple):
    """Asks for the token that follows the sequence's tokens and these draft tokens."""

    sequence: Sequence  # its ``sampling`` is a SamplingState
    draft: list[int]
    guess: int | None = None  # the draft token in this place, if there is one; it matters where its logits are known


def sampling_of(sequence: Sequence) -> SamplingState | None:
    """What the sequence's owner wants of the sampler; None: the most likely token and nothing else."""
    state = sequence.sampling
    assert state is None or isinstance(state, SamplingState), f"{sequence} carries {state!r} for the sampler"
    return state


class Sampler:
    """Chooses tokens by TensorRT-LLM's rules, each row on its own: the logits of one fit into a core's cache.

    What is chosen for a row depends on its logits, its sequence's tokens, parameters and seed, and the draft tokens;
    not on other rows, and not on what was chosen before. Not thread-safe.
    """

    def __init__(self, vocab_size: int) -> None:
        self._chooser = Chooser(vocab_size)
        self._adjusted = np.empty(vocab_size, np.float32)

    def select(
        self, logits: npt.NDArray[np.float32], rows: Many[SampledRow]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The token of each row of ``logits`` [R, vocabulary], int32[R], and its log probability, float32[R].

        Log probabilities are those of the adjusted logits over the whole vocabulary, NaN where they are not asked for.
        Raises EngineFault when the model's logits are not numbers.
        """
        tokens, log_probs = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
        for index, (row, values) in enumerate(zip(rows, logits, strict=True)):
            tokens[index], log_probs[index] = self._choose(values, row)
        return tokens, log_probs

    def _choose(self, logits: npt.NDArray[np.float32], row: SampledRow) -> Choice:
        sequence, draft = row.sequence, row.draft
        state = sampling_of(sequence)
        assert state is not None, f"{sequence} takes the graph's choice"
        state.follow(sequence)
        adjusted, said = self._adjusted, state.parameters
        adjust(logits, state, sequence, draft, adjusted)
        most = float(adjusted.max())
        if not most < inf:
            raise EngineFault(f"the model's logits for {sequence} are not numbers. Check the engine's weights.")
        if most == -inf:  # Everything is banned. The answer has to go on with something.
            return Choice(0, -inf)
        if said.is_greedy:
            return self._chooser.most_likely(adjusted, most, with_log_prob=said.return_log_probs)
        position, top_p = sequence.num_tokens + len(draft), state.top_p_after(draft)
        if row.guess is not None and state.acceptance is not None:
            target = self._chooser.probabilities(adjusted, most, said.top_k, top_p)
            token = state.acceptance.choose(target, len(draft), row.guess, state.seed, position)
            return Choice(token, self._chooser.log_prob(adjusted, most, token) if said.return_log_probs else nan)
        number = uniform(state.seed, position)
        return self._chooser.draw(adjusted, most, said.top_k, top_p, number, with_log_prob=said.return_log_probs)
