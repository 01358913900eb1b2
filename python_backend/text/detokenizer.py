"""Token ids to text while they come, for one request.

The promise: whatever the ids, and however they are cut into parts, the parts' texts joined are
``tokenizer.decode(all ids)``. No half character, no lost or added space; constant cost a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from python_backend.text.decoder_stages import Stage
from python_backend.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one growing sequence of tokens; not for use by two threads at once."""

    __slots__ = ("_skip_special_tokens", "_stages", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._stages: list[Stage] = tokenizer.decoder_stages()

    def push(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text that became certain with ``ids``; empty while a character is unfinished.

        InvalidRequest for ids that are negative or beyond int32; the state is then as before.
        """
        tokens = self._tokenizer.pieces(ids, self._skip_special_tokens)
        for stage in self._stages:
            tokens = stage.push(tokens)
        return "".join(tokens)

    def finish(self) -> str:
        """The text held back so far; broken or unfinished bytes read U+FFFD. Nothing is pushed afterwards."""
        tokens: list[str] = []
        for stage in self._stages:
            tokens = stage.push(tokens) + stage.finish()
        return "".join(tokens)

    def copy(self) -> Detokenizer:
        """A detokenizer in the same state, for a branch that may be given up (beams, drafts)."""
        twin = object.__new__(Detokenizer)
        twin._tokenizer, twin._skip_special_tokens = self._tokenizer, self._skip_special_tokens
        twin._stages = [stage.copy() for stage in self._stages]
        return twin
