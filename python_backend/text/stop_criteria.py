"""A request's stop words joined to its detokenizer.

Clients send words as text to ``ensemble`` and as ids to ``tensorrt_llm``, which in both cases sees ids. A text has many
tokenizations and the model writes whichever it likes, so comparing ids misses words: upstream's known flaw. Here ids
become text again and are looked for in the text: wherever the ids occur their text does too, unless broken bytes
around them spoil it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from python_backend.text.detokenizer import Detokenizer
from python_backend.text.stop_words import StopWords, TokenStopWords
from python_backend.text.tokenizer import Tokenizer
from python_backend.text.word_list import Word

_BROKEN = "\ufffd"


@dataclass(frozen=True, slots=True)
class StopCriteria:
    """The stop words of one request: those with a text, and those that only ids can tell."""

    texts: tuple[str, ...] = ()
    ids: tuple[Word, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer, words: Sequence[Word], skip_special_tokens: bool) -> StopCriteria:
        """Words given as ids. Compared as ids: special tokens that the text does not show, and parts of a character."""
        texts: list[str] = []
        ids: list[Word] = []
        for word in words:
            text = _text(tokenizer, word, skip_special_tokens)
            if text:
                texts.append(text)
            else:
                ids.append(word)
        return cls(tuple(dict.fromkeys(texts)), tuple(dict.fromkeys(ids)))

    def __bool__(self) -> bool:
        return bool(self.texts or self.ids)


def _text(tokenizer: Tokenizer, word: Word, skip_special_tokens: bool) -> str:
    if skip_special_tokens and not tokenizer.special_ids.isdisjoint(word):
        return ""
    text = tokenizer.decode(word, skip_special_tokens)
    if _BROKEN in text and tuple(tokenizer.encode(text, add_special_tokens=False).tolist()) != word:
        return ""
    return text


@dataclass(frozen=True, slots=True)
class Passage:
    """What some tokens brought: text to show, how many of the tokens are output, and the stop word they completed."""

    text: str
    tokens: int
    stop_word: str | None = None


class StoppingDetokenizer:
    """The text of one growing sequence of tokens up to its first stop word; not for use by two threads at once.

    A word is found with the token after which its text is certain. That token is output, and later ones are not. When
    one token completes a word by text and one by ids, the text counts.
    """

    __slots__ = ("_detokenizer", "_ids", "_stop_word", "_texts", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, criteria: StopCriteria, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens)
        self._texts = StopWords(criteria.texts)
        self._ids = TokenStopWords(criteria.ids)
        self._stop_word: str | None = None

    def prompt(self, ids: Sequence[int]) -> str:
        """The text of a prompt that is to stand before the answer; words in it stop nothing. Before any ``push``."""
        return self._detokenizer.push(ids)

    def push(self, ids: Sequence[int]) -> Passage:
        """The outcome of more tokens; after a stop word, none of them and no text.

        InvalidRequest for ids that are negative or beyond int32.
        """
        shown: list[str] = []
        for count, token in enumerate(ids):
            if self._stop_word is not None:
                return Passage("".join(shown), count, self._stop_word if count else None)
            shown.append(self._texts.push(self._detokenizer.push([token])))
            self._ids.push([token])
            if self._texts.found is not None:
                self._stop_word = self._texts.found
            elif self._ids.found is not None:
                self._stop_word = self._tokenizer.decode(self._ids.found, skip_special_tokens=False)
                shown.append(self._flush())
        return Passage("".join(shown), len(ids), self._stop_word if ids else None)

    def finish(self) -> Passage:
        """What was held back, when generation ended by itself; it may still complete a word, of tokens pushed before.

        Nothing after a stop word.
        """
        if self._stop_word is not None:
            return Passage("", 0)
        text = self._flush()
        self._stop_word = self._texts.found
        return Passage(text, 0, self._stop_word)

    def copy(self) -> StoppingDetokenizer:
        """One in the same state, for a branch that goes its own way (beams)."""
        twin = object.__new__(StoppingDetokenizer)
        twin._tokenizer, twin._stop_word = self._tokenizer, self._stop_word
        twin._detokenizer, twin._texts, twin._ids = self._detokenizer.copy(), self._texts.copy(), self._ids.copy()
        return twin

    def _flush(self) -> str:
        return self._texts.push(self._detokenizer.finish()) + self._texts.finish()
