"""A grammar as llguidance's Lark has it: rules in lower case for the parser, terminals in upper case for the lexer."""

from __future__ import annotations

from python_backend.engine.guided.ebnf.expressions import (
    ROOT,
    Characters,
    Choice,
    Concatenation,
    Expression,
    Grammar,
    Ranges,
    Reference,
    Repetition,
    walk,
)
from python_backend.engine.guided.ebnf.grouping import grouped, regular_rules
from python_backend.engine.guided.ebnf.lexemes import Lexemes
from python_backend.engine.guided.ebnf.loops import with_loops
from python_backend.engine.guided.ebnf.parser import parse
from python_backend.engine.guided.ebnf.settling import names_in, settled
from python_backend.engine.guided.ebnf.simplification import simplified
from python_backend.errors import InvalidRequest

_MAX_EXPRESSIONS = 10_000
#: With every rule that is not recursive put in where it is named, as llguidance does it. It has a limit of its own, but
#: can take seconds to see that it is exceeded.
_MAX_EXPANDED = 200_000


def from_ebnf(text: str) -> str:
    """Lark that describes the same outputs as the EBNF. Raises InvalidRequest with the place of what is wrong."""
    grammar = _reachable(parse(text))
    _check_size(sum(len(walk(body)) for body in grammar.values()), _MAX_EXPRESSIONS, "")
    _check_productive(grammar)
    grammar = {rule: simplified(body) for rule, body in with_loops(grammar).items()}
    regular = regular_rules(grammar)
    grammar = {rule: grouped(body, regular) for rule, body in grammar.items()}
    _check_size(_expanded(grammar, regular), _MAX_EXPANDED, " with the rules that it names put in")
    return _Writer(grammar).text()


class _Writer:
    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._lexemes = Lexemes(grammar)
        self._number = {rule: number for number, rule in enumerate(grammar)}
        self._lines: dict[str, str] = {}
        self._pending: list[tuple[str, Expression, bool]] = []

    def text(self) -> str:
        start = self._named(Reference(ROOT), Reference(ROOT) in self._lexemes)
        for name, body, is_lexeme in self._pending:
            self._lines[name] = self._part(body, is_lexeme)
        lines = [f"{name}: {body}" for name, body in self._lines.items()]
        return "\n".join([f"start: {start}", *lines, ""])

    def _named(self, node: Reference, is_lexeme: bool) -> str:
        name = f"{'L' if is_lexeme else 'r'}{self._number[node.rule]}"
        if name not in self._lines:
            self._lines[name] = ""
            self._pending.append((name, self._grammar[node.rule], is_lexeme))
        return name

    def _lexeme(self, node: Expression) -> str:
        if isinstance(node, Reference):
            return self._named(node, is_lexeme=True)
        if isinstance(node, Characters):
            return self._body(node, is_lexeme=True)
        name = f"X{len(self._lines)}"
        self._lines[name] = ""
        self._pending.append((name, node, True))
        return name

    def _body(self, node: Expression, is_lexeme: bool) -> str:
        """The expression as it stands in a rule, or in a terminal."""
        match node:
            case Characters(ranges):
                return f"/{_class(ranges)}/"
            case Concatenation(parts) if is_lexeme and parts and all(isinstance(part, Characters) for part in parts):
                return f"/{''.join(_class(part.ranges) for part in parts if isinstance(part, Characters))}/"
            case Concatenation(parts):
                return f"({' '.join(self._part(part, is_lexeme) for part in parts)})" if parts else '""'
            case Choice(options):
                return f"({' | '.join(self._part(option, is_lexeme) for option in options)})"
            case Repetition(part, least, most):
                return f"{self._part(part, is_lexeme)}{{{least},{'' if most is None else most}}}"
            case Reference():
                return self._named(node, is_lexeme)

    def _part(self, node: Expression, is_lexeme: bool) -> str:
        if not is_lexeme and node in self._lexemes:
            return self._lexeme(node)
        text = self._body(node, is_lexeme)
        return f"({text})" if isinstance(node, Repetition) else text


def _class(ranges: Ranges) -> str:
    inside = "".join(rf"\x{{{a:x}}}" if a == b else rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in ranges)
    return inside if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else f"[{inside}]"


def _reachable(grammar: Grammar) -> Grammar:
    names = names_in(grammar)
    reached = {ROOT: grammar[ROOT]}
    pending = [ROOT]
    for rule in pending:
        for name in sorted(names[rule] - reached.keys()):
            reached[name] = grammar[name]
            pending.append(name)
    return reached


def _check_size(size: int, limit: int, how: str) -> None:
    if size > limit:
        raise InvalidRequest(
            f"guided_decoding_guide has more than {limit} characters, names and groups{how}; that is the limit of EBNF "
            "grammars. Simplify it."
        )


def _expanded(grammar: Grammar, regular: set[str]) -> int:
    """The size of all regular rules, each with those that it names put in; no more than the limit for each."""

    def size(rule: str, known: dict[str, int]) -> int:
        nodes = walk(grammar[rule]) if rule in regular else []
        named = sum(known[node.rule] for node in nodes if isinstance(node, Reference))
        return min(len(nodes) + named, _MAX_EXPANDED + 1)

    return sum(settled(grammar, 0, size).values())


def _check_productive(grammar: Grammar) -> None:
    """Raises InvalidRequest when there is a rule that no text can come to the end of."""
    found = settled(grammar, False, lambda rule, known: _ends(grammar[rule], known))
    endless = next((rule for rule, ends in found.items() if not ends), None)
    if endless is not None:
        raise InvalidRequest(
            f'guided_decoding_guide is no EBNF grammar: rule "{endless}" leads to itself without end. '
            "Give it an alternative that does not."
        )


def _ends(node: Expression, known: dict[str, bool]) -> bool:
    match node:
        case Characters():
            return True
        case Concatenation(parts):
            return all(_ends(part, known) for part in parts)
        case Choice(options):
            return any(_ends(option, known) for option in options)
        case Repetition(part, least, _):
            return least == 0 or _ends(part, known)
        case Reference(rule):
            return known[rule]
