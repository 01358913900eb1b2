"""What the lexer could take, side by side, put into groups: one large lexeme is better than many small ones."""

from __future__ import annotations

from itertools import groupby

from python_backend.engine.guided.ebnf.expressions import (
    Choice,
    Concatenation,
    Expression,
    Grammar,
    Reference,
    Repetition,
    walk,
)
from python_backend.engine.guided.ebnf.settling import names_in, settled


def regular_rules(grammar: Grammar) -> set[str]:
    """Rules that do not lead to themselves, nor to any that do."""
    names = names_in(grammar)
    found = settled(grammar, False, lambda rule, known: all(known[name] for name in names[rule]))
    return {rule for rule, is_regular in found.items() if is_regular}


def is_regular(node: Expression, rules: set[str]) -> bool:
    """Whether it names only rules among these."""
    return all(part.rule in rules for part in walk(node) if isinstance(part, Reference))


def grouped(node: Expression, rules: set[str]) -> Expression:
    """An expression that matches the same. ``rules``: the regular ones."""
    if is_regular(node, rules):
        return node
    match node:
        case Concatenation(parts):
            runs = groupby(parts, lambda part: is_regular(part, rules))
            return Concatenation(tuple(part for is_run, run in runs for part in _run(list(run), is_run, rules)))
        case Choice(options):
            simple = [option for option in options if is_regular(option, rules)]
            others = [grouped(option, rules) for option in options if not is_regular(option, rules)]
            return Choice((*others, *([Choice(tuple(simple))] if len(simple) > 1 else simple)))
        case Repetition(part, least, most):
            return Repetition(grouped(part, rules), least, most)
        case _:
            return node


def _run(parts: list[Expression], is_run: bool, rules: set[str]) -> list[Expression]:
    if not is_run:
        return [grouped(part, rules) for part in parts]
    return [Concatenation(tuple(parts))] if len(parts) > 1 else parts
