"""The tensors that bring draft tokens to verify, or ask the engine to draft for itself."""

from __future__ import annotations

import numpy as np

from python_backend.engine.sampling import DraftAcceptance
from python_backend.errors import InvalidRequest
from python_backend.triton.request_row import Row


def draft_tokens(row: Row, *, vocab_size: int, max_draft_len: int) -> tuple[int, ...]:
    """``draft_input_ids``: guesses at the tokens that follow the prompt. Raises InvalidRequest for what cannot be."""
    draft = row.integers("draft_input_ids") or []
    if len(draft) > max_draft_len:
        raise InvalidRequest(
            f"Number of draft tokens ({len(draft)}) is larger than maximum number of draft tokens ({max_draft_len}). "
            "Send fewer in draft_input_ids, or raise max_draft_len in tensorrt_llm's config.pbtxt."
        )
    wrong = next((token for token in draft if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(
            f"token id {wrong} in draft_input_ids is not in the vocabulary; ids of this model lie between 0 and "
            f"{vocab_size - 1}. Draft with a model of the same vocabulary."
        )
    return tuple(draft)


def draft_acceptance(row: Row, draft: tuple[int, ...], *, vocab_size: int) -> DraftAcceptance | None:
    """``draft_logits`` and ``draft_acceptance_threshold``; None: a draft token must be the target's own choice.

    Raises InvalidRequest for logits that do not belong to the draft, and for a threshold without any.
    """
    logits = row.matrix("draft_logits")
    threshold = row.number("draft_acceptance_threshold")
    if logits is None:
        if threshold is not None:
            raise InvalidRequest(
                f"draft_acceptance_threshold is {threshold:g}, but draft_logits is missing; without logits, only the "
                "target's own choices are accepted. Send draft_logits as well, or leave the threshold out."
            )
        return None
    if not draft:
        raise InvalidRequest("draft_logits is there, but draft_input_ids is not. Send the tokens that were drawn.")
    if logits.shape != (len(draft), vocab_size):
        raise InvalidRequest(
            f"draft_logits has shape {list(logits.shape)}; {len(draft)} draft tokens and this model's vocabulary make "
            f"{[len(draft), vocab_size]}. Send one row for each draft token, from a model of the same vocabulary."
        )
    logits = logits.astype(np.float32)
    most = logits.max(axis=1)
    if not np.isfinite(most).all():
        raise InvalidRequest(
            f"draft_logits has a row whose largest value is {most[~np.isfinite(most)][0]:g}. Send the logits that the "
            "draft tokens were drawn from; -inf may stand only for tokens that were left out."
        )
    if threshold is not None and not 0 <= threshold <= 1:
        raise InvalidRequest(f"draft_acceptance_threshold is {threshold:g}; it lies between 0 and 1.")
    return DraftAcceptance(logits, threshold)


def num_draft_tokens(row: Row, draft: tuple[int, ...], *, max_draft_len: int) -> int:
    """``num_draft_tokens``: how many tokens the engine may draft for itself at a time. Raises InvalidRequest."""
    count = row.integer("num_draft_tokens") or 0
    if not 0 <= count <= max_draft_len:
        raise InvalidRequest(
            f"num_draft_tokens is {count}; it lies between 0 and {max_draft_len}, max_draft_len in tensorrt_llm's "
            "config.pbtxt. Ask for fewer, or raise that."
        )
    if count and draft:
        raise InvalidRequest(
            f"num_draft_tokens is {count}, but draft_input_ids brings a draft already. Leave one of them out."
        )
    return count
