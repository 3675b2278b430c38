"""One model call: every order of the model's events becomes whole steps, or an error of the model."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import LeaseLost, ModelError, StoreError
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    MediaOutput,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    TurnEnd,
)
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.runs import retries as module
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.turn import Turn
from orchestrator.store.records import NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tools.mediator import ToolCall
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.content import AudioContent, ImageContent, TextContent
from orchestrator.wire.events import fold
from orchestrator.wire.interactions import output_text
from orchestrator.wire.steps import CodeExecutionCall, FunctionCall, ModelOutput, Step, Thought
from orchestrator.wire.tools import CodeExecutionTool
from orchestrator.wire.usage import Usage
from tests.fakes.rows import interaction_row
from tests.fakes.runs import PlayedModel, assert_matched

pytestmark = pytest.mark.anyio

IMAGE = ImageContent(data="iVBORw0KGgo=", mime_type="image/png")
REQUEST = ModelRequest(model="played", system="", history=(), tools=(), turn=0)
TOOLS = Toolbox.choose([CodeExecutionTool()], has_environment=True)


class Log:
    """Takes the place of a store: keeps one log, or refuses."""

    def __init__(self) -> None:
        self.events: list[NewEvent] = []
        self.appends: list[list[str]] = []
        self.error: Exception | None = None
        self.rounds = 0
        """For how many rounds of the event loop a write takes."""

    async def append(self, interaction_id: str, events: list[NewEvent], *, expected_seq: int, **_more: Any) -> None:
        assert expected_seq == len(self.events) + 1
        if self.error is not None:
            raise self.error
        for _ in range(self.rounds):
            await asyncio.sleep(0)
        self.appends.append([event.kind for event in events])
        self.events += events

    def notes(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(event.body) for event in self.events if event.kind == kind]

    @property
    def steps(self) -> list[Step]:
        return fold((event.kind, event.body) for event in self.events)


class Played:
    def __init__(self, *attempts: list[ModelEvent | Exception]) -> None:
        self.log = Log()
        self.recorder = Recorder(self.log, "v1_x", 1, [])  # type: ignore[arg-type]
        self.metrics = Metrics()
        self.model = PlayedModel(lambda request: attempts[min(request.attempt, len(attempts) - 1)])

    async def calls(self) -> list[ToolCall]:
        turn = Turn(self.recorder, TOOLS, metrics=self.metrics)
        try:
            return await turn.play(self.model, REQUEST)
        finally:
            turn.close()
            await self.recorder.settle()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.0)


async def test_text_and_thought_become_steps_in_their_order() -> None:
    played = Played(
        [
            ThoughtDelta("let "),
            ThoughtDelta("me see"),
            ThoughtSignature("sig"),
            ThoughtDelta("another"),
            TextDelta("a"),
            TextDelta("b"),
            ThoughtDelta("third"),
            TextDelta("c"),
            TurnEnd(),
        ]
    )
    assert await played.calls() == []
    first, second, *_ = played.log.steps
    assert isinstance(first, Thought)
    assert isinstance(second, Thought)
    assert (first.signature, str(first.summary)) == ("sig", str([TextContent(text="let me see")]))
    assert (second.signature, str(second.summary)) == (None, str([TextContent(text="another")]))
    kinds = [step.type for step in played.log.steps]
    assert kinds == ["thought", "thought", "model_output", "thought", "model_output"]


async def test_media_stand_beside_text_in_the_order_in_which_they_came() -> None:
    sound = AudioContent(data="AAAA", mime_type="audio/wav")
    said: list[ModelEvent | Exception] = [TextDelta("a"), TextDelta("b"), MediaOutput(IMAGE), MediaOutput(sound)]
    played = Played([*said, TextDelta("c"), ThoughtSignature("sig"), MediaOutput(IMAGE), TurnEnd()])
    await played.calls()
    first, second, third = played.log.steps
    assert first == ModelOutput(content=[TextContent(text="ab"), IMAGE, sound, TextContent(text="c")])
    assert second == Thought(signature="sig", summary=[])
    assert third == ModelOutput(content=[IMAGE])


async def test_a_medium_is_stored_before_more_is_taken() -> None:
    played = Played([*[MediaOutput(IMAGE)] * 5, TurnEnd()])
    played.log.rounds = 20
    await played.calls()
    assert max(kinds.count("step.delta") for kinds in played.log.appends) == 1


async def test_media_are_shown_while_an_answer_of_a_form_is_held() -> None:
    played = Played([TextDelta("{"), MediaOutput(IMAGE), TextDelta("}"), TurnEnd()])
    turn = Turn(played.recorder, TOOLS, metrics=played.metrics, holds_answer=True)
    await turn.play(played.model, REQUEST)
    assert played.log.steps == [ModelOutput(content=[IMAGE])]
    assert [note["held"] for note in played.log.notes("turn.ended")] == ["{}"]


async def test_calls_keep_their_arguments_apart() -> None:
    played = Played(
        [
            CallStart("code_execution"),
            CallDelta('{"language": "bash", '),
            CallDelta('"code": "ls"}'),
            CallStart("read_file"),
            CallDelta('{"path": "x"}'),
            CallStart("unknown"),
            TextDelta("after"),
            TurnEnd(),
        ]
    )
    calls = await played.calls()
    assert [(call.name, call.arguments) for call in calls] == [
        ("code_execution", '{"language": "bash", "code": "ls"}'),
        ("read_file", '{"path": "x"}'),
        ("unknown", ""),
    ]
    code, read, unknown, text = played.log.steps
    assert isinstance(code, CodeExecutionCall)
    assert (code.arguments.language, code.arguments.code) == ("bash", "ls")
    assert isinstance(read, FunctionCall)
    assert (read.name, read.arguments) == ("read_file", {"path": "x"})
    assert isinstance(unknown, FunctionCall)
    assert isinstance(text, ModelOutput)
    assert [code.id, read.id, unknown.id] == [call.id for call in calls]
    assert len({call.id for call in calls}) == 3
    assert played.log.notes("turn.ended")[0]["calls"] == [call.id for call in calls]


@pytest.mark.parametrize(
    ("name", "arguments", "is_shown"),
    [
        ("code_execution", '{"code": "x"}', True),
        ("code_execution", '{"code": "x", "language": "bash"}', True),
        ("code_execution", '{"code": "x", "language": "ruby"}', False),
        ("code_execution", '{"code": "x", "sudo": true}', False),
        ("code_execution", '{"code": 5}', False),
        ("code_execution", '{"code', False),
        ("code_execution", "", False),
        ("read_file", '{"path": "x", "unknown": 1}', True),
        ("read_file", "", True),
        ("read_file", "[]", False),
        ("read_file", '{"path": "x"', False),
    ],
)
async def test_arguments_that_a_step_cannot_show_are_kept_beside_it(name: str, arguments: str, is_shown: bool) -> None:
    played = Played([CallStart(name), CallDelta(arguments), TurnEnd()])
    (call,) = await played.calls()
    (ended,) = played.log.notes("turn.ended")
    assert ended["unshown"] == ({} if is_shown else {call.id: arguments})


@pytest.mark.parametrize(
    "events",
    [
        [CallDelta("{}")],
        [TextDelta("a"), CallDelta("{}")],
        [CallStart("read_file"), TextDelta("a"), CallDelta("{}")],
        [CallStart("read_file"), CallDelta("{}"), ThoughtDelta("a"), CallDelta('{"path": "/etc"}')],
    ],
)
async def test_arguments_without_a_call_are_the_models_mistake(events: list[ModelEvent]) -> None:
    """They must not be added to an earlier call: what is shown is what is done."""
    with pytest.raises(ModelError) as caught:
        await Played([*events, TurnEnd()]).calls()
    assert caught.value.code == "model_bad_stream"


@pytest.mark.parametrize("events", [[], [TextDelta("half")], [CallStart("code_execution"), CallDelta('{"code": "x"}')]])
async def test_a_stream_without_an_end_broke_off(events: list[ModelEvent | Exception]) -> None:
    played = Played(events)
    with pytest.raises(ModelError) as caught:
        await played.calls()
    assert caught.value.code == "model_stream_broken"
    assert len(played.model.requests) == 4
    assert played.log.notes("turn.ended") == []


async def test_a_stream_that_broke_off_before_anything_was_shown_is_asked_again() -> None:
    played = Played([], [TextDelta("fine"), TurnEnd()])
    assert await played.calls() == []
    assert len(played.model.requests) == 2


async def test_nothing_is_taken_after_the_end() -> None:
    played = Played([TextDelta("a"), TurnEnd(), CallStart("code_execution")])
    assert await played.calls() == []
    assert [step.type for step in played.log.steps] == ["model_output"]


# retries


def overloaded() -> ModelError:
    return ModelError("busy", code="model_overloaded", retryable=True)


async def test_a_failure_that_may_pass_is_tried_again_and_noted() -> None:
    played = Played([overloaded()], [overloaded()], [TextDelta("fine"), TurnEnd()])
    assert await played.calls() == []
    assert [(request.turn, request.attempt) for request in played.model.requests] == [(0, 0), (0, 1), (0, 2)]
    assert [note["code"] for note in played.log.notes("turn.failed")] == ["model_overloaded"] * 2
    assert [note["attempt"] for note in played.log.notes("turn.started")] == [0, 1, 2]


async def test_it_is_not_tried_for_ever() -> None:
    played = Played([overloaded()])
    with pytest.raises(ModelError, match="busy"):
        await played.calls()
    assert len(played.model.requests) == 4


async def test_a_failure_that_stays_is_not_tried_again() -> None:
    played = Played([ModelError("no key", code="model_auth")])
    with pytest.raises(ModelError, match="no key"):
        await played.calls()
    assert len(played.model.requests) == 1


@pytest.mark.parametrize(
    "shown", [ThoughtDelta("hm"), TextDelta("a"), MediaOutput(IMAGE), CallStart("code_execution"), CallStart("x")]
)
async def test_what_was_shown_of_a_turn_that_broke_off_is_closed_and_the_turn_asked_again(shown: ModelEvent) -> None:
    played = Played([shown, overloaded()], [TextDelta("again"), TurnEnd()])
    assert await played.calls() == []
    assert [request.attempt for request in played.model.requests] == [0, 1]
    kinds = [event.kind for event in played.log.events]
    assert kinds.count("step.start") == kinds.count("step.stop") == len(played.log.steps)
    assert_matched(played.log.steps)
    assert kinds.index("turn.broken") < kinds.index("turn.started", 1)
    assert played.recorder.transcript.told() == [ModelOutput(content=[TextContent(text="again")])]
    assert output_text(played.log.steps) == "again"


async def test_text_that_broke_off_says_so() -> None:
    played = Played([TextDelta("The answ"), overloaded()], [TextDelta("The answer."), TurnEnd()])
    await played.calls()
    partial, whole = played.log.steps
    assert isinstance(partial, ModelOutput)
    assert isinstance(whole, ModelOutput)
    assert (partial.is_partial, whole.is_partial) == (True, None)
    assert str(partial.content[0].text) == "The answ\n\n[the model's answer broke off here and begins again]\n\n"  # type: ignore[union-attr]


async def test_calls_of_a_turn_that_broke_off_are_not_made() -> None:
    first: list[ModelEvent | Exception] = [
        CallStart("read_file"),
        CallDelta('{"path": "x"}'),
        CallStart("code_execution"),
        overloaded(),
    ]
    played = Played(first, [CallStart("read_file"), CallDelta('{"path": "y"}'), TurnEnd()])
    (call,) = await played.calls()
    assert call.arguments == '{"path": "y"}'
    _read, _code, *results, again = played.log.steps
    assert [result.is_error for result in results] == [True, True]  # type: ignore[union-attr]
    assert isinstance(again, FunctionCall)
    assert [step.id for step in played.recorder.unanswered] == [again.id]


async def test_the_last_failure_leaves_what_was_shown_unmarked() -> None:
    played = Played([TextDelta("half"), overloaded()])
    with pytest.raises(ModelError, match="busy"):
        await played.calls()
    assert len(played.model.requests) == 4
    assert [step.is_partial for step in played.log.steps] == [True, True, True, None]  # type: ignore[union-attr]
    assert played.log.notes("turn.broken") == [{}] * 3


def limited(retry_after_s: float) -> ModelError:
    return ModelError("too many", code="model_rate_limited", retryable=True, retry_after_s=retry_after_s)


async def test_the_next_try_waits_as_long_as_the_provider_asks() -> None:
    played = Played([limited(0.2)], [TextDelta("fine"), TurnEnd()])
    begin = time.monotonic()
    await played.calls()
    assert 0.2 <= time.monotonic() - begin < 5
    assert [note["retry_after_s"] for note in played.log.notes("turn.failed")] == [0.2]


async def test_a_provider_that_asks_for_hours_is_not_waited_for() -> None:
    played = Played([limited(7200)], [TextDelta("late"), TurnEnd()])
    with pytest.raises(ModelError, match="too many"):
        await played.calls()
    assert len(played.model.requests) == 1


@pytest.mark.parametrize("error", [LeaseLost("another"), StoreError("full")])
async def test_a_log_that_refuses_ends_the_turn_and_the_models_stream(error: Exception) -> None:
    played = Played([*[TextDelta("x")] * 5000, TurnEnd()])
    played.log.error = error
    with pytest.raises(type(error)):
        await played.calls()


async def test_many_small_events_do_not_pile_up() -> None:
    played = Played([*(TextDelta("x") for _ in range(3000)), TurnEnd()])
    await played.calls()
    assert max(len(kinds) for kinds in played.log.appends) <= 600


# any order at all

EVENTS: dict[str, Any] = {
    "thought": st.builds(ThoughtDelta, st.text(max_size=5)),
    "signature": st.builds(ThoughtSignature, st.text(min_size=1, max_size=5)),
    "text": st.builds(TextDelta, st.text(max_size=5)),
    "media": st.just(MediaOutput(IMAGE)),
    "call": st.builds(CallStart, st.sampled_from(["code_execution", "read_file", "nothing"])),
    "delta": st.builds(CallDelta, st.sampled_from(["{", "}", '"code"', ":", '"x"', "{}", '{"code": "x"}', "", "[]"])),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.lists(st.one_of(*EVENTS.values()), max_size=15), st.booleans())
def test_any_order_of_events_gives_whole_steps_or_a_models_error(events: list[ModelEvent], ends: bool) -> None:
    async def play() -> None:
        played = Played([*events, *([TurnEnd()] if ends else [])])
        try:
            calls = await played.calls()
        except ModelError:
            calls = None
        kinds = [event.kind for event in played.log.events]
        assert kinds.count("step.start") == kinds.count("step.stop")
        steps = played.log.steps
        made = [step.id for step in steps if isinstance(step, CodeExecutionCall | FunctionCall)]
        if calls is not None:
            assert ends
            assert [call.id for call in calls] == made
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        output = [
            block
            for step in played.recorder.transcript.told()
            if isinstance(step, ModelOutput)
            for block in step.content
        ]
        said = "".join(block.text for block in output if isinstance(block, TextContent))
        media = sum(isinstance(event, MediaOutput) for event in events)
        assert sum(block == IMAGE for block in output) == media or calls is None
        assert text.startswith(said)
        if calls is not None:
            assert said == text

    asyncio.run(play())


async def test_everything_of_a_turn_is_durable_when_it_returns(store: SqliteStore) -> None:
    project = await store.default_project()
    row = interaction_row(project.id)
    await store.create_interaction(row, [])
    recorder = Recorder(store, row.id, 1, [])
    await Turn(recorder, TOOLS, metrics=Metrics()).play(PlayedModel(lambda _: [TextDelta("a"), TurnEnd()]), REQUEST)
    stored = await store.read(row.id)
    assert [event.kind for event in stored] == [
        "turn.started",
        "step.start",
        "step.delta",
        "step.stop",
        "turn.ended",
    ]


async def test_the_last_step_of_a_turn_has_what_the_turn_took() -> None:
    usage = ModelUsage(input_tokens=10, output_tokens=5)
    played = Played([ThoughtDelta("t"), TextDelta("a"), CallStart("read_file"), CallDelta("{}"), TurnEnd(usage)])
    played.recorder.usage = Usage(total_tokens=100)
    await played.calls()
    stops = played.log.notes("step.stop")
    assert [stop.get("step_usage", {}).get("total_tokens") for stop in stops] == [None, None, 15]
    assert [stop["usage"]["total_tokens"] for stop in stops] == [100, 100, 115]
