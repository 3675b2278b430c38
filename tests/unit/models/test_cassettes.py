"""The form of a cassette: what is written is read back, and only what is new is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.models.cassettes import (
    Cassette,
    Exchange,
    Failure,
    Header,
    Key,
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
from orchestrator.models.readings import COMPARED, Reading
from orchestrator.policy.redaction import Scrubber
from orchestrator.wire.content import TextContent
from orchestrator.wire.steps import (
    FunctionCall,
    Step,
    UserInput,
)

KEEPS = Scrubber()


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
