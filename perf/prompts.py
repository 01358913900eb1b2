"""Prompts of real English of mixed lengths, the same for everybody who uses the same seed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

_CORPUS = Path(__file__).with_name("english.txt")  # openings of books and speeches in the public domain


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as text, for a server, and as token ids, for an engine without tokenizer."""

    text: str
    token_ids: tuple[int, ...]


class PromptSource:
    """Deals out prompts, none of which begins like another: KV cache reuse has nothing to reuse.

    Each begins at another word of the corpus. Lengths are uniform between ``shortest_tokens`` and ``longest_tokens``.
    """

    def __init__(self, tokenizer: Tokenizer, shortest_tokens: int, longest_tokens: int, seed: int) -> None:
        if not 1 <= shortest_tokens <= longest_tokens:
            raise ValueError(f"prompt lengths are {shortest_tokens} to {longest_tokens}: 1 <= shortest <= longest.")
        self._tokenizer = tokenizer
        self._lengths = (shortest_tokens, longest_tokens)
        self._random = random.Random(seed)
        corpus = " ".join(_CORPUS.read_text(encoding="utf-8").split())
        self._corpus = f"{corpus} {corpus}"  # so that a prompt may begin at the last word
        self._starts = [match.start() for match in re.finditer(r"\S+", corpus)]
        self._random.shuffle(self._starts)

    def take(self, count: int) -> list[Prompt]:
        """The next prompts. ValueError when the corpus has no word left to begin with."""
        if count > len(self._starts):
            raise ValueError(
                f"{count} more prompts are needed, and the corpus has {len(self._starts)} left. "
                "Ask for fewer rounds, requests or workers."
            )
        return [self._prompt(self._starts.pop()) for _ in range(count)]

    def _prompt(self, start: int) -> Prompt:
        length = self._random.randint(*self._lengths)
        # No English token is longer than 32 characters: the piece is long enough and cheap to tokenize.
        piece = self._corpus[start : start + 32 * length]
        ends = self._tokenizer.encode(piece).offsets
        text = piece[: ends[min(length, len(ends)) - 1][1]]
        return Prompt(text, tuple(self._tokenizer.encode(text).ids))
