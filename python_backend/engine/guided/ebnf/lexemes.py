"""Which parts of a grammar the lexer may take.

llguidance parses lexemes, not characters: its lexer matches regular expressions, each as far as it goes, and its
parser goes from lexeme to lexeme. That is some hundred times as fast as going by characters, but not the same: with
``word "ab"`` and ``word ::= [a-z]*`` the lexer would take the final "ab" for a part of the word. So an expression
becomes a lexeme only where the longest match is the only one: where no match of a lexeme can be followed by a character
that another lexeme (or the same one) could have gone on with, or by one with the same first byte. Others are taken
apart, down to single characters.
"""

from __future__ import annotations

from itertools import product

from python_backend.engine.guided.ebnf.automaton import Automaton, TooLarge
from python_backend.engine.guided.ebnf.expressions import ROOT, Characters, Expression, Grammar, Reference, children
from python_backend.engine.guided.ebnf.grouping import is_regular, regular_rules
from python_backend.engine.guided.ebnf.neighbours import Neighbours
from python_backend.errors import InvalidRequest

#: Pairs of positions to look at. Beyond that expressions are taken apart unseen: slower to follow, but right.
_MAX_STEPS = 1_000_000
_MAX_PAIRS = 1_000_000


class Lexemes:
    """Holds for a grammar and an expression in it: ``node in lexemes``."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._regular = regular_rules(grammar)
        self._apart: set[Expression] = set()
        if ROOT in self._regular:
            return
        self._following = Neighbours(grammar).following
        self._automata: dict[Expression, Automaton] = {}
        self._steps_left = _MAX_STEPS
        self._take_apart()

    def __contains__(self, node: Expression) -> bool:
        return node not in self._apart and is_regular(node, self._regular)

    def found(self) -> list[Expression]:
        """All that the lexer is to know."""
        lexemes, rules, entered = [], [ROOT], {ROOT}
        for rule in rules:
            nodes = [self._grammar[rule]]
            for node in nodes:
                if node in self:
                    lexemes.append(node)
                elif isinstance(node, Reference):
                    if node.rule not in entered:
                        entered.add(node.rule)
                        rules.append(node.rule)
                else:
                    nodes.extend(children(node))
        return lexemes

    def _take_apart(self) -> None:
        done: set[tuple[Expression, Expression]] = set()
        while pairs := [pair for pair in self._pairs() if pair not in done]:
            done.update(pairs)
            for shorter, longer in pairs:
                if longer not in self._apart and self._runs_on(shorter, longer):
                    self._apart.add(longer)

    def _pairs(self) -> list[tuple[Expression, Expression]]:
        """Of what may still be a lexeme, those where the second is more than a character."""
        while new := [node for node in self.found() if node not in self._automata]:
            self._automata |= {node: self._automaton(node) for node in new}
        lexemes = self.found()
        longer = [node for node in lexemes if not isinstance(node, Characters)]
        if len(lexemes) * len(longer) > _MAX_PAIRS:
            raise InvalidRequest(
                f"guided_decoding_guide has {len(lexemes)} words beside rules that are recursive, more than the CPU "
                "engine can tell apart. Simplify it."
            )
        return [(one, other) for other in longer for one in lexemes]

    def _automaton(self, node: Expression) -> Automaton:
        try:
            return Automaton.of(node, self._grammar)
        except TooLarge:
            self._apart.add(node)
            return Automaton()

    def _runs_on(self, shorter: Expression, longer: Expression) -> bool:
        """Whether ``longer`` can go on where ``shorter`` matches and something else goes on, too."""
        one, other, behind = self._automata[shorter], self._automata[longer], self._following[shorter]
        self._steps_left -= len(one.first) * len(other.first)
        if self._steps_left < 0:
            return True
        pairs = [(p, q) for p in one.first for q in other.first if one.characters[p] & other.characters[q]]
        seen = set(pairs)
        for p, q in pairs:
            self._steps_left -= len(one.after[p]) * len(other.after[q])
            if self._steps_left < 0 or (p in one.last and behind & other.next_characters(q)):
                return True
            for pair in product(one.after[p], other.after[q]):
                if pair not in seen and one.characters[pair[0]] & other.characters[pair[1]]:
                    seen.add(pair)
                    pairs.append(pair)
        return False
