"""The ``[2, n]`` tensors in which TensorRT-LLM takes stop words and bad words, and words as token ids.

    row 0   ids of all words, one after the other        5  6  7  9  0
    row 1   where each word ends, then -1                3  4 -1 -1 -1      words (5, 6, 7) and (9,)

Source: ``convertWordList`` in TensorRT-LLM's Triton backend, which reads it, and ``_to_word_list_format`` in its
preprocessing model, which writes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from python_backend.errors import InvalidRequest
from python_backend.text.tokenizer import Tokenizer

Word = tuple[int, ...]


def parse_word_list(name: str, table: npt.NDArray[np.integer[Any]], vocab_size: int) -> list[Word]:
    """The words in one row of the batch, of shape [2, n] or the same flat; none when n is 0 or row 1 starts with -1.

    Raises InvalidRequest, naming the tensor, for other shapes, ends that do not rise or pass n, and ids outside the
    vocabulary.
    """
    if table.size % 2 or not (table.ndim == 1 or (table.ndim == 2 and table.shape[0] == 2)):
        raise InvalidRequest(
            f"{name} has shape {list(table.shape)}; send [2, n]: all words' ids in row 0, where each ends in row 1."
        )
    ids, ends = (row.tolist() for row in table.reshape(2, -1))
    used = _used(name, ends)
    for start, end in zip([0, *used], used, strict=False):
        if not start < end <= len(ids):
            raise InvalidRequest(
                f"{name} has a word that starts at {start} and ends at {end}, with {len(ids)} ids in row 0. "
                "Row 1 holds the rising end of each word, then -1."
            )
    for token in ids[: used[-1] if used else 0]:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"{name} has token id {token}; ids of this model lie between 0 and {vocab_size - 1}. "
                "Tokenize with the engine's own tokenizer."
            )
    return [tuple(ids[start:end]) for start, end in zip([0, *used], used, strict=False)]


def _used(name: str, ends: list[int]) -> list[int]:
    """``ends`` without the padding behind them."""
    count = ends.index(-1) if -1 in ends else len(ends)
    late = [end for end in ends[count:] if end != -1]
    if late:
        raise InvalidRequest(f"{name} has {late[0]} behind a -1 in row 1. -1 is padding: send it only after all ends.")
    return ends[:count]


def bad_word_ids(tokenizer: Tokenizer, text: str) -> list[Word]:
    """The tokenizations of a bad word that bar it from a text: as it stands alone, inside a line, and after a space.

    Upstream bars only the first of them, so that with a byte-level tokenizer ``bad`` bars the first word of a text and
    not `` bad`` within it. A word that ends with another of the list is left out: it is barred with that one.
    Raises InvalidRequest when the text has no tokens.
    """
    if not _alone(tokenizer, text):
        raise InvalidRequest(f"the bad word {text!r} has no tokens. Leave it out.")
    forms = [text] if text[0].isspace() else [text, f" {text}"]
    words = [word for form in forms for word in (_alone(tokenizer, form), _in_line(tokenizer, form)) if word]
    distinct = list(dict.fromkeys(words))
    return [word for word in distinct if not any(word[i:] in distinct for i in range(1, len(word)))]


def _alone(tokenizer: Tokenizer, text: str) -> Word:
    return tuple(tokenizer.encode(text, add_special_tokens=False).tolist())


def _in_line(tokenizer: Tokenizer, text: str) -> Word:
    """The ids of ``text`` behind a line break, without the mark that some tokenizers put before the first word.

    Empty when the text joins the line break to one token.
    """
    before, both = _alone(tokenizer, "\n"), _alone(tokenizer, "\n" + text)
    return both[len(before) :] if both[: len(before)] == before else ()
