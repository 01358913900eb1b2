"""The two tensors of guided decoding, read."""

from __future__ import annotations

import pytest

from python_backend.engine.guided import Guide, GuideType
from python_backend.engine.guided.guide import MAX_GUIDE_BYTES
from python_backend.errors import InvalidRequest


@pytest.mark.parametrize("kind", [kind for kind in GuideType if kind is not GuideType.JSON])
def test_a_type_and_a_guide_go_together(kind: GuideType) -> None:
    assert Guide.parse(kind.value, "x") == Guide(kind, "x")
    with pytest.raises(InvalidRequest, match="needs a guided_decoding_guide"):
        Guide.parse(kind.value, None)


@pytest.mark.parametrize("nothing", [None, ""])
def test_json_needs_no_guide_and_no_type_asks_for_nothing(nothing: str | None) -> None:
    assert Guide.parse("json", nothing) == Guide(GuideType.JSON)
    assert Guide.parse(nothing, nothing) is None


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (None, "a", "without guided_decoding_guide_type. Send one of json, json_schema, regex, ebnf_grammar"),
        ("jsonschema", "{}", '"jsonschema"; did you mean "json_schema"'),
        ("grammar", "{}", "it is one of json, json_schema, regex, ebnf_grammar"),
        ("json", "{}", 'send it as "json_schema"'),
        ("regex", "é" * MAX_GUIDE_BYTES, f"has {2 * MAX_GUIDE_BYTES} bytes; at most {MAX_GUIDE_BYTES}"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str | None, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Guide.parse(kind, text)
    assert message in str(caught.value)
