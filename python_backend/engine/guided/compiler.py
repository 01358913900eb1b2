"""Guides to matchers, by llguidance."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from python_backend.engine.guided.ebnf.lark import from_ebnf
from python_backend.engine.guided.guide import Guide, GuideType
from python_backend.engine.guided.json_schema import any_json, from_json_schema
from python_backend.engine.guided.matcher import GuideMatcher
from python_backend.errors import InvalidRequest, SetupError

_CACHED_GUIDES = 64
_MAX_REASON = 300
#: How many ways to go on the parser keeps in mind. llguidance's own limit is 2000, with which an ambiguous grammar
#: could take a second for a token; an object of 250 optional properties takes 1000.
_MAX_ITEMS_IN_ROW = 1000
#: \d, \w and \s mean ASCII, as they do for xgrammar (which takes U+00A0 for white space, too).
_ASCII_CLASSES = "dws"


class CompiledGuide:
    """A guide ready to use, for any number of sequences at once."""

    def __init__(self, start: LLMatcher, tokenizer: LLTokenizer, vocab_size: int) -> None:
        self._start = start
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    def start(self, end_id: int | None = None) -> GuideMatcher:
        """A matcher for one sequence, which ends with ``end_id``; None: with the tokenizer's. Thread-safe.

        Raises InvalidRequest when the id is not in the vocabulary.
        """
        chosen = self._tokenizer.eos_token if end_id is None else end_id
        if not 0 <= chosen < self._vocab_size:
            raise InvalidRequest(
                f"end_id is {chosen}; ids of this model lie between 0 and {self._vocab_size - 1}. "
                "Leave it out to end with the tokenizer's."
            )
        return GuideMatcher(self._start.deep_copy(), self._tokenizer, self._vocab_size, chosen)


class GuideCompiler:
    """Compiles guides for one tokenizer and keeps the latest. Thread-safe.

    Compiling runs on the caller's thread without the GIL, so an engine goes on meanwhile. llguidance bounds its own
    work by counting it, not by a clock; what takes more is refused. ``vocab_size`` is the model's: ids that the
    tokenizer does not have are never allowed, and special tokens are not either. Raises SetupError when llguidance
    cannot use the tokenizer.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int, end_id: int) -> None:
        try:
            self._tokenizer = _bridge(tokenizer_json, vocab_size, end_id)
        except ValueError as error:
            raise SetupError(f"guided decoding cannot use tokenizer.json: {error}") from error
        self._vocab_size = vocab_size
        self._limits = LLParserLimits(max_items_in_row=_MAX_ITEMS_IN_ROW, verbose_errors=False)
        self.compile = lru_cache(_CACHED_GUIDES)(self._compile)
        """The compiled guide; raises InvalidRequest with the reason when it is wrong or too complex."""

    @classmethod
    def load(cls, tokenizer_dir: Path, vocab_size: int, end_id: int) -> GuideCompiler:
        """For the tokenizer.json in a directory; SetupError when it cannot be read or used."""
        path = tokenizer_dir / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"cannot read {path}: {error}") from error
        return cls(text, vocab_size, end_id)

    def _compile(self, guide: Guide) -> CompiledGuide:
        matcher = LLMatcher(self._tokenizer, _grammar(guide), log_level=0, limits=self._limits)
        if matcher.is_error():
            raise InvalidRequest(
                f"guided_decoding_guide cannot be used as {guide.type.value}: {_reason(matcher.get_error())}. "
                "Correct or simplify it."
            )
        return CompiledGuide(matcher, self._tokenizer, self._vocab_size)


def _bridge(tokenizer_json: str, vocab_size: int, end_id: int) -> LLTokenizer:
    try:
        return LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=end_id)
    except ValueError:
        # Some checkpoints have tokens that the model does not: llguidance wants room for all of them.
        whole = LLTokenizer(tokenizer_json, eos_token=end_id)
        if whole.vocab_size <= vocab_size:
            raise
        return whole


def _grammar(guide: Guide) -> str:
    match guide.type:
        case GuideType.JSON:
            return any_json()
        case GuideType.JSON_SCHEMA:
            return from_json_schema(guide.text)
        case GuideType.REGEX:
            return LLMatcher.grammar_from_regex(regex_to_lark(guide.text, _ASCII_CLASSES))
        case GuideType.EBNF_GRAMMAR:
            return LLMatcher.grammar_from_lark(from_ebnf(guide.text))


def _reason(message: str) -> str:
    """In one line: what a regular expression's error says, with the place that its caret points to."""
    pointed = re.search(r"regex parse error:\n    (.*)\n    ( *)\^+\nerror: (.*)", message)
    if pointed:
        expression, before, reason = pointed.groups()
        return f"{reason} at {expression[len(before) :][:20]!r}, position {len(before)}"
    # What stands before the reason is a place in what was made of the guide.
    reason = re.sub(r"^(at )?\d+\(\d+\): ", "", message.split("\n", 1)[0]).rstrip(".")
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."
