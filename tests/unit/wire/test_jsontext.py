from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.wire.jsontext import JsonLimits, encode_json, parse_json
from orchestrator.wire.steps import FunctionCall
from tests.unit.wire.strategies import clean_values, json_values


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The request body is empty; expected a JSON object."),
        (b" \n", "The request body is empty; expected a JSON object."),
        (b"[", "Malformed JSON at line 1, column 2: Expecting value."),
        (b'{"a":\n1,}', "Malformed JSON at line 2, column 2: Illegal trailing comma before end of object."),
        (b"{} {}", "Malformed JSON at line 1, column 4: Extra data."),
        (b"{'a':1}", None),
        (b'"a\nb"', None),
        (b"\xef\xbb\xbf{}", None),
        (b"NaN", "Malformed JSON: NaN is not a JSON number."),
        (b"[-Infinity]", "Malformed JSON: -Infinity is not a JSON number."),
        (b"[1e999]", "Malformed JSON: the number '1e999' is too large."),
        (b"[" + b"9" * 5000 + b"]", "Malformed JSON: a number has more than 40 digits."),
        (b'{"a":1,"b":2,"a":3}', "Duplicate parameter 'a'."),
        (b'{"x":[{},{"k":1,"k":1}]}', "Duplicate parameter 'k' at 'x[1]'."),
        (b'"\xff"', "The request body is not UTF-8: invalid byte at position 1."),
        (b'"\xed\xa0\x80"', "The request body is not UTF-8: invalid byte at position 1."),
        (b'{"a":[{"b":"x\\ud83d"}]}', "Invalid value at 'a[0].b': text with a lone surrogate."),
        (b'{"a":{"\\udfff":1}}', "Invalid parameter name at 'a': text with a lone surrogate."),
        (b"[" * 65 + b"]" * 65, "The request body is nested more than 64 levels deep."),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "The request body is nested more than 64 levels deep."),
        (b"[" * 200_000, "The request body is nested more than 64 levels deep."),
        (b"[" + b"{}," * 500_000 + b"{}]", "The request body has more than 500000 JSON values."),
    ],
)
def test_what_is_refused_says_where(body: bytes, message: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    if message == "Malformed JSON at line 2, column 2: Illegal trailing comma before end of object.":
        assert caught.value.message.startswith("Malformed JSON at line 2, column ")  # the reason varies with Python
    elif message is not None:
        assert caught.value.message == message


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" 1 ", 1),
        (b"[" * 64 + b"]" * 64, None),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\xe2\x80\xa8\\u0000"', "\u2028\0"),
        (b"[1e3,-0.5]", [1000.0, -0.5]),
        (b'{"a":{"a":{"a":null}}}', {"a": {"a": {"a": None}}}),
        (b'["' + b",[{" * 300_000 + b'"]', None),
    ],
)
def test_what_is_sound_passes(body: bytes, value: Any) -> None:
    assert parse_json(body) == (json.loads(body) if value is None else value)


def test_limits_are_the_callers() -> None:
    assert parse_json(b"[[1,2]]", JsonLimits(depth=2, values=3)) == [[1, 2]]
    with pytest.raises(InvalidRequest, match="2 levels"):
        parse_json(b"[[[]]]", JsonLimits(depth=2))
    with pytest.raises(InvalidRequest, match="more than 2 JSON values"):
        parse_json(b"[1,2,3]", JsonLimits(values=2))


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b'"\\')
@example(b'{"":"')
def test_parse_raises_nothing_but_invalid_request(body: bytes) -> None:
    try:
        value = parse_json(body)
    except InvalidRequest as error:
        assert error.message
    else:
        assert parse_json(encode_json(value)) == value


@given(clean_values)
def test_encode_is_one_line_and_loses_nothing(value: Any) -> None:
    body = encode_json(value)
    assert len(body.decode().splitlines()) <= 1
    assert json.loads(body) == value


@given(json_values)
def test_encode_never_fails(value: Any) -> None:
    json.loads(encode_json(value))


def test_lone_surrogates_are_replaced_also_inside_models() -> None:
    call = FunctionCall(id="a", name="b", arguments={"x\udc00": ["\ud800y", "👩"]})
    assert json.loads(encode_json({"step": call}))["step"]["arguments"] == {"x\ufffd": ["\ufffdy", "👩"]}


def test_numbers_that_json_does_not_have_become_null() -> None:
    assert encode_json([float("nan"), float("inf")]) == b"[null,null]"
    assert encode_json([float("nan"), "\ud800"]) == '[null,"\ufffd"]'.encode()


def test_null_inside_free_form_json_stays() -> None:
    assert encode_json({"a": None}) == b'{"a":null}'
    assert encode_json(FunctionCall(id="a", name="b", arguments={"c": None})) == (
        b'{"type":"function_call","id":"a","name":"b","arguments":{"c":null}}'
    )
