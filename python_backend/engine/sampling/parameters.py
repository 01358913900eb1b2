"""What a request may say about how its tokens are chosen, under TensorRT-LLM's names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import numpy.typing as npt

from python_backend.errors import InvalidRequest

MAX_TOP_K = 1024  # TensorRT-LLM: TOP_K_MAX
MAX_SEED = 2**64 - 1
#: Bounds bias and penalties, so that no sum or product of them overflows a float32.
LARGEST = 1e10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplingParameters:
    """Raises InvalidRequest for a value out of range.

    Tokens are drawn at random when ``top_k`` is above 1, or when it is 0 and ``top_p`` is given; otherwise, and at
    temperature 0, the most likely token is chosen. Temperature alone changes log probabilities but no greedy choice.
    That is TensorRT-LLM's rule, but for two things: it takes temperature 0 together with a top-p and no top-k for
    temperature 1, and it clips a larger top-k to 1024 (here: refused).

    Sources: TensorRT-LLM's executor::SamplingConfig (ranges), runtime::SamplingConfig (temperature 0),
    DefaultDecodingParams (defaults), docs/source/legacy/advanced/gpt-runtime.md.
    """

    temperature: float = 1.0
    top_k: int = 0
    """Draw from that many of the most likely tokens; 0: no limit."""
    top_p: float | None = None
    """Draw from the most likely tokens that together have this probability (after top-k, of what top-k left)."""
    top_p_decay: float = 1.0
    """Factor on top-p after each token. Like the next two, without effect together with top-k."""
    top_p_min: float = 1e-6
    """What a decaying top-p does not fall below."""
    top_p_reset_ids: int | None = None
    """The token after which a decayed top-p starts again."""
    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies negative ones, of tokens in prompt or output."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens in prompt or output."""
    frequency_penalty: float = 0.0
    """Subtracted once for each time that the token is in prompt or output."""
    min_tokens: int = 0
    """Output tokens before end_id may be chosen."""
    seed: int | None = None
    """Same seed, same text, whatever else is in the batch. None: a new one for each sequence."""
    embedding_bias: npt.NDArray[np.float32] | None = None
    """[vocabulary], added to the logits; -inf bans a token."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that are never completed: a last token is banned where the ones before it stand."""
    return_log_probs: bool = False
    return_generation_logits: bool = False
    return_context_logits: bool = False

    def __post_init__(self) -> None:
        self._check("temperature", 0.0 <= self.temperature < float("inf"), "it must be a number from 0 up")
        self._check("top_k", 0 <= self.top_k <= MAX_TOP_K, f"it must lie between 0 (unset) and {MAX_TOP_K}")
        for name in ("top_p", "top_p_decay", "top_p_min"):
            value = getattr(self, name)
            self._check(name, value is None or 0.0 < value <= 1.0, "it must be above 0 and at most 1")
        self._check("top_p_reset_ids", (self.top_p_reset_ids or 0) >= 0, "it must be a token id")
        limits = f"it must lie between {1 / LARGEST:g} and {LARGEST:g}"
        self._check("repetition_penalty", 1 / LARGEST <= self.repetition_penalty <= LARGEST, limits)
        for name in ("presence_penalty", "frequency_penalty"):
            limits = f"it must lie between {-LARGEST:g} and {LARGEST:g}"
            self._check(name, isfinite(getattr(self, name)) and abs(getattr(self, name)) <= LARGEST, limits)
        self._check("min_tokens", self.min_tokens >= 0, "it must be a number from 0 up")
        self._check("seed", self.seed is None or 0 <= self.seed <= MAX_SEED, f"it must lie between 0 and {MAX_SEED}")
        if not all(self.bad_words):
            raise InvalidRequest("bad_words holds a word without tokens. Leave it out.")
        if self.embedding_bias is not None:
            _check_bias(self.embedding_bias)

    @property
    def is_greedy(self) -> bool:
        """The most likely token is chosen, once bias, penalties and bans are applied."""
        return self.temperature == 0.0 or self.top_k == 1 or (self.top_k == 0 and self.top_p is None)

    @property
    def is_plain_greedy(self) -> bool:
        """The token that the graph chooses is the answer, and nothing is wanted of its logits."""
        return self.is_greedy and not (self.changes_logits or self.return_log_probs or self.return_generation_logits)

    @property
    def wants_details(self) -> bool:
        """Something is to come back besides tokens."""
        return self.return_log_probs or self.return_generation_logits or self.return_context_logits

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def changes_logits(self) -> bool:
        """Something other than the temperature may make another token the most likely one."""
        return bool(self.has_penalties or self.min_tokens or self.bad_words or self.embedding_bias is not None)

    def derived(self, index: int) -> SamplingParameters:
        """For sequence ``index`` of num_return_sequences: its own seed, which is seed + index as in TensorRT-LLM.

        TensorRT-LLM takes seed 0 for all requests with several sequences and none given; here each stays random.
        """
        return self if self.seed is None else replace(self, seed=(self.seed + index) % (MAX_SEED + 1))

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises InvalidRequest for what does not fit a vocabulary of that size."""
        if self.embedding_bias is not None and self.embedding_bias.size != vocab_size:
            raise InvalidRequest(
                f"embedding_bias has {self.embedding_bias.size} values; this model's vocabulary has {vocab_size} "
                "tokens. Send one value for each."
            )
        ids = [token for word in self.bad_words for token in word]
        wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(
                f"token id {wrong} in bad_words is not in the vocabulary; ids of this model lie between 0 and "
                f"{vocab_size - 1}. Tokenize with the engine's own tokenizer."
            )

    def _check(self, name: str, holds: bool, limits: str) -> None:
        if not holds:
            raise InvalidRequest(f"{name} is {getattr(self, name)}; {limits}.")


def _check_bias(bias: npt.NDArray[np.float32]) -> None:
    if bias.ndim != 1 or bias.dtype != np.float32:
        raise InvalidRequest(f"embedding_bias is {bias.dtype} of shape {list(bias.shape)}; it must be one row of FP32.")
    banned = np.isneginf(bias)
    wrong = bias[~(banned | (np.abs(bias) <= LARGEST))]
    if wrong.size:
        raise InvalidRequest(
            f"embedding_bias holds {wrong[0]}; values must lie between {-LARGEST:g} and {LARGEST:g}, or be -inf."
        )
    if banned.all():
        raise InvalidRequest("embedding_bias is -inf for every token. Leave at least one that may be chosen.")
