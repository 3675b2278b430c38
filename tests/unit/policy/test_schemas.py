"""Schemas that callers bring: what is refused, what fits, and what cannot hold anybody up."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.policy.schemas import AnswerSchema

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["x"],
    "additionalProperties": False,
}


def fault_of(schema: dict[str, Any] | None, text: str) -> str:
    return AnswerSchema(schema).read(text)[1]


# the schema itself


@pytest.mark.parametrize(
    "schema",
    [
        {},
        POINT,
        {"type": "object", "properties": {}, "required": []},
        {"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"},
        {"type": ["string", "null"], "enum": ["a", None]},
        {"anyOf": [{"type": "string", "pattern": "^[a-z]+$"}, {"const": 1}]},
        {"description": "Words that no validator knows are fine.", "propertyOrdering": ["x"]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_a_schema_is_taken(schema: dict[str, Any]) -> None:
    assert AnswerSchema(schema).schema == schema


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "objekt"}, "type"),
        ({"properties": {"a": {"type": 5}}}, "properties.a.type"),
        ({"required": "x"}, "required"),
        ({"minimum": "low"}, "minimum"),
        ({"pattern": "("}, "pattern"),
        ({"$ref": "#/$defs/missing"}, "missing"),
    ],
    ids=str,
)
def test_what_is_none_is_refused_with_its_place(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match="not a usable JSON schema") as caught:
        AnswerSchema(schema)
    assert told in caught.value.message


@pytest.mark.parametrize(
    "url", ["https://example.com/schema.json", "http://127.0.0.1:1/x", "file:///etc/passwd", "other.json#/a"]
)
def test_nothing_outside_a_schema_is_ever_fetched(url: str) -> None:
    with pytest.raises(InvalidRequest):
        AnswerSchema({"properties": {"a": {"$ref": url}}})
    with pytest.raises(InvalidRequest):
        AnswerSchema({"$schema": url})


def test_a_schema_that_refers_to_itself_without_end_ends() -> None:
    for schema in (
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    ):
        assert isinstance(fault_of(schema, "{}"), str)


def test_patterns_take_linear_time() -> None:
    started = time.monotonic()
    assert fault_of({"pattern": "^(a+)+$"}, json.dumps("a" * 50_000 + "b"))
    assert time.monotonic() - started < 5


def doubling(levels: int) -> dict[str, Any]:
    """A schema of some lines that is checked two to the power of `levels` times."""
    twice = {f"l{at}": {"allOf": [{"$ref": f"#/$defs/l{at + 1}"}] * 2} for at in range(levels)}
    return {"$defs": {**twice, f"l{levels}": {"type": "string"}}, "$ref": "#/$defs/l0"}


NESTED = {"type": "object", "properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (doubling(40), '"x"'),
        (NESTED, '{"a":' * 60 + "{}" + "}" * 60),
        ({"$anchor": "top", "additionalProperties": {"anyOf": [{"$ref": "#top"}] * 3}}, '{"a":' * 60 + "1" + "}" * 60),
        ({"items": {"allOf": [{"type": "number"}] * 5_000}}, "[" + "1," * 5_000 + "1]"),
        ({"patternProperties": {f"^{at}": {"not": {"$ref": "#"}} for at in range(30)}}, '{"1":' * 60 + "1" + "}" * 60),
        ({"items": {"required": [str(at) for at in range(5_000)]}}, json.dumps([{}] * 2_000)),
        ({"items": {"enum": [{"a": at} for at in range(5_000)]}}, json.dumps([{"a": 4_999}] * 5_000)),
    ],
    ids=["definitions", "recursion", "anchors", "lists", "patterns", "required", "enum"],
)
def test_what_would_take_for_ever_is_not_begun(schema: dict[str, Any], text: str) -> None:
    started = time.monotonic()
    assert "too many steps" in fault_of(schema, text)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (doubling(10), '"x"'),
        (NESTED, '{"a": {"a": {"a": {}}}}'),
        (
            {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "additionalProperties": False},
            '{"left": ' * 50 + '{"right": {}}' + "}" * 50,
        ),
        ({"items": {"$ref": "#/definitions/row"}, "definitions": {"row": POINT}}, json.dumps([{"x": 1}] * 20_000)),
        ({"$defs": {"a/b": {"type": "integer"}}, "items": {"$ref": "#/$defs/a~1b"}}, "[1, 2]"),
        ({"items": {"enum": [str(at) for at in range(300)]}}, json.dumps(["299"] * 5_000)),
        ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, '[1, "a", "b"]'),
    ],
    ids=["definitions", "recursion", "tree", "rows", "escaped", "enum", "tuple"],
)  # fmt: skip
def test_what_real_schemas_do_is_little_work(schema: dict[str, Any], text: str) -> None:
    assert fault_of(schema, text) == ""


def test_a_schema_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="256 KiB"):
        AnswerSchema({"enum": ["x" * 100] * 3_000})


def test_schemas_within_schemas_are_refused() -> None:
    inner = {"$id": "https://example.com/inner", "type": "string"}
    with pytest.raises(InvalidRequest, match="id"):
        AnswerSchema({"$defs": {"inner": inner}, "$ref": "https://example.com/inner"})
    with pytest.raises(InvalidRequest, match="id"):
        AnswerSchema(
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "definitions": {"a": {"id": "inner", "type": "string"}},
            }
        )
    assert AnswerSchema({"$id": "https://example.com/mine", "type": "string"}).read('"x"') == ('"x"', "")
    named_id = {"properties": {"$id": {"type": "string"}, "id": {"type": "string"}, "enum": {"enum": ["a"]}}}
    assert AnswerSchema(named_id).read('{"id": "x", "enum": "a"}')[1] == ""


# answers


@pytest.mark.parametrize(
    "text",
    ['{"x": 1}', ' \n{"x": 1, "tags": []}\n', '```json\n{"x": 1}\n```', '```\n{"x": 1}\n```', '```JSON\n{"x":1}```\n']
)  # fmt: skip
def test_an_answer_that_fits_is_given_without_what_is_around_it(text: str) -> None:
    body, fault = AnswerSchema(POINT).read(text)
    assert fault == ""
    assert body.startswith('{"x"')
    assert json.loads(body)["x"] == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("Here you are: {}", "not JSON"),
        ('{"x": 1', "not JSON"),
        ('{"x": 1} {"x": 2}', "not JSON"),
        ("{'x': 1}", "not JSON"),
        ('```yaml\n{"x": 1}\n```', "not JSON"),
        ("```json```", "not JSON"),
        ("[]", "$"),
        ("{}", "x"),
        ('{"x": "1"}', "$.x"),
        ('{"x": 1, "tags": ["a", 2]}', "$.tags[1]"),
        ('{"x": 1, "y": 2}', "y"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(text: str, told: str) -> None:
    assert told in fault_of(POINT, text)


def test_what_is_told_is_short() -> None:
    for text in (json.dumps({"x": "long" * 10_000}), json.dumps(["y" * 100_000]), "not " * 10_000):
        assert 0 < len(fault_of(POINT, text)) < 500


def test_without_a_schema_any_json_fits_and_nothing_else_does() -> None:
    for text in ("{}", "[1]", "null", "3", '"text"', "true"):
        assert AnswerSchema(None).read(text) == (text, "")
    for text in ("", "text", "{", "undefined"):
        assert "not JSON" in fault_of(None, text)


@pytest.mark.parametrize("schema", [None, {}, {"type": "array"}])
@pytest.mark.parametrize("text", ["[NaN]", "[Infinity]", "[-Infinity]"])
def test_numbers_that_json_does_not_have_are_no_json(schema: dict[str, Any] | None, text: str) -> None:
    assert "not JSON" in fault_of(schema, text)


@pytest.mark.parametrize("schema", [None, {}, POINT])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 3000 + "]" * 3000, "1" * 10_000, '"\\ud800"', '{"a": 1e999}', "\x00", "\ufeff{}"]
)
def test_whatever_a_model_says_is_read_or_told(schema: dict[str, Any] | None, text: str) -> None:
    body, fault = AnswerSchema(schema).read(text)
    assert isinstance(body, str)
    assert isinstance(fault, str)


def test_one_schema_serves_many_answers() -> None:
    schema = AnswerSchema(POINT)
    assert [bool(schema.read(text)[1]) for text in ('{"x": 1}', "{}", '{"x": 2}')] == [False, True, False]
    assert not fault_of({"type": "object"}, '{"x": "1"}'), "another one with the same answer"
