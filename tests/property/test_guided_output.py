"""Whatever a model prefers, its output parses: random schemas and expressions, followed at random until the end."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.engine.guided import GuideType
from tests.guided_output import at_random, compiled, schema, text_of, write

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.text("ab \"\\é{}'", max_size=4)


def scalars() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-1000, 1000), st.integers(0, 500))
    return st.one_of(
        st.sampled_from(["null", "boolean", "integer", "number", "string"]).map(lambda kind: {"type": kind}),
        bounds.map(lambda pair: {"type": "integer", "minimum": pair[0], "maximum": sum(pair)}),
        bounds.map(lambda pair: {"type": "number", "minimum": pair[0], "maximum": sum(pair) + 1}),
        st.tuples(st.integers(0, 3), st.integers(0, 3)).map(
            lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
        ),
        st.sampled_from(["^[a-c]{2}x?$", "^[0-9]+-z$"]).map(lambda pattern: {"type": "string", "pattern": pattern}),
        st.lists(NAMES | st.integers() | st.booleans() | st.none(), min_size=1, max_size=3).map(
            lambda values: {"enum": values}
        ),
        NAMES.map(lambda value: {"const": value}),
    )


def compounds(inside: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    properties = st.dictionaries(NAMES, inside, max_size=3)
    required = st.sets(st.integers(0, 2))
    return st.one_of(
        st.tuples(properties, required).map(
            lambda pair: {
                "type": "object",
                "properties": pair[0],
                "required": [name for i, name in enumerate(pair[0]) if i in pair[1]],
            }
        ),
        inside.map(lambda values: {"type": "object", "additionalProperties": values}),
        st.tuples(inside, st.integers(0, 2), st.integers(0, 2)).map(
            lambda made: {"type": "array", "items": made[0], "minItems": made[1], "maxItems": made[1] + made[2]}
        ),
        st.lists(inside, min_size=1, max_size=2).map(lambda parts: {"type": "array", "prefixItems": parts}),
        st.lists(inside, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
    )


SCHEMAS = st.recursive(scalars(), compounds, max_leaves=5)
TYPES: dict[str, Any] = {
    "null": type(None), "boolean": bool, "integer": int, "number": (int, float), "string": str, "object": dict,
    "array": list,
}  # fmt: skip


def holds(value: Any, of: dict[str, Any]) -> bool:
    """Whether the value is what the schema describes, by the book, and nothing beyond."""
    if "anyOf" in of:
        return any(holds(value, option) for option in of["anyOf"])
    if "enum" in of or "const" in of:
        return any(value == each and type(value) is type(each) for each in of.get("enum", [of.get("const")]))
    kind = of["type"]
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind in ("null", "boolean"):
        return True
    if kind in ("integer", "number"):
        return bool(of.get("minimum", value) <= value <= of.get("maximum", value))
    if kind == "string":
        long = of.get("minLength", 0) <= len(value) <= of.get("maxLength", len(value))
        return long and re.search(of.get("pattern", ""), value) is not None
    if kind == "array":
        parts = of.get("prefixItems", [])
        if "items" not in of:
            return len(value) <= len(parts) and all(map(holds, value, parts))
        return of["minItems"] <= len(value) <= of["maxItems"] and all(holds(item, of["items"]) for item in value)
    known = of.get("properties", {})
    others = of.get("additionalProperties")
    complete = set(of.get("required", [])) <= value.keys()
    return complete and all(
        holds(part, known[name]) if name in known else others is not None and holds(part, others)
        for name, part in value.items()
    )


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, SEEDS)
def test_an_output_is_what_the_schema_describes(value: dict[str, Any], seed: int) -> None:
    text = text_of(write(schema(value), at_random(seed)))
    assert holds(json.loads(text), value), text


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_json_is_an_object_or_array(seed: int) -> None:
    assert isinstance(json.loads(text_of(write(compiled(GuideType.JSON), at_random(seed)))), dict | list)


PIECES = st.sampled_from(["a", "[bc]", r"\d", r"\.", "é", "[^a-z]", r"\w", "(?:x|yz)", r"\s", '"'])
EXPRESSIONS = st.recursive(
    PIECES,
    lambda inside: st.one_of(
        st.tuples(inside, inside).map("".join),
        st.tuples(inside, inside).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inside, st.sampled_from(["?", "{0,3}", "{2}", "{1,4}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, SEEDS)
def test_an_output_matches_the_expression(expression: str, seed: int) -> None:
    text = text_of(write(compiled(GuideType.REGEX, expression), at_random(seed)))
    assert re.fullmatch(expression.replace("[^a-z]", "(?u:[^a-z])"), text, re.ASCII), text
