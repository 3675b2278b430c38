"""The form of a cassette: what is written is read back, only what is new is written, and chance compares as equal."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.models.cassettes import (
    COMPARED,
    Cassette,
    Exchange,
    Failure,
    Header,
    Key,
    Reading,
    difference,
    dump_exchange,
    dump_header,
    merged,
    parse_cassette,
)
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    ToolSpec,
    TurnEnd,
    Usage,
)
from orchestrator.policy.redaction import Scrubber
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    ModelOutput,
    Step,
    UserInput,
)

KEEPS = Scrubber()
KEY = "crl_" + "aZ09_-" * 7 + "b"


def said(text: str) -> UserInput:
    return UserInput(content=[TextContent(text=text)])


def request(*history: Step, system: str = "Be brief.", tools: tuple[ToolSpec, ...] = (), **fields: Any) -> ModelRequest:
    return ModelRequest(model="m", system=system, history=history, tools=tools, **{"turn": 0, **fields})


def reading(*history: Step, **fields: Any) -> Reading:
    return Reading.of(request(*history, **fields), KEEPS)


def tape(*exchanges: Exchange) -> bytes:
    """The bytes of a file with these exchanges."""
    lines, before = [dump_header(Header(agent="general", model="m"))], None
    for each in exchanges:
        lines.append(dump_exchange(each, before))
        before = each.reading or before
    return b"".join(lines)


# round trip

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=3)
events = st.one_of(
    st.builds(ThoughtDelta, texts),
    st.builds(ThoughtSignature, texts),
    st.builds(TextDelta, texts),
    st.builds(CallStart, texts),
    st.builds(CallDelta, texts),
    st.builds(TurnEnd, st.builds(Usage, *[st.integers(0, 10**9)] * 5), st.booleans()),
)
exchanges = st.builds(
    Exchange,
    st.builds(Key, st.sampled_from(["turn", "compaction"]), st.integers(0, 4), st.integers(0, 2), st.integers(0, 3)),
    st.none()
    | st.builds(
        Reading,
        st.sampled_from(["", "system", "other"]),
        st.lists(objects, max_size=2),
        # Few different steps: histories that begin alike are what is written short.
        st.lists(st.sampled_from([{"type": "a"}, {"type": "b", "text": "x\n"}, {}]), max_size=5),
    ),
    st.lists(events, max_size=5).map(tuple),
    st.none() | st.builds(Failure, code=texts, message=texts, retryable=st.booleans(), retry_after_s=st.none()),
)


@given(st.lists(exchanges, max_size=6))
def test_what_is_written_is_read_back(written: list[Exchange]) -> None:
    found = parse_cassette(tape(*written))
    assert found.header == Header(agent="general", model="m")
    assert found.exchanges == Cassette.of(Header(), written).exchanges


@given(st.lists(exchanges, max_size=4), st.data())
def test_a_file_that_is_cut_anywhere_has_its_whole_lines(written: list[Exchange], data: st.DataObject) -> None:
    whole = tape(*written)
    header = len(dump_header(Header(agent="general", model="m")))
    at = data.draw(st.integers(header, len(whole)))
    kept = whole[:at].count(b"\n") - 1
    # The newline is all that may be missing of a line that counts.
    may_count = whole[:at] != whole and whole[at : at + 1] == b"\n"
    found = parse_cassette(whole[:at]).exchanges
    assert found == Cassette.of(Header(), written[: kept + may_count]).exchanges


@given(st.lists(events, max_size=12))
def test_merging_keeps_what_is_said(pieces: list[Any]) -> None:
    whole = merged(pieces)
    assert merged(whole) == whole

    def shape(found: Any) -> list[list[str]]:
        runs: list[list[str]] = []
        for event in found:
            name = type(event).__name__
            text = getattr(event, "text", getattr(event, "arguments", repr(event)))
            if runs and runs[-1][0] == name and name in ("ThoughtDelta", "TextDelta", "CallDelta"):
                runs[-1][1] += text
            else:
                runs.append([name, text])
        return runs

    assert shape(whole) == shape(pieces)


# the form


def test_the_form() -> None:
    first = Exchange(
        Key("turn", 0),
        reading(said("Go."), tools=(ToolSpec("t", "does", {"type": "object"}),)),
        (TextDelta("I look."), CallStart("t"), CallDelta("{}"), TurnEnd(Usage(3, 2), is_cut=True)),
    )
    call = FunctionCall(id="abc", name="t")
    second = Exchange(
        Key("turn", 1, 0, 2),
        reading(said("Go."), call, tools=(ToolSpec("t", "does", {"type": "object"}),)),
        (),
        Failure(code="model_overloaded", message="busy", retryable=True, retry_after_s=1.5),
    )
    header, *lines = [json.loads(line) for line in tape(first, second).splitlines()]
    assert header == {
        "cassette": 1,
        "interaction": "",
        "agent": "general",
        "model": "m",
        "compare": ["system", "tools", "history"],
    }
    assert lines == [
        {
            "turn": 0,
            "read": {
                "system": "Be brief.",
                "tools": [{"name": "t", "description": "does", "parameters": {"type": "object"}}],
                "history": [{"type": "user_input", "content": [{"type": "text", "text": "Go."}]}],
            },
            "answered": [
                {"text": "I look."},
                {"call": "t"},
                {"arguments": "{}"},
                {"end": {"usage": {"input_tokens": 3, "output_tokens": 2}, "is_cut": True}},
            ],
        },
        {
            "turn": 1,
            "attempt": 2,
            "read": {
                "kept": 1,
                "history": [
                    {"type": "function_call", "id": "call 1", "name": "t", "arguments": {}},
                ],
            },
            "answered": [],
            "failed": {"code": "model_overloaded", "message": "busy", "retryable": True, "retry_after_s": 1.5},
        },
    ]


def test_the_last_exchange_of_a_key_holds() -> None:
    found = parse_cassette(
        tape(*(Exchange(Key("turn", 0), reading(), (TextDelta(text),)) for text in ("cut", "whole")))
    )
    assert [each.events for each in found.exchanges.values()] == [(TextDelta("whole"),)]


HEADER = b'{"cassette": 1}\n'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"turns: 1\n", "line 1: "),
        (b'{"turn": 0}\n', "line 1: Unknown parameter 'turn'"),
        (b"{}\n", "line 1: the first line of a cassette says its version"),
        (b'{"cassette": 2}\n', "line 1: Invalid value at 'cassette'"),
        (b'{"cassette": 1, "compare": ["tolls"]}\n', "line 1: Invalid value at 'compare"),
        (HEADER + b"\n{\n", "line 3: "),
        (HEADER + b'{"turn": 0, "answer": []}\n', "line 2: Unknown parameter 'answer'"),
        (HEADER + b'{"turn": 0, "answered": [{}]}\n', r"line 2: 'answered\[0\]' must have one name"),
        (HEADER + b'{"turn": 0, "answered": [{"txt": "a"}]}\n', r"line 2: 'answered\[0\]': 'txt' is none of"),
        (HEADER + b'{"turn": 0, "answered": [{"text": 1}]}\n', r"line 2: 'answered\[0\]\.text' must be a text"),
        (HEADER + b'{"turn": 0, "answered": [{"end": 1}]}\n', r"line 2: 'answered\[0\]\.end'"),
        (HEADER + b'{"turn": 0, "answered": [], "read": {"kept": 1}}\n', r"line 2: 'read\.kept' is 1"),
        (HEADER + b"[" * 100_000 + b"\n", "line 2: "),
    ],
)
def test_what_is_no_cassette_says_where_and_why(data: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse_cassette(data)


def test_a_header_may_say_little_and_compare_nothing() -> None:
    assert parse_cassette(HEADER).header.compare == list(COMPARED)
    assert parse_cassette(b'{"cassette": 1, "compare": []}').header.compare == []


# comparing


def story(call_id: str, result: str, picture: bytes = b"png") -> list[Step]:
    image = ImageContent(mime_type="image/png", data=base64.b64encode(picture).decode())
    return [
        said("Go."),
        CodeExecutionCall(id=call_id, arguments=CodeArguments(code="1")),
        CodeExecutionResult(call_id=call_id, result=[TextContent(text=result), image]),
        FunctionCall(id=f"{call_id}2", name="f", arguments={"id": "x"}),
        FunctionResult(call_id=f"{call_id}2", name="f", result={"sum": 3}),
    ]


def test_ids_of_calls_are_their_order_and_media_their_digests() -> None:
    first = reading(*story("abcd", "out"))
    assert first == reading(*story("efgh", "out"))
    assert [step.get("id", step.get("call_id")) for step in first.history] == [
        None,
        "call 1",
        "call 1",
        "call 2",
        "call 2",
    ]
    assert first.history[3]["arguments"] == {"id": "x"}
    (_, image) = first.history[2]["result"]
    assert image["data"].startswith("sha256:")
    assert first != reading(*story("abcd", "out", b"jpg"))


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (reading(*story("a", "out")), None),
        (
            reading(*story("a", "ouch")),
            'history[2] (code_execution_result).result[0] (text).text: recorded "out", now "ouch"',
        ),
        (reading(*story("a", "out")[:4]), 'history[4]: recorded {"type": "function_result"'),
        (reading(*story("a", "out"), said("More.")), "history[5]: recorded nothing, now "),
        (
            reading(said("Go!"), *story("a", "out")[1:]),
            'history[0] (user_input).content[0] (text).text: recorded "Go."',
        ),
        (
            reading(ModelOutput(content=[TextContent(text="Go.")]), *story("a", "out")[1:]),
            'history[0] (user_input).type: recorded "user_input", now "model_output"',
        ),
        (reading(*story("a", "out"), system="Be long."), 'system: recorded "Be brief.", now "Be long."'),
        (reading(*story("a", "out"), tools=(ToolSpec("t", "", {}),)), "tools[0]: recorded nothing, now "),
    ],
)
def test_the_first_difference_is_named(now: Reading, told: str | None) -> None:
    found = difference(reading(*story("b", "out")), now, COMPARED)
    assert (found is None) is (told is None)
    assert (found or "").startswith(told or "")


def test_of_long_texts_the_place_of_the_difference_is_shown() -> None:
    then, now = (reading(said("x" * 5000 + middle + "y" * 5000)) for middle in ("then", "this"))
    found = difference(then, now, COMPARED)
    assert found is not None
    assert len(found) < 300
    assert "…" in found
    assert "xxthenyy" in found
    assert "xxthisyy" in found


def test_only_what_is_compared_differs() -> None:
    then, now = reading(said("a"), system="one"), reading(said("a"), system="two")
    assert difference(then, now, ["tools", "history"]) is None
    assert difference(then, now, ["system"]) is not None


def test_secrets_are_in_nothing_that_was_read() -> None:
    scrubber = Scrubber({"TOKEN": 'pass"word'}, secrets=["provider-key"])
    found = Reading.of(
        request(
            said(f"Use {KEY} and provider-key."),
            FunctionCall(id="a", name="f", arguments={"deep": [{"token": 'pass"word'}]}),
            system='The token is pass"word.',
        ),
        scrubber,
    )
    assert found.system == "The token is [redacted:TOKEN]."
    assert found.history[0]["content"][0]["text"] == "Use [redacted] and [redacted]."
    assert found.history[1]["arguments"] == {"deep": [{"token": "[redacted:TOKEN]"}]}
