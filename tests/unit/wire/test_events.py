from __future__ import annotations

import json
from collections.abc import Callable
from time import perf_counter
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import types_of
from orchestrator.wire.deltas import Delta
from orchestrator.wire.events import (
    DONE_FRAME,
    HEARTBEAT_FRAME,
    PUBLIC_KINDS,
    PublicEvent,
    StepDelta,
    StepStart,
    StepStop,
    TextDelta,
    encode,
    event_id,
    seq_of,
    shell,
    sse_frame,
    step_events,
)
from orchestrator.wire.steps import FunctionCall, FunctionResult, Step
from tests.unit.wire.samples import EVENTS, GOLDEN, lines_by_kind, stream
from tests.unit.wire.strategies import hostile_texts, steps


@pytest.mark.parametrize("kind", sorted(PUBLIC_KINDS))
def test_bytes_are_those_of_the_golden_file(kind: str) -> None:
    assert b"".join(line + b"\n" for line in lines_by_kind()[kind]) == (GOLDEN / f"{kind}.jsonl").read_bytes()


def test_the_whole_stream_is_that_of_the_golden_file() -> None:
    assert stream() == (GOLDEN / "stream.sse").read_bytes()


def test_golden_files_show_every_kind_and_every_delta() -> None:
    assert {event.event_type for event in EVENTS} == PUBLIC_KINDS
    assert {
        name for model in get_args(PublicEvent) for name in get_args(model.model_fields["event_type"].annotation)
    } == (PUBLIC_KINDS)
    shown = {event.delta.type for event in EVENTS if isinstance(event, StepDelta)}
    assert shown == {name for model in get_args(get_args(Delta)[0]) for name in types_of(model)}


def test_the_public_example() -> None:
    body = encode(StepDelta(index=1, delta=TextDelta(text="Hel")), 17)
    assert body == (b'{"event_type":"step.delta","index":1,"delta":{"type":"text","text":"Hel"},"event_id":"evt_17"}')
    assert sse_frame("step.delta", body) == b"event: step.delta\ndata: " + body + b"\n\n"
    assert DONE_FRAME == b"event: done\ndata: [DONE]\n\n"
    assert HEARTBEAT_FRAME == b": keep-alive\n\n"


@given(hostile_texts | st.sampled_from(["\r\n\n", "\u2028\u2029\x85\x0b\x0c\x1c", "\n\ndata: [DONE]\n\n", "\ud800"]))
def test_no_text_breaks_a_frame(text: str) -> None:
    body = encode(StepDelta(index=0, delta=TextDelta(text=text)), 1)
    assert len(body.decode().splitlines()) == 1
    clean = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert json.loads(body)["delta"]["text"] == clean


def test_ids_and_places_belong_together() -> None:
    assert event_id(17) == "evt_17"
    assert seq_of("evt_17") == 17
    assert seq_of(event_id(10**17)) == 10**17


@pytest.mark.parametrize(
    "text",
    [
        "",
        "17",
        "evt_",
        "evt_0",
        "evt_-1",
        "evt_017",
        "evt_1 ",
        "evt_1\n",
        "EVT_1",
        "evt_١",
        "evt_" + "9" * 5000,
        "e1\0",
    ],
)
def test_other_ids_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid value at 'last_event_id': ") as caught:
        seq_of(text)
    assert len(caught.value.message) < 200


def test_results_are_paired_from_their_start_on() -> None:
    assert shell(FunctionResult(call_id="a", name="f", result="x", is_error=True)) == {
        "type": "function_result",
        "call_id": "a",
        "name": "f",
    }


def test_a_call_starts_without_its_arguments() -> None:
    call = FunctionCall(id="a", name="f", arguments={"number": 881}, signature="s")
    assert shell(call) == {"type": "function_call", "id": "a", "name": "f", "arguments": {}, "signature": "s"}
    start, delta, stop = step_events(call, 3)
    assert start == StepStart(index=3, step=shell(call))
    assert json.loads(encode(delta, 1))["delta"] == {"type": "arguments_delta", "arguments": '{"number":881}'}
    assert stop == StepStop(index=3)


@given(steps, st.integers(0, 5))
def test_a_step_is_one_start_some_deltas_one_stop(step: Step, index: int) -> None:
    first, *deltas, last = step_events(step, index)
    assert isinstance(first, StepStart)
    assert first.step["type"] == step.type
    assert all(isinstance(event, StepDelta) for event in deltas)
    assert isinstance(last, StepStop)
    assert {json.loads(encode(event, 1))["index"] for event in (first, *deltas, last)} == {index}


def _microseconds(work: Callable[[], Any]) -> float:
    """The best of several rounds: other load only ever adds."""
    rounds = []
    for _ in range(7):
        start = perf_counter()
        for _ in range(1000):
            work()
        rounds.append((perf_counter() - start) * 1000)
    return min(rounds)


def test_a_text_delta_is_encoded_in_under_ten_microseconds() -> None:
    event = StepDelta(index=3, delta=TextDelta(text="about a hundred characters of ordinary text, é too; " * 2))
    assert _microseconds(lambda: encode(event, 17)) < 10
