from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest, LogDamaged
from orchestrator.wire.content import Content, ImageContent, TextContent, UrlCitation
from orchestrator.wire.events import Folder, PublicEvent, encode, fold, step_events
from orchestrator.wire.folding import parse_arguments
from orchestrator.wire.steps import FunctionCall, ModelOutput, Step, Thought, UserInput
from orchestrator.wire.usage import Usage
from tests.unit.wire.samples import EVENTS, STEPS, USAGE
from tests.unit.wire.strategies import steps


def log_of(events: Sequence[PublicEvent]) -> list[tuple[str, bytes]]:
    return [(event.event_type, encode(event, seq)) for seq, event in enumerate(events, 1)]


def merged(blocks: Sequence[Content], *, shifts: bool) -> list[Content]:
    """Side by side text blocks as one, the way the stream can tell them: annotations end a block."""
    found: list[Content] = []
    for block in blocks:
        last = found[-1] if found else None
        can_merge = isinstance(last, TextContent) and isinstance(block, TextContent) and not last.annotations
        if not can_merge or (block.annotations and not shifts):  # type: ignore[union-attr]
            found.append(block)
            continue
        assert isinstance(last, TextContent)
        assert isinstance(block, TextContent)
        by = len(last.text.encode())
        annotations = [
            UrlCitation(
                url=note.url,
                title=note.title,
                start_index=None if note.start_index is None else note.start_index + by,
                end_index=None if note.end_index is None else note.end_index + by,
            )
            for note in block.annotations or ()
            if isinstance(note, UrlCitation)
        ]
        found[-1] = TextContent(text=last.text + block.text, annotations=annotations or None)
    return found


def as_streamed(step: Step) -> Step:
    if isinstance(step, ModelOutput):
        return ModelOutput(content=merged(step.content, shifts=True))
    if isinstance(step, Thought) and step.summary:
        return Thought(signature=step.signature, summary=merged(step.summary, shifts=False))
    return step


@given(st.lists(steps, max_size=4), st.data())
def test_steps_come_back_from_their_events(given_steps: list[Step], data: st.DataObject) -> None:
    def split(text: str) -> list[str]:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
        return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    log = log_of([event for index, step in enumerate(given_steps) for event in step_events(step, index, split=split)])
    assert fold(log) == [as_streamed(step) for step in given_steps]


@given(st.lists(steps, min_size=1, max_size=3), st.data())
def test_an_interrupted_log_gives_what_was_finished(given_steps: list[Step], data: st.DataObject) -> None:
    events = [event for index, step in enumerate(given_steps) for event in step_events(step, index, split=list)]
    log = log_of(events)
    cut = data.draw(st.integers(0, len(log)))
    folder = Folder()
    for kind, body in log[:cut]:
        folder.feed(kind, body)
    finished = sum(kind == "step.stop" for kind, _ in log[:cut])
    assert folder.steps == [as_streamed(step) for step in given_steps[:finished]]
    assert folder.all_steps()[:finished] == folder.steps
    assert len(folder.all_steps()) - finished == (0 if folder.open_step is None else 1)


def test_fold_reads_every_sample() -> None:
    folder = Folder()
    for kind, body in log_of(EVENTS):
        if b'"index":9}' not in body and b'"index":9,"event_id"' not in body and b'"metadata"' not in body:
            folder.feed(kind, body)
    assert folder.steps == list(STEPS)
    assert folder.status == "failed"
    assert folder.usage == USAGE
    assert folder.error == {"code": "sandbox_gone", "message": "The sandbox ended."}
    assert folder.interaction["environment_id"] == "3f0c9a52d1e84b7fa6c2b8e07d915c44"
    assert folder.interaction["status"] == "failed"
    assert folder.next_index == len(STEPS)
    assert folder.open_step is None


def feed(*events: dict[str, Any]) -> Folder:
    folder = Folder()
    for event in events:
        folder.feed(event["event_type"], json.dumps(event).encode())
    return folder


def start(index: int, **step: Any) -> dict[str, Any]:
    return {"event_type": "step.start", "index": index, "step": step}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"event_type": "step.delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int, **fields: Any) -> dict[str, Any]:
    return {"event_type": "step.stop", "index": index, **fields}


def test_images_stand_between_texts() -> None:
    folder = feed(
        start(0, type="model_output"),
        delta(0, "text", text="a"),
        delta(0, "text", text="b"),
        delta(0, "image", mime_type="image/png", data="YQ=="),
        delta(0, "text", text="c"),
        stop(0),
    )
    assert folder.steps == [
        ModelOutput(
            content=[
                TextContent(text="ab"),
                ImageContent(mime_type="image/png", data="YQ=="),
                TextContent(text="c"),
            ]
        )
    ]


