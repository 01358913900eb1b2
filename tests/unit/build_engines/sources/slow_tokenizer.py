"""Byte-level BPE as it is defined, with the rules that models split text by: slow, and independent of `tokenizers`."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def byte_alphabet() -> list[str]:
    """GPT-2's character for each byte: itself where it is printable, else the next free one from U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    free = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(free)) for byte in range(256)]


def kind(character: str) -> str:
    """GPT-2's classes: letter, number, space, or other."""
    category = unicodedata.category(character)[0]
    if category in "LN":
        return category
    # Python counts the separators U+001C to U+001F as spaces; Unicode's White_Space does not.
    return "space" if character.isspace() and not "\x1c" <= character <= "\x1f" else "other"


def digits_apart(text: str) -> Iterator[str]:
    """Every number character alone, the text between them whole."""
    between = ""
    for character in text:
        if kind(character) == "N":
            yield from filter(None, (between, character))
            between = ""
        else:
            between += character
    yield from filter(None, (between,))


def words(text: str) -> Iterator[str]:
    """GPT-2's pattern: 's|'t|'re|'ve|'m|'ll|'d| ?letters| ?numbers| ?others|spaces before the last of a run|spaces."""
    while text:
        end = _word_end(text)
        yield text[:end]
        text = text[end:]


def _word_end(text: str) -> int:
    for contraction in CONTRACTIONS:
        if text.startswith(contraction):
            return len(contraction)
    start = 1 if text[0] == " " and len(text) > 1 and kind(text[1]) != "space" else 0
    end = start + 1
    while end < len(text) and kind(text[end]) == kind(text[start]):
        end += 1
    if kind(text[start]) == "space" and end < len(text) and end > 1:
        return end - 1
    return end


def smollm_words(text: str) -> Iterator[str]:
    """SmolLM2's rule."""
    for piece in digits_apart(text):
        yield from words(piece)


def gpt4_words(text: str, *, digits_together: int) -> Iterator[str]:
    """The rule of GPT-4 and its followers; Llama 3 keeps up to three digits together, Qwen2 none.

    (?i:'s|'t|'re|'ve|'m|'ll|'d) | one other than a line's end, and letters | numbers | a space and others, and the
    line's end | spaces up to a line's end | spaces before the last of a run | spaces.
    """
    while text:
        end = _gpt4_word_end(text, digits_together)
        yield text[:end]
        text = text[end:]


def _gpt4_word_end(text: str, digits_together: int) -> int:
    for contraction in CONTRACTIONS:
        # U+017F, the long s, is an s to a pattern that ignores case.
        if text[: len(contraction)].lower().replace("\u017f", "s") == contraction:
            return len(contraction)
    start = 0 if kind(text[0]) in "LN" or text[0] in "\r\n" else 1
    letters = _run(text, start, "L")
    if letters > start:
        return letters
    if kind(text[0]) == "N":
        return min(_run(text, 0, "N"), digits_together)
    start = 1 if text[0] == " " else 0
    others = _run(text, start, "other")
    if others > start:
        while others < len(text) and text[others] in "\r\n":
            others += 1
        return others
    spaces = _run(text, 0, "space")
    last_line_end = max(text.rfind("\r", 0, spaces), text.rfind("\n", 0, spaces))
    if last_line_end >= 0:
        return last_line_end + 1
    return spaces - 1 if 1 < spaces < len(text) else spaces


def _run(text: str, start: int, of: str) -> int:
    end = start
    while end < len(text) and kind(text[end]) == of:
        end += 1
    return end


class SlowTokenizer:
    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[str],
        special: Sequence[str],
        split: Callable[[str], Iterator[str]] = smollm_words,
        whole_words: bool = False,
    ) -> None:
        """``whole_words``: a word that is a token is taken as it is, whatever merging would give."""
        self._split, self._whole_words = split, whole_words
        self._ids = {token: index for index, token in enumerate(tokens)}
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self._special = re.compile("(" + "|".join(re.escape(token) for token in special) + ")")
        self._alphabet = byte_alphabet()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(self._special.split(text)):
            if index % 2:
                ids.append(self._ids[part])
            else:
                ids += [i for word in self._split(part) for i in self._merge(word)]
        return ids

    def _merge(self, word: str) -> list[int]:
        # A byte that the vocabulary lacks is left out before merging.
        symbols = [self._alphabet[byte] for byte in word.encode()]
        if self._whole_words and "".join(symbols) in self._ids:
            return [self._ids["".join(symbols)]]
        symbols = [symbol for symbol in symbols if symbol in self._ids]
        while pairs := [pair for pair in itertools.pairwise(symbols) if pair in self._ranks]:
            best = min(pairs, key=self._ranks.__getitem__)
            at = next(i for i in range(len(symbols)) if tuple(symbols[i : i + 2]) == best)
            symbols[at : at + 2] = ["".join(best)]
        return [self._ids[symbol] for symbol in symbols]
