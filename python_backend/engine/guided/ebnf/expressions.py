"""What a rule of a grammar consists of. Nodes are compared by identity: each is one place in the grammar."""

from __future__ import annotations

from dataclasses import dataclass

#: Code points, [first, last] each; ascending, apart from each other.
Ranges = tuple[tuple[int, int], ...]

#: Every character that UTF-8 can encode.
ANY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))


@dataclass(frozen=True, slots=True, eq=False)
class Characters:
    """One character out of several, of which there is at least one."""

    ranges: Ranges


@dataclass(frozen=True, slots=True, eq=False)
class Concatenation:
    """All parts one after the other; the empty string where there are none."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Repetition:
    part: Expression
    least: int
    most: int | None  # None: no limit


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    rule: str


Expression = Characters | Concatenation | Choice | Repetition | Reference

#: The rules by name; that of the whole output is "root".
Grammar = dict[str, Expression]

ROOT = "root"


def children(node: Expression) -> tuple[Expression, ...]:
    """The parts of an expression; what a reference refers to is none of them."""
    match node:
        case Concatenation(parts):
            return parts
        case Choice(options):
            return options
        case Repetition(part):
            return (part,)
        case _:
            return ()


def walk(node: Expression) -> list[Expression]:
    """The expression and all its parts."""
    found = [node]
    for each in found:
        found.extend(children(each))
    return found


def merged(ranges: list[tuple[int, int]]) -> Ranges:
    """Code points that are in any of the ranges, surrogates left out: no text has them."""
    result: list[tuple[int, int]] = []
    for low, high in ANY:
        for first, last in sorted(ranges):
            first, last = max(first, low), min(last, high)
            if first > last:
                continue
            if result and first <= result[-1][1] + 1:
                result[-1] = result[-1][0], max(result[-1][1], last)
            else:
                result.append((first, last))
    return tuple(result)


def negated(ranges: Ranges) -> Ranges:
    """All other characters."""
    result, start = [], 0
    for first, last in ranges:
        result.append((start, first - 1))
        start = last + 1
    return merged([(a, b) for a, b in [*result, (start, ANY[-1][1])] if a <= b])
