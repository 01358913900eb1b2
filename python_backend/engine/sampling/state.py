"""What the sampler keeps for one sequence."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from secrets import randbits
from typing import Protocol

import numpy as np
import numpy.typing as npt

from python_backend.engine.sampling.bad_words import BadWords
from python_backend.engine.sampling.draft_acceptance import DraftAcceptance
from python_backend.engine.sampling.parameters import SamplingParameters
from python_backend.engine.sampling.token_counts import TokenCounts
from python_backend.errors import InvalidRequest
from python_backend.scheduling.sequence import Sequence


class GuideFault(InvalidRequest):
    """A guide cannot say what may follow. It ends its own sequence, and no other of the step."""


class TokenGuide(Protocol):
    """Says which tokens may follow, for guided decoding. Raises GuideFault when it cannot."""

    def follow(self, output: Many[int]) -> None:
        """Take note of the output tokens that have come since the last call; ``output`` holds all of them."""
        ...

    def allowed(self, draft: Many[int]) -> npt.NDArray[np.bool_]:
        """Which tokens may follow the output and ``draft``, [vocabulary]; at least one."""
        ...


class SamplingState:
    """Goes into ``Sequence.sampling``, for the sampler to find; one for each sequence.

    All of it follows from the parameters, the seed and the sequence's tokens, so a pause needs no care.
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        guide: TokenGuide | None = None,
        acceptance: DraftAcceptance | None = None,
    ) -> None:
        self.parameters = parameters
        self.guide = guide
        self.acceptance = acceptance
        """How the draft that came with the request is verified. None, as for all later ones: a draft token is
        accepted when it is the one that is chosen anyway."""
        self.seed = randbits(64) if parameters.seed is None else parameters.seed
        self.top_p = parameters.top_p or 1.0
        self.bad_words = BadWords(parameters.bad_words) if parameters.bad_words else None
        self.cum_log_prob = 0.0
        """Of the output so far, while log probabilities are asked for."""
        self.context_rows = 0
        """Prompt tokens whose logits are there, or were handed over."""
        self._context_logits: list[npt.NDArray[np.float32]] = []
        bias = parameters.embedding_bias
        self.bias_ids = np.empty(0, np.int64) if bias is None else np.flatnonzero(bias)
        self.bias = np.empty(0, np.float32) if bias is None else bias[self.bias_ids]
        self._counts: TokenCounts | None = None
        self._followed = 0  # output tokens that counts and top-p know of

    @property
    def takes_the_graphs_choice(self) -> bool:
        """Logits are not needed."""
        return self.guide is None and self.parameters.is_plain_greedy

    def counts(self, sequence: Sequence) -> TokenCounts:
        """Of prompt and output."""
        if self._counts is None:
            self._counts = TokenCounts(sequence.prompt)
        return self._counts

    def follow(self, sequence: Sequence) -> None:
        """Take note of the output tokens that have come since the last call."""
        new = sequence.output[self._followed :]
        self._followed += len(new)
        self.top_p = self.top_p_after(new)
        if self.parameters.has_penalties:
            self.counts(sequence).add(new)
        if self.guide is not None:
            self.guide.follow(sequence.output)

    def top_p_after(self, tokens: Iterable[int]) -> float:
        """The top-p for the token that follows these. Without top-k only: with it, TensorRT-LLM's does not decay.

        TensorRT-LLM: computeToppDecay, after Lee et al., "Factuality Enhanced Language Models for Open-Ended Text
        Generation", 2022. Its kernel looks for the reset token one place behind the newest token, which is not
        written yet; here the newest token resets, as its documentation says.
        """
        said, top_p = self.parameters, self.top_p
        if said.top_p is not None and not said.top_k:
            for token in tokens:
                top_p = said.top_p if token == said.top_p_reset_ids else max(top_p * said.top_p_decay, said.top_p_min)
        return top_p

    def keep_context_logits(self, logits: npt.NDArray[np.float32]) -> None:
        """Those of the next tokens of the prompt, until they are taken."""
        self._context_logits.append(logits)
        self.context_rows += len(logits)

    def take_context_logits(self) -> npt.NDArray[np.float32] | None:
        """All that were kept since the last call; None when there are none."""
        kept, self._context_logits = self._context_logits, []
        return np.concatenate(kept) if kept else None
