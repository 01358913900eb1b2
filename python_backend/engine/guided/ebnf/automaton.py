"""A regular expression as an automaton of positions.

Glushkov, "The abstract theory of automata", 1961: one state for each place in the expression where a character stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from python_backend.engine.guided.ebnf.expressions import (
    Characters,
    Choice,
    Concatenation,
    Expression,
    Grammar,
    Reference,
    Repetition,
)
from python_backend.engine.guided.ebnf.lead_bytes import lead_bytes

_MAX_POSITIONS = 1000
_MAX_DEPTH = 200


class TooLarge(Exception):
    """The automaton has more positions than it is worth."""


@dataclass(slots=True)
class _Fragment:
    is_nullable: bool
    first: list[int]
    last: list[int]


@dataclass(slots=True)
class Automaton:
    """It matches what the expression matches, and more where a repetition has limits: they are left out."""

    characters: list[int] = field(default_factory=list)
    """What each position takes, as lead_bytes."""
    after: list[set[int]] = field(default_factory=list)
    """The positions that can come after each."""
    first: list[int] = field(default_factory=list)
    last: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, node: Expression, grammar: Grammar) -> Automaton:
        """Of an expression that refers to no rule which is recursive. Raises TooLarge."""
        made = cls()
        whole = made._build(node, grammar, 0)
        made.first, made.last = whole.first, set(whole.last)
        return made

    def next_characters(self, position: int) -> int:
        """What can come after a position."""
        found = 0
        for after in self.after[position]:
            found |= self.characters[after]
        return found

    def _build(self, node: Expression, grammar: Grammar, depth: int) -> _Fragment:
        if depth > _MAX_DEPTH or len(self.characters) > _MAX_POSITIONS:
            raise TooLarge
        match node:
            case Characters(ranges):
                self.characters.append(lead_bytes(ranges))
                self.after.append(set())
                only = [len(self.characters) - 1]
                return _Fragment(False, only, only)
            case Concatenation(parts):
                whole = _Fragment(True, [], [])
                for part in parts:
                    whole = self._joined(whole, self._build(part, grammar, depth + 1))
                return whole
            case Choice(options):
                built = [self._build(option, grammar, depth + 1) for option in options]
                return _Fragment(
                    any(option.is_nullable for option in built),
                    [position for option in built for position in option.first],
                    [position for option in built for position in option.last],
                )
            case Repetition(part, least, most):
                inside = self._build(part, grammar, depth + 1)
                if most is None or most > 1:
                    self._link(inside.last, inside.first)
                return _Fragment(inside.is_nullable or least == 0, inside.first, inside.last)
            case Reference(rule):
                return self._build(grammar[rule], grammar, depth + 1)

    def _joined(self, left: _Fragment, right: _Fragment) -> _Fragment:
        self._link(left.last, right.first)
        return _Fragment(
            left.is_nullable and right.is_nullable,
            left.first + right.first if left.is_nullable else left.first,
            left.last + right.last if right.is_nullable else right.last,
        )

    def _link(self, last: list[int], first: list[int]) -> None:
        for position in last:
            self.after[position].update(first)
