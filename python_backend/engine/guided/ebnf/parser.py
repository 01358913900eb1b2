"""Text to grammar.

The syntax is xgrammar's (cpp/grammar_parser.cc): rules ``name ::= ...`` that begin a line, "literals", [character
classes], ( ), |, and * + ? {n} {n,} {n,m} behind an element; # begins a comment. Lookahead assertions ``(= ...)``
are read and left out, as they only speed xgrammar up. Its macros (TagDispatch and others) are not known.
"""

from __future__ import annotations

import re
from typing import NoReturn

from python_backend.engine.guided.ebnf.expressions import (
    ROOT,
    Characters,
    Choice,
    Concatenation,
    Expression,
    Grammar,
    Reference,
    Repetition,
    merged,
    negated,
)
from python_backend.errors import InvalidRequest, did_you_mean

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_RULE = re.compile(rf"({_NAME.pattern})[ \t]*::=")
_TIMES = re.compile(r"\{\s*([0-9]{1,9})\s*(?:(,)\s*([0-9]{1,9})?\s*)?\}")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "e": "\x1b"}
_ESCAPED |= {c: c for c in "\\\"'?"}
_ESCAPED_IN_CLASS = _ESCAPED | {c: c for c in "]-["}
_MAX_DEPTH = 100
_LARGEST = 0x10FFFF


def parse(text: str) -> Grammar:
    """The grammar that ``text`` describes. Raises InvalidRequest that says where it does not, and why."""
    return _Parser(text).grammar()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._references: list[tuple[str, int]] = []

    def grammar(self) -> Grammar:
        rules: Grammar = {}
        self._skip_space()
        while self._at < len(self._text):
            begin = self._at
            found = _RULE.match(self._text, begin)
            if not found or not self._begins_line():
                self._fail('a rule is expected here: a line that begins with "name ::="')
            self._at = found.end()
            self._skip_space()
            if found[1] in rules:
                self._fail(f'rule "{found[1]}" is there twice', begin)
            rules[found[1]] = self._choice()
            if self._text.startswith("(=", self._at):
                self._group(opening="(=")
        for name, at in self._references:
            if name not in rules:
                self._fail(f'rule "{name}" is not defined{did_you_mean(name, rules)}', at)
        if ROOT not in rules:
            self._fail(f'rule "{ROOT}" is missing, which describes the whole output', 0)
        return rules

    def _choice(self) -> Expression:
        options = [self._concatenation()]
        while self._take("|"):
            options.append(self._concatenation())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _concatenation(self) -> Expression:
        parts = []
        while (part := self._element()) is not None:
            parts.append(self._repeated(part))
        if not parts:
            self._fail('something is expected here; write "" for nothing')
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _element(self) -> Expression | None:
        """The next one; None where none begins."""
        rest = self._text[self._at : self._at + 2]
        if rest == "(=":
            return None
        if rest.startswith("("):
            return self._group(opening="(")
        if rest.startswith('"'):
            return self._literal()
        if rest.startswith("["):
            return self._class()
        name = _NAME.match(self._text, self._at)
        if name is None or (self._begins_line() and _RULE.match(self._text, self._at)):
            return None
        if self._text.startswith("(", name.end()):
            self._fail(f'"{name[0]}(...)" is a macro, which the CPU engine does not know')
        self._references.append((name[0], self._at))
        self._move_to(name.end())
        return Reference(name[0])

    def _group(self, opening: str) -> Expression:
        begin = self._at
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"more than {_MAX_DEPTH} groups are nested")
        self._move_to(self._at + len(opening))
        inside = self._choice()
        if not self._take(")"):
            self._fail('")" is missing to what begins here', begin)
        self._depth -= 1
        return inside

    def _literal(self) -> Expression:
        begin = self._at
        self._at += 1
        characters = []
        while not self._text.startswith('"', self._at):
            characters.append(self._character(_ESCAPED, "the closing quote is missing to what begins here", begin))
        self._move_to(self._at + 1)
        return Concatenation(tuple(Characters(merged([(c, c)])) for c in characters))

    def _class(self) -> Expression:
        begin = self._at
        self._at += 1
        is_negated = self._text.startswith("^", self._at)
        self._at += is_negated
        missing = '"]" is missing to what begins here'
        ranges = []
        while not self._text.startswith("]", self._at):
            at = self._at
            first = last = self._character(_ESCAPED_IN_CLASS, missing, begin)
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._character(_ESCAPED_IN_CLASS, missing, begin)
            if first > last:
                self._fail("the range ends before it begins", at)
            ranges.append((first, last))
        self._move_to(self._at + 1)
        found = merged(ranges)
        if is_negated:
            found = negated(found)
        if not found:
            self._fail("this class holds no character", begin)
        return Characters(found)

    def _character(self, escaped: dict[str, str], missing: str, begin: int) -> int:
        """The code point that is written next."""
        character = self._text[self._at : self._at + 1]
        if character in ("", "\n", "\r"):
            self._fail(missing, begin)
        at = self._at
        if character != "\\":
            self._at += 1
            code_point = ord(character)
        else:
            found = _ESCAPE.match(self._text, at)
            if found is None or (found[4] is not None and found[4] not in escaped):
                self._fail("this escape is not known", at)
            self._at = found.end()
            digits = found[1] or found[2] or found[3]
            code_point = int(digits, 16) if digits else ord(escaped[str(found[4])])
        if not merged([(code_point, code_point)]):
            self._fail("this is no character of Unicode", at)
        return code_point

    def _repeated(self, part: Expression) -> Expression:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take(sign):
                return Repetition(part, least, most)
        times = _TIMES.match(self._text, self._at)
        if times is None:
            return part
        at, fewest = self._at, int(times[1])
        limit = fewest if times[2] is None else int(times[3]) if times[3] else None
        if limit is not None and limit < fewest:
            self._fail(f"at least {fewest} and at most {limit} cannot both be", at)
        self._move_to(times.end())
        return Concatenation(()) if limit == 0 else Repetition(part, fewest, limit)

    def _take(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        if found:
            self._move_to(self._at + len(sign))
        return found

    def _move_to(self, at: int) -> None:
        self._at = at
        self._skip_space()

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _begins_line(self) -> bool:
        return not self._text[self._text.rfind("\n", 0, self._at) + 1 : self._at].strip()

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        line, column = self._text.count("\n", 0, at) + 1, at - self._text.rfind("\n", 0, at)
        raise InvalidRequest(
            f"guided_decoding_guide is no EBNF grammar: line {line}, column {column}, before "
            f"{self._text[at : at + 20]!r}: {what}. Correct it."
        )
