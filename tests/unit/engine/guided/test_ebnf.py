"""EBNF as xgrammar has it: what is accepted, what is refused, and where."""

from __future__ import annotations

import pytest

from python_backend.engine.guided import GuideType
from python_backend.engine.guided.ebnf.lark import from_ebnf
from python_backend.errors import InvalidRequest
from tests.guided_output import accepts, compiled

JSON = r"""
# What xgrammar calls EBNF
root ::= value
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws "}" | "{" ws pair ("," ws pair)* "}"
pair ::= string ws ":" ws value ws
array ::= "[" ws "]" | "[" ws value ws ("," ws value ws)* "]"
string ::= "\"" character* "\""
character ::= [^"\\\x00-\x1f] | "\\" ["\\/bfnrt] | "\\u" hex{4}
hex ::= [0-9a-fA-F]
number ::= "-"? integer ("." digit+)? ([eE] [-+]? digit+)?
integer ::= "0" | [1-9] digit*
digit ::= [0-9]
ws ::= [ \n\t\r]*
"""


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "a"\n  | "b"', ["a", "b"], ["ab", ""]),
        ("root ::= [^a]", ["b", "\n", "é", "😀"], ["a", "bb"]),
        (r'root ::= "\x41\u0042\U00000043\n\t\\\"\'\?"', ["ABC\n\t\\\"'?"], []),
        (r"root ::= [a\]\-\\]+ [-+] [b-]", ["]-b", "a\\+-"], ["b--"]),
        (r"root ::= [\x41-\u0043]", ["B"], ["D"]),
        ("root ::= [[a&&b]", ["[", "&"], ["c"]),
        ("root ::= [à-ü]", ["é"], ["e", "ÿ"]),
        ('root ::= a (= "b")\na ::= "x" # none of it: (', ["x"], ["xb"]),
        ('root ::= "a"{2,3} "b"{2,} "c"{2} "d"{0} "e"{0,1}', ["aabbcc", "aaabbbcce"], ["abbcc", "aabbc", "aabbccd"]),
        ('root ::= ""', [""], ["a"]),
        ('root ::= b-c d.e\nb-c ::= "x"\nd.e::= "y"', ["xy"], ["x"]),
        ('root ::= ("a" | "ab") ("c" | "bcd")', ["ac", "abc", "abcd", "abbcd"], ["ab"]),
        ('root ::= "(" root ")" | word "ab"\nword ::= [a-z]*', ["ab", "(xyzab)", "((abab))"], ["(xyz)", "(abc)"]),
        ('root ::= "x" root "y" | "x" | "xy" "z"', ["x", "xxy", "xyz", "xxyzy"], ["xy", "xxyz"]),
        ('root ::= "é" root "è" | word\nword ::= [é]*', ["é", "éééè", "", "ééè"], ["è", "éèè"]),
        ('root ::= item "," root | item\nitem ::= [0-9]+', ["1", "12,3", ",".join("1" * 600)], ["1,", ","]),
        ('root ::= root "+" [0-9] | [0-9]', ["1", "1+2+3"], ["+", "1+"]),
        ('root ::= "a" | root* | "" root | root', ["", "aaa"], ["b"]),
        ('root ::= "" | "a" root | root | "b"', ["", "aab"], ["bb"]),
        (JSON, ['{"a": [1, -2.5e3, "x\\n", {}], "b":null}', '"\\u00e9"', "0"], ["{a:1}", "01", '"\n"', "[1,]"]),
    ],
)
def test_a_grammar_describes_whole_outputs(grammar: str, good: list[str], bad: list[str]) -> None:
    guide = compiled(GuideType.EBNF_GRAMMAR, grammar)
    assert [text for text in good if not accepts(guide, text)] == []
    assert [text for text in bad if accepts(guide, text)] == []


@pytest.mark.parametrize(
    ("grammar", "line", "column", "reason"),
    [
        ("", 1, 1, 'rule "root" is missing'),
        ('main ::= "a"', 1, 1, 'rule "root" is missing'),
        ('root ::= "a"\n\nroot ::= "b"', 3, 1, 'rule "root" is there twice'),
        ('root ::= "a" tial\ntail ::= "b"', 1, 14, 'rule "tial" is not defined; did you mean "tail"'),
        ('root ::= "a" |', 1, 15, 'write "" for nothing'),
        ('root ::= | "a"', 1, 10, 'write "" for nothing'),
        ('root ::= ("a"', 1, 10, '")" is missing'),
        ('root ::= "a" )', 1, 14, "a rule is expected"),
        ('root ::= "a\nb"', 1, 10, "the closing quote is missing"),
        ("root ::= [a", 1, 10, '"]" is missing'),
        ("root ::= []", 1, 10, "holds no character"),
        ("root ::= [z-a]", 1, 11, "ends before it begins"),
        (r'root ::= "\d"', 1, 11, "this escape is not known"),
        (r'root ::= "\ud800"', 1, 11, "no character of Unicode"),
        (r'root ::= "\UFFFFFFFF"', 1, 11, "no character of Unicode"),
        ('root ::= "a"{3,2}', 1, 13, "at least 3 and at most 2"),
        ('root ::= "a"**', 1, 14, "a rule is expected"),
        ('root ::= b ::= "x"', 1, 12, "a rule is expected"),
        ("root ::= 'a'", 1, 10, "something is expected"),
        ('root ::= TagDispatch(("a", b))\nb ::= "x"', 1, 10, "is a macro"),
        ("root ::= " + "(" * 5000, 1, 110, "more than 100 groups"),
    ],
)
def test_the_place_of_a_mistake_is_named(grammar: str, line: int, column: int, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_ebnf(grammar)
    assert f"line {line}, column {column}, " in str(caught.value)
    assert reason in str(caught.value)


def test_a_grammar_without_end_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='rule "b" leads to itself without end'):
        from_ebnf('root ::= "a" | b\nb ::= "x" b')
    from_ebnf('root ::= "a"\nb ::= "x" b')  # Nothing leads there.


def test_a_grammar_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than 10000 characters, names and groups; that is the limit"):
        from_ebnf(f'root ::= "{"a" * 10_000}"')
    words = " | ".join(f'"{number:04}"' for number in range(1500))
    with pytest.raises(InvalidRequest, match="1502 words beside rules that are recursive"):
        from_ebnf(f'root ::= "(" root ")" | {words}')
    rules = "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(1000))
    with pytest.raises(InvalidRequest, match="limit of EBNF grammars"):
        from_ebnf(f'root ::= r0\n{rules}\nr1000 ::= "a"')


def test_expressions_without_end_of_ways_to_go_on_are_bounded() -> None:
    """More pairs of places than are looked at: taken apart unseen, and still right."""
    guide = compiled(GuideType.EBNF_GRAMMAR, f'root ::= "(" root ")" w | w\nw ::= {"[a-c]? " * 90}"d"')
    assert accepts(guide, "(d)abcd")
    assert not accepts(guide, "(d)abc")
