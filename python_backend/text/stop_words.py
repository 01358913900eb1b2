"""Where generation ends because of a stop word: on text, whatever the token borders, and on token ids.

The word that is complete first ends generation, since its last character is where generation can stop; of words
that are complete at the same character the longest counts. So the outcome does not depend on how the text is cut.

In NVIDIA's repository the engine compares token ids, and the stop word stays in ``output_ids`` and ``text_output``.
Here ``output_ids`` ends with the token that completes the word, as there, and the text ends before the word. Whoever
needs upstream's text appends the word that is reported.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from python_backend.errors import InvalidRequest
from python_backend.text.word_automaton import WordAutomaton

MAX_WORD_SYMBOLS = 1 << 16  # characters, or tokens, of all words of a request


class StopWords:
    """Finds the first stop word in one growing text, and holds back what may be the beginning of one.

    Raises InvalidRequest for an empty word, and when the words have more than MAX_WORD_SYMBOLS characters.
    """

    __slots__ = ("_automaton", "_first", "_held", "_state", "_words", "found")

    def __init__(self, words: Sequence[str]) -> None:
        _check(words, "characters")
        self._words = tuple(words)
        self._automaton: WordAutomaton[str] = WordAutomaton(self._words)
        self._first = self._automaton.first_symbols
        self._state = 0
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """What is now certain to be answer; once a word is ``found``, the rest up to it and then nothing."""
        if self.found is not None:
            return ""
        if self._state == 0 and self._first.isdisjoint(text):
            return text
        step, match, state = self._automaton.step, self._automaton.match, self._state
        for position, character in enumerate(text, start=1):
            state = step(state, character)
            index = match[state]
            if index is not None:
                self.found = self._words[index]
                return (self.finish() + text[:position]).removesuffix(self.found)
        self._state = state
        text = self.finish() + text
        certain = len(text) - self._automaton.depth[state]
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """The text held back, now that none follows; nothing after a match."""
        held, self._held = self._held, ""
        return held

    def copy(self) -> StopWords:
        """The same words and state, for a branch that goes its own way."""
        twin = object.__new__(StopWords)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin


class TokenStopWords:
    """Finds the first stop word in one growing sequence of generated token ids.

    Raises InvalidRequest as StopWords does. The prompt is not part of the sequence; TensorRT-LLM's kernel would also
    stop at a word that began there.
    """

    __slots__ = ("_automaton", "_state", "_words", "found")

    def __init__(self, words: Sequence[tuple[int, ...]]) -> None:
        _check(words, "tokens")
        self._words = tuple(words)
        self._automaton: WordAutomaton[int] = WordAutomaton(self._words)
        self._state = 0
        self.found: tuple[int, ...] | None = None

    def push(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` belong to the output: those up to and including the end of a word, then none."""
        if self.found is not None:
            return 0
        for position, token in enumerate(ids, start=1):
            self._state = self._automaton.step(self._state, token)
            index = self._automaton.match[self._state]
            if index is not None:
                self.found = self._words[index]
                return position
        return len(ids)

    def copy(self) -> TokenStopWords:
        """The same words and state, for a branch that goes its own way."""
        twin = object.__new__(TokenStopWords)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin


def _check(words: Sequence[Sequence[Hashable]], unit: str) -> None:
    for position, word in enumerate(words, start=1):
        if not word:
            raise InvalidRequest(f"stop word {position} of {len(words)} is empty. Leave it out.")
    total = sum(map(len, words))
    if total > MAX_WORD_SYMBOLS:
        raise InvalidRequest(f"the stop words have {total} {unit}; at most {MAX_WORD_SYMBOLS} are allowed. Send fewer.")