def test_an_open_text_counts_as_far_as_it_came() -> None:
    folder = feed(start(0, type="model_output"), delta(0, "text", text="Hel"))
    assert folder.steps == []
    assert folder.open_step == ModelOutput(content=[TextContent(text="Hel")])
    assert folder.all_steps() == [ModelOutput(content=[TextContent(text="Hel")])]
    folder.feed("step.delta", json.dumps(delta(0, "text", text="lo")).encode())
    assert folder.open_step == ModelOutput(content=[TextContent(text="Hello")])


def test_an_open_call_counts_only_when_its_arguments_are_whole() -> None:
    begun = (
        start(0, type="function_call", id="a", name="f", arguments={}),
        delta(0, "arguments_delta", arguments='{"x":'),
    )
    assert feed(*begun).open_step is None
    assert feed(*begun).all_steps() == []
    whole = feed(*begun, delta(0, "arguments_delta", arguments="1}"))
    assert whole.open_step == FunctionCall(id="a", name="f", arguments={"x": 1})


def test_an_open_result_without_its_payload_does_not_count() -> None:
    assert feed(start(0, type="code_execution_result", call_id="a")).all_steps() == []


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"a":NaN}', '{"a":1,"a":2}', '{"a":' * 100 + "1" + "}" * 100, '"\\ud800"']
)
def test_arguments_that_are_no_object_become_empty(text: str) -> None:
    """The call keeps its place, so that the result that says what was wrong has something to belong to."""
    folder = feed(
        start(0, type="function_call", id="a", name="f", arguments={}),
        delta(0, "arguments_delta", arguments=text),
        stop(0),
    )
    assert folder.steps == [FunctionCall(id="a", name="f", arguments={})]
    with pytest.raises(InvalidRequest):
        parse_arguments(text)


@pytest.mark.parametrize(("text", "arguments"), [("", {}), (" \n", {}), ('{"a":null}', {"a": None})])
def test_arguments(text: str, arguments: dict[str, Any]) -> None:
    assert parse_arguments(text) == arguments


def test_streams_of_other_servers_may_tell_a_step_whole() -> None:
    whole = {"type": "function_call", "id": "a", "name": "f", "arguments": {"x": 1}}
    assert feed(start(0, **whole), stop(0)).steps == [FunctionCall(id="a", name="f", arguments={"x": 1})]
    assert feed(start(0, type="user_input", content=[{"type": "text", "text": "hi"}]), stop(0)).steps == [
        UserInput(content=[TextContent(text="hi")])
    ]


def test_what_is_not_known_is_passed_over() -> None:
    folder = feed(
        {"event_type": "tool.output", "anything": 1},
        start(0, type="model_output"),
        delta(0, "hologram", x=1),
        delta(0, "text", text="a"),
        stop(0),
    )
    folder.feed("tool.output", b"not even JSON")
    assert folder.steps == [ModelOutput(content=[TextContent(text="a")])]


def test_usage_and_status_are_the_last_told() -> None:
    folder = feed(
        {"event_type": "interaction.status_update", "interaction_id": "i", "status": "in_progress"},
        start(0, type="thought"),
        stop(0, usage={"total_tokens": "5"}, step_usage={"total_tokens": 2}),
        start(1, type="thought"),
        stop(1),
    )
    assert folder.status == "in_progress"
    assert folder.usage == Usage(total_tokens=5)
    assert folder.next_index == 2
    assert folder.steps == [Thought(), Thought()]


def test_parallel_steps_keep_the_order_of_their_starts() -> None:
    folder = feed(
        start(0, type="function_result", call_id="a"),
        start(1, type="function_result", call_id="b"),
        delta(1, "function_result", result="2"),
        stop(1),
        delta(0, "function_result", result="1"),
        stop(0),
    )
    assert [step.result for step in folder.steps if step.type == "function_result"] == ["1", "2"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("step.start", b"{}"),
        ("step.start", b"not JSON"),
        ("step.start", b"[]"),
        ("step.start", b'{"index":0,"step":5}'),
        ("step.delta", b'{"index":7,"delta":{"type":"text","text":"x"}}'),
        ("step.stop", b'{"index":7}'),
        ("step.stop", b"\xff"),
        ("interaction.created", b'{"interaction":[]}'),
        ("interaction.completed", b'{"interaction":{"usage":5}}'),
        ("error", b"{}"),
    ],
)
def test_a_damaged_log_is_said_to_be_one(kind: str, body: bytes) -> None:
    with pytest.raises(LogDamaged, match=f"'{kind}'"):
        Folder().feed(kind, body)


def test_a_stopped_step_that_cannot_stand_is_damage() -> None:
    with pytest.raises(LogDamaged, match=r"step\.stop"):
        feed(start(0, type="code_execution_result", call_id="a"), stop(0))
    with pytest.raises(LogDamaged, match=r"step\.delta"):
        feed(start(0, type="model_output"), stop(0), delta(0, "text", text="late"))
