"""Rules that only repeat: ``s ::= item s | end`` and ``s ::= s item | end``.

Written as repetitions they need no recursion, which suits the lexer; and llguidance's parser, which would keep every
round of ``item s`` open until the last one ends, and gives up after some hundreds.
"""

from __future__ import annotations

from python_backend.engine.guided.ebnf.expressions import (
    Choice,
    Concatenation,
    Expression,
    Grammar,
    Reference,
    Repetition,
    walk,
)


def with_loops(grammar: Grammar) -> Grammar:
    """The same grammar with such rules turned into ``item* end`` and ``end item*``."""
    return {rule: _looped(rule, body) for rule, body in grammar.items()}


def _looped(rule: str, body: Expression) -> Expression:
    options = [_parts(option) for option in (body.options if isinstance(body, Choice) else (body,))]
    options = [parts for parts in options if not (len(parts) == 1 and _is(rule, parts[0]))]  # It would add nothing.
    ends = [parts for parts in options if not _names(rule, parts)]
    rounds = [parts for parts in options if _names(rule, parts)]
    if not ends or not rounds:
        return body
    if all(_is(rule, parts[-1]) and not _names(rule, parts[:-1]) for parts in rounds):
        return Concatenation((_repeated([parts[:-1] for parts in rounds]), _choice(ends)))
    if all(_is(rule, parts[0]) and not _names(rule, parts[1:]) for parts in rounds):
        return Concatenation((_choice(ends), _repeated([parts[1:] for parts in rounds])))
    return body


def _parts(option: Expression) -> tuple[Expression, ...]:
    return option.parts if isinstance(option, Concatenation) else (option,)


def _choice(options: list[tuple[Expression, ...]]) -> Expression:
    made = tuple(parts[0] if len(parts) == 1 else Concatenation(parts) for parts in options)
    return made[0] if len(made) == 1 else Choice(made)


def _repeated(options: list[tuple[Expression, ...]]) -> Expression:
    return Repetition(_choice(options), 0, None)


def _is(rule: str, node: Expression) -> bool:
    return isinstance(node, Reference) and node.rule == rule


def _names(rule: str, parts: tuple[Expression, ...]) -> bool:
    return any(_is(rule, node) for part in parts for node in walk(part))
