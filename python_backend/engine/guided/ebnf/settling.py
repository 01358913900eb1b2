"""Facts about rules that follow from those about the rules they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from python_backend.engine.guided.ebnf.expressions import Grammar, Reference, walk

V = TypeVar("V")


def names_in(grammar: Grammar) -> dict[str, set[str]]:
    """The rules that each rule names."""
    return {rule: {node.rule for node in walk(body) if isinstance(node, Reference)} for rule, body in grammar.items()}


def settled(grammar: Grammar, least: V, fact: Callable[[str, dict[str, V]], V]) -> dict[str, V]:
    """The least facts that agree with each other, when ``fact`` gives that of a rule from those found so far.

    ``fact`` may only grow as what it is given grows. It is asked again for a rule when one that it names has changed.
    """
    named_by: dict[str, list[str]] = {rule: [] for rule in grammar}
    for rule, names in names_in(grammar).items():
        for name in names:
            named_by[name].append(rule)
    found = dict.fromkeys(grammar, least)
    pending = dict.fromkeys(grammar)  # As a stack: what was reached last depends on least.
    while pending:
        rule, _ = pending.popitem()
        value = fact(rule, found)
        if value != found[rule]:
            found[rule] = value
            pending.update(dict.fromkeys(named_by[rule]))
    return found
