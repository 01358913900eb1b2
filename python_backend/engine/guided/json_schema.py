"""A JSON schema as llguidance takes it, with the meaning that it has for TensorRT-LLM (that is, for xgrammar)."""

from __future__ import annotations

import json
from decimal import Decimal
from math import isfinite
from typing import Any, NoReturn

from llguidance import LLMatcher

from python_backend.errors import InvalidRequest

#: White space is allowed where JSON allows it. The bound keeps a model from writing nothing else for ever.
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"

#: llguidance makes an automaton of as many states for each multipleOf, outside of its own limits.
MAX_MULTIPLES = 10_000

_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties")
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")


def any_json() -> str:
    """llguidance's grammar of JSON objects and arrays."""
    return _grammar({"type": ["object", "array"]})


def from_json_schema(text: str) -> str:
    """llguidance's grammar of the values that a schema describes; it may still be refused when it is compiled.

    As in xgrammar's strict mode, an object has the properties that the schema names and no others where it does not
    say what others may be, and an array no items beyond prefixItems. A schema that combines others (allOf of several,
    properties beside $ref, ...) stays open as JSON Schema means it, since closed parts would exclude each other. As in
    xgrammar oneOf means anyOf, and properties come in the order of the schema. Raises InvalidRequest.
    """
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise ValueError(f"it is {schema if schema is False else type(schema).__name__}, not an object")
        if _multiples(schema) > MAX_MULTIPLES:
            raise ValueError(f"multipleOf comes to more than {MAX_MULTIPLES} over all, decimal points left out")
        if not _combines(schema):
            schema = _closed(schema)
        return _grammar(schema)
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError as error:
        raise _invalid(str(error)) from error


def _grammar(schema: Any) -> str:
    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema),
        defaults={
            "whitespace_pattern": WHITESPACE,
            "coerce_one_of": True,
            # A model that is about to write one would otherwise be led to another character.
            "json_allow_general_unicode_escapes": True,
        },
    )


def _closed(schema: Any) -> Any:
    """The schema with what it does not mention forbidden."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key in _MAPS_OF_SCHEMAS:
        if isinstance(schema.get(key), dict):
            closed[key] = {name: _closed(part) for name, part in schema[key].items()}
    for key in _LISTS_OF_SCHEMAS:
        if isinstance(schema.get(key), list):
            closed[key] = [_closed(part) for part in schema[key]]
    for key in _SCHEMAS:
        if key in schema:
            closed[key] = _closed(schema[key])
    if "properties" in schema and not {"patternProperties", "unevaluatedProperties"} & schema.keys():
        closed.setdefault("additionalProperties", False)
    if "prefixItems" in schema and "unevaluatedItems" not in schema:
        closed.setdefault("items", False)
    return closed


def _combines(node: Any) -> bool:
    """Whether schemas are intersected somewhere. Looks into constants too, which at worst leaves the schema open."""
    if isinstance(node, list):
        return any(map(_combines, node))
    if not isinstance(node, dict):
        return False
    several = isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1
    beside = "properties" in node and any(key in node for key in _COMBINING)
    return several or beside or any(map(_combines, node.values()))


def _multiples(node: Any) -> int:
    """The sum of all multipleOf, without regard to decimal points."""
    if isinstance(node, list):
        return sum(map(_multiples, node))
    if not isinstance(node, dict):
        return 0
    own = node.get("multipleOf")
    is_number = isinstance(own, int | float) and not isinstance(own, bool) and isfinite(own)
    return (_digits(Decimal(str(own))) if is_number else 0) + sum(map(_multiples, node.values()))


def _digits(number: Decimal) -> int:
    _, digits, exponent = number.as_tuple()
    return int("".join(map(str, digits)) + "0" * min(int(exponent), 9))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"guided_decoding_guide is no JSON schema: {reason}. Send a schema as JSON.")
