"""Which characters an expression can begin with, and which can come behind it: FIRST and FOLLOW.

See Aho, Lam, Sethi, Ullman, "Compilers: Principles, Techniques, and Tools", 2nd edition, 4.4.2.
"""

from __future__ import annotations

from python_backend.engine.guided.ebnf.expressions import (
    ROOT,
    Characters,
    Choice,
    Concatenation,
    Expression,
    Grammar,
    Reference,
    Repetition,
)
from python_backend.engine.guided.ebnf.lead_bytes import lead_bytes
from python_backend.engine.guided.ebnf.settling import settled


class Neighbours:
    """Of every place in the rules that ``root`` can reach. A rule's followers are those of all places that name it."""

    def __init__(self, grammar: Grammar) -> None:
        self.following: dict[Expression, int] = {}
        """As lead_bytes, by place."""
        self._begins = settled(grammar, (False, 0), lambda rule, known: _begin(grammar[rule], known))
        self._ends = dict.fromkeys(grammar, 0)
        self._pending = [ROOT]
        visited = set()
        while self._pending:
            rule = self._pending.pop()
            visited.add(rule)
            self._spread(grammar[rule], self._ends[rule], visited)

    def _spread(self, node: Expression, behind: int, visited: set[str]) -> None:
        """Note that ``behind`` can come behind the node, and what that means for its parts."""
        self.following[node] = self.following.get(node, 0) | behind
        match node:
            case Concatenation(parts):
                for part in reversed(parts):
                    self._spread(part, behind, visited)
                    is_nullable, first = _begin(part, self._begins)
                    behind = first | behind if is_nullable else first
            case Choice(options):
                for option in options:
                    self._spread(option, behind, visited)
            case Repetition(part, _, most):
                self._spread(part, behind if most == 1 else behind | _begin(part, self._begins)[1], visited)
            case Reference(rule):
                if rule not in visited or behind & ~self._ends[rule]:
                    self._ends[rule] |= behind
                    self._pending.append(rule)


def _begin(node: Expression, known: dict[str, tuple[bool, int]]) -> tuple[bool, int]:
    """Whether it matches nothing, too, and the characters that it begins with, as lead_bytes."""
    match node:
        case Characters(ranges):
            return False, lead_bytes(ranges)
        case Concatenation(parts):
            found = 0
            for part in parts:
                is_nullable, first = _begin(part, known)
                found |= first
                if not is_nullable:
                    return False, found
            return True, found
        case Choice(options):
            begins = [_begin(option, known) for option in options]
            found = 0
            for _, first in begins:
                found |= first
            return any(is_nullable for is_nullable, _ in begins), found
        case Repetition(part, least, _):
            is_nullable, first = _begin(part, known)
            return is_nullable or least == 0, first
        case Reference(rule):
            return known[rule]
