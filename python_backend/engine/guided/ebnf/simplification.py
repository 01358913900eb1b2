"""Expressions written more simply: groups that need no brackets are opened, characters to choose from become a class.

That makes less work for the lexer, which moreover (llguidance 1.9.1) fails on some choices between overlapping
characters beyond ASCII, such as [aéê] | é | [aê].
"""

from __future__ import annotations

from python_backend.engine.guided.ebnf.expressions import (
    Characters,
    Choice,
    Concatenation,
    Expression,
    Repetition,
    merged,
)


def simplified(node: Expression) -> Expression:
    """An expression that matches the same."""
    match node:
        case Concatenation(parts):
            opened = [inner for part in map(simplified, parts) for inner in _parts(part)]
            return opened[0] if len(opened) == 1 else Concatenation(tuple(opened))
        case Choice(options):
            return _choice([inner for option in map(simplified, options) for inner in _options(option)])
        case Repetition(part, least, most):
            inside = simplified(part)
            return inside if least == most == 1 else Repetition(inside, least, most)
        case _:
            return node


def _parts(node: Expression) -> tuple[Expression, ...]:
    return node.parts if isinstance(node, Concatenation) else (node,)


def _options(node: Expression) -> tuple[Expression, ...]:
    return node.options if isinstance(node, Choice) else (node,)


def _choice(options: list[Expression]) -> Expression:
    """The characters among the options stand first, as one."""
    characters = [each for option in options if isinstance(option, Characters) for each in option.ranges]
    others = [option for option in options if not isinstance(option, Characters)]
    joined = [Characters(merged(characters)), *others] if characters else others
    return joined[0] if len(joined) == 1 else Choice(tuple(joined))
