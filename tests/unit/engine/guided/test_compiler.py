"""Compiling: what is refused and why, what is kept, and what each kind of guide means."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from python_backend.engine.guided import Guide, GuideCompiler, GuideType
from python_backend.errors import InvalidRequest, SetupError
from tests.guided_output import END_ID, TOKENIZER_JSON, VOCAB_SIZE, accepts, compiled, compiler, schema

INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("kind", "text", "messages"),
    [
        ("json_schema", "{", ["is no JSON schema", "line 1 column 2", "Send a schema as JSON"]),
        ("json_schema", "[1]", ["is no JSON schema", "it is list, not an object"]),
        ("json_schema", "false", ["it is False, not an object"]),
        ("json_schema", '{"multipleOf": 99999989}', ["multipleOf comes to more than 10000 over all"]),
        ("json_schema", '{"multipleOf": 1e300}', ["multipleOf comes to more"]),
        ("json_schema", '{"multipleOf": true}', ["as json_schema"]),
        ("json_schema", '{"items": {"multipleOf": 0.99999989}}', ["multipleOf comes to more"]),
        ("json_schema", '{"anyOf": [{"multipleOf": 9999}, {"multipleOf": 9998}]}', ["multipleOf comes to more"]),
        ("json_schema", '{"minimum": NaN}', ["NaN is no JSON"]),
        ("json_schema", '{"type": "strin"}', ["as json_schema: Invalid type: strin", "Correct or simplify it"]),
        ("json_schema", '{"not": {}}', ['Unimplemented keys: ["not"]']),
        ("json_schema", '{"type": "string", "format": "x"}', ["Unknown format: x"]),
        ("json_schema", '{"$ref": "http://x/y"}', ["'http://x/y' is not present"]),
        ("json_schema", '{"type":"array","items":' * 3000 + "{}" + "}" * 3000, ["nested too deeply"]),
        ("json_schema", '{"type":"array","items":' * 300 + "{}" + "}" * 300, ["recursion limit exceeded"]),
        ("json_schema", '{"type": "string", "pattern": "("}', ["unclosed group at '(', position 0"]),
        ("regex", "ab(c", ["as regex: unclosed group at '(c', position 2"]),
        ("regex", "a(?=b)", ["look-ahead", "is not supported"]),
        ("regex", r"(a)\1", ["backreferences are not supported"]),
        ("regex", r"\bfoo", ["lookarounds not supported"]),
        ("regex", "(" * 5000 + ")" * 5000, ["exceed", "simplify"]),
        ("ebnf_grammar", 'root ::= "a', ["no EBNF grammar: line 1, column 10", "closing quote"]),
    ],
)
def test_a_guide_that_cannot_be_used_is_refused_with_the_reason(kind: str, text: str, messages: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiled(GuideType(kind), text)
    for message in messages:
        assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_equal_guides_are_compiled_once_and_only_the_latest_are_kept() -> None:
    made = GuideCompiler(TOKENIZER_JSON, VOCAB_SIZE, END_ID)
    first = made.compile(Guide(GuideType.REGEX, "a+"))
    assert made.compile(Guide(GuideType.REGEX, "a+")) is first
    assert made.compile(Guide(GuideType.EBNF_GRAMMAR, 'root ::= "a"')) is not first
    for i in range(100):
        made.compile(Guide(GuideType.REGEX, f"a{{{i}}}"))
    assert made.compile(Guide(GuideType.REGEX, "a+")) is not first


def test_any_thread_may_compile_and_start() -> None:
    failures: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for i in range(20):
                guide = compiled(GuideType.REGEX, f"x{{{(number + i) % 5}}}y")
                assert accepts(guide, "x" * ((number + i) % 5) + "y")
                assert not accepts(guide, "x")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_tokenizer_may_be_smaller_or_larger_than_the_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(TOKENIZER_JSON)
    for vocab_size in (VOCAB_SIZE, VOCAB_SIZE - 20, VOCAB_SIZE + 1000):
        matcher = GuideCompiler.load(tmp_path, vocab_size, END_ID).compile(Guide(GuideType.REGEX, "(?s:.*)")).start()
        allowed = matcher.allowed()
        assert allowed.shape == (vocab_size,)
        assert allowed[: VOCAB_SIZE - 33].sum() > 100
        assert not allowed[VOCAB_SIZE - 13 :].any()


def test_a_tokenizer_that_cannot_be_used_is_the_operator_s_to_mend(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read .*tokenizer\.json"):
        GuideCompiler.load(tmp_path, VOCAB_SIZE, END_ID)
    with pytest.raises(SetupError, match=r"cannot use tokenizer\.json"):
        GuideCompiler("{}", VOCAB_SIZE, END_ID)


def test_json_is_an_object_or_an_array() -> None:
    guide = compiled(GuideType.JSON)
    for text in ("{}", "[]", '{ "a" : [1, -2.5e3, true, null, "\\u00e9\\n"] }', '[\n  {"b": {}}\n]'):
        assert accepts(guide, text)
    for text in ("1", '"a"', "null", "{", "{a: 1}", "[1,]", "{} "):
        assert not accepts(guide, text)


@pytest.mark.parametrize(
    ("value", "good", "bad"),
    [
        ({"properties": {"a": INTEGER}, "type": "object"}, ["{}", '{"a": 1}'], ['{"b": 1}', '{"a": 1, "b": 1}']),
        (
            {"properties": {"a": INTEGER}, "type": "object", "additionalProperties": True},
            ['{"a": 1, "b": 1}'],
            ['{"a": "1"}'],
        ),
        ({"type": "object"}, ['{"b": 1}'], ["[]"]),
        ({"type": "array", "prefixItems": [INTEGER]}, ["[1]", "[]"], ["[1, 2]"]),
        ({"type": "array", "items": {"properties": {"a": {}}, "type": "object"}}, ['[{"a": 1}]'], ['[{"b": 1}]']),
        ({"properties": {"properties": INTEGER}, "type": "object"}, ['{"properties": 1}'], ['{"a": 1}']),
        ({"enum": [{"properties": {"a": 1}}]}, ['{"properties": {"a": 1}}'], ["{}"]),
        (
            {"allOf": [{"properties": {"a": INTEGER}, "type": "object"}, {"properties": {"b": INTEGER}}]},
            ['{"a": 1, "b": 2}', '{"a": 1, "b": 2, "c": 3}'],
            ['{"a": "1"}'],
        ),
        ({"type": "integer", "multipleOf": 7}, ["14", "-7"], ["15"]),
        ({"type": "number", "multipleOf": 0.01}, ["1.25"], ["1.255"]),
        ({"oneOf": [INTEGER, {"type": "number"}]}, ["1", "1.5"], ["true"]),
        (
            {"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}, "type": "object"}}, "$ref": "#/$defs/n"},
            ['{"n": {"n": {}}}'],
            ['{"n": {"m": {}}}'],
        ),
        (True, ["1", '{"a": 1}', '"\\u00e9"'], ["x"]),
    ],
)
def test_a_schema_means_what_it_means_for_tensorrt_llm(value: Any, good: list[str], bad: list[str]) -> None:
    guide = schema(value)
    assert [text for text in good if not accepts(guide, text)] == []
    assert [text for text in bad if accepts(guide, text)] == []


def test_white_space_comes_to_an_end() -> None:
    guide = schema({"type": "object", "properties": {"a": INTEGER}})
    assert accepts(guide, '{\n\t"a"' + " " * 32 + ": 1\r\n}")
    assert not accepts(guide, '{"a"' + " " * 33 + ": 1}")
    assert not accepts(guide, '{"a": 1}\n')


@pytest.mark.parametrize(
    ("expression", "good", "bad"),
    [
        (r"\d{2}-\w+", ["12-ab_9"], ["1-a", "12-é", "٣٣-a"]),
        ("^a|b$", ["a", "b"], ["ab", "c"]),
        ("(?i)yes", ["yEs"], ["no"]),
        (".", ["a", "é"], ["\n", "ab"]),
        ("a/b", ["a/b"], ["a\\/b"]),
    ],
)
def test_an_expression_matches_the_whole_output(expression: str, good: list[str], bad: list[str]) -> None:
    guide = compiled(GuideType.REGEX, expression)
    assert [text for text in good if not accepts(guide, text)] == []
    assert [text for text in bad if accepts(guide, text)] == []


@pytest.mark.parametrize("end_id", [-1, VOCAB_SIZE])
def test_the_end_must_be_a_token_of_the_model(end_id: int) -> None:
    with pytest.raises(InvalidRequest, match=f"end_id is {end_id}; ids of this model lie between 0 and"):
        compiler().compile(Guide(GuideType.JSON)).start(end_id)
