"""Pieces of a long text as token ids: what calibration runs through a model, and what verification predicts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

TokenIds = npt.NDArray[np.int64]


def text_tokens(tokenizer: Tokenizer, text: str) -> TokenIds:
    """The ids of the whole text, [tokens], without special tokens."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)


def prompt_prefix(tokenizer: Tokenizer) -> list[int]:
    """The special tokens that begin every prompt: BOS, mostly, or none. Their activations are often the largest."""
    encoded = tokenizer.encode("a")
    count = encoded.special_tokens_mask.index(0) if 0 in encoded.special_tokens_mask else 0
    prefix: list[int] = encoded.ids[:count]
    return prefix


def even_pieces(ids: TokenIds, prefix: list[int], *, tokens: int, most: int) -> TokenIds:
    """At most ``most`` pieces [pieces, tokens], taken evenly from ``ids``; none is there twice, each begins with
    ``prefix``. A shorter text makes one shorter piece.
    """
    length = min(len(ids), max(1, tokens - len(prefix)))
    pieces = ids[: len(ids) // length * length].reshape(-1, length)
    chosen = pieces[np.linspace(0, len(pieces) - 1, min(most, len(pieces))).round().astype(np.int64)]
    return np.hstack([np.tile(np.array(prefix, np.int64), (len(chosen), 1)), chosen])
