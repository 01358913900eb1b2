"""Random grammars: the guide accepts just the strings that a slow, obvious reading of the grammar derives."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.engine.guided import GuideType
from tests.guided_output import accepts, compiled

LONGEST = 4
LETTERS = "abé"  # é is two bytes, the first of which ê has too
RULES = ("root", "one", "two")

Node = tuple[Any, ...]


def expressions() -> st.SearchStrategy[Node]:
    literals = st.text("abéê", max_size=2).map(lambda text: ("literal", text))
    classes = st.sets(st.sampled_from("abéê"), min_size=1).map(lambda found: ("class", "".join(sorted(found))))
    references = st.sampled_from(RULES).map(lambda rule: ("rule", rule))
    return st.recursive(
        literals | classes | references,
        lambda inside: st.one_of(
            st.lists(inside, min_size=2, max_size=3).map(lambda parts: ("all", *parts)),
            st.lists(inside, min_size=2, max_size=3).map(lambda parts: ("any", *parts)),
            st.tuples(st.just("times"), inside, st.sampled_from([(0, None), (1, None), (0, 1), (2, 3)])),
        ),
        max_leaves=6,
    )


def ebnf(node: Node) -> str:
    match node:
        case ("literal", text):
            return f'"{text}"'
        case ("class", letters):
            return f"[{letters}]"
        case ("rule", name):
            return str(name)
        case ("all", *parts):
            return f"({' '.join(map(ebnf, parts))})"
        case ("any", *parts):
            return f"({' | '.join(map(ebnf, parts))})"
        case ("times", part, (least, most)):
            return f"({ebnf(part)}){{{least},{'' if most is None else most}}}"
    raise AssertionError(node)


def strings(node: Node, of: dict[str, set[str]]) -> set[str]:
    """All that the node derives, up to a length, given what the rules do."""
    match node:
        case ("literal", text):
            return {text}
        case ("class", letters):
            return set(letters)
        case ("rule", name):
            return of[name]
        case ("all", *parts):
            return joined([strings(part, of) for part in parts])
        case ("any", *parts):
            return set().union(*(strings(part, of) for part in parts))
        case ("times", part, (least, most)):
            found = strings(part, of)
            if most is None:
                return joined([found] * least + [found | {""}] * LONGEST)
            return set().union(*(joined([found] * count) for count in range(least, most + 1)))
    raise AssertionError(node)


def joined(parts: list[set[str]]) -> set[str]:
    whole = {""}
    for part in parts:
        whole = {a + b for a in whole for b in part if len(a + b) <= LONGEST}
    return whole


def derived(grammar: dict[str, Node]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {rule: set() for rule in grammar}
    while (more := {rule: strings(node, found) for rule, node in grammar.items()}) != found:
        found = more
    return found


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({rule: expressions() for rule in RULES}))
def test_a_guide_accepts_what_the_grammar_derives(grammar: dict[str, Node]) -> None:
    text = "\n".join(f"{rule} ::= {ebnf(node)}" for rule, node in grammar.items())
    expected = derived(grammar)
    if not all(expected.values()):
        return
    guide = compiled(GuideType.EBNF_GRAMMAR, text)
    candidates = {"".join(letters) for count in range(4) for letters in product(LETTERS, repeat=count)}
    candidates |= set(sorted(expected["root"])[:50])
    assert {string for string in candidates if accepts(guide, string)} == candidates & expected["root"]
