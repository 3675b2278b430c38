"""What a model said is read back from the log: given to another run, it makes the same of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.errors import LogDamaged, ModelError
from orchestrator.models.cassettes import Cassette, Key
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
    Usage,
)
from orchestrator.models.replayed import Playback
from orchestrator.policy.limits import Limits
from orchestrator.runs import retries
from orchestrator.runs.reenactment import cassette_of
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import Event, InteractionRow
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.content import ImageContent
from tests.fakes.runs import PlayedModel, RunWorld, bodies, kinds, taken_up, without_ids
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio

FORM = {"type": "text", "mime_type": "application/json", "schema": {"type": "object", "required": ["sum"]}}
TOOLS = [
    {"type": "code_execution"},
    {"type": "google_search"},
    {"type": "function", "name": "weather", "description": "Tells it.", "parameters": {"type": "object"}},
]
Played = Sequence[ModelEvent | Exception]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_WAIT_S", 0.0)


def call(name: str, *arguments: str) -> list[ModelEvent]:
    return [CallStart(name), *(CallDelta(text) for text in arguments)]


def end(tokens: int, **fields: Any) -> TurnEnd:
    return TurnEnd(Usage(tokens, 2 * tokens, 3 * tokens, 4 * tokens, 5 * tokens), **fields)


def busy() -> ModelError:
    return ModelError("busy", code="model_overloaded", retryable=True)


class Story:
    """A run whose model says, call by call, what the test lists."""

    def __init__(self, store: SqliteStore, *attempts: Played, **changes: Any) -> None:
        left = list(attempts)
        self.store = store
        self.world = RunWorld(store, model=PlayedModel(lambda _: left.pop(0)))
        self.changes = changes

    async def run(self) -> InteractionRow:
        return await self.world.run("Go.", **self.changes)

    async def again(self, row: InteractionRow) -> tuple[InteractionRow, list[Event]]:
        """Another run that is given the answers of `row`'s."""
        cassette = cassette_of(row.id, await self.store.read(row.id))
        world = RunWorld(self.store, model=Playback(cassette, row.id))
        again = await world.run("Go.", **self.changes)
        return again, await self.store.read(again.id)


def shown(events: Sequence[Event]) -> dict[str, Any]:
    """What must be equal of two runs."""
    from orchestrator.wire.events import fold

    last = bodies(events, "interaction.completed")[0]["interaction"]
    notes = bodies(events, "turn.ended")
    return {
        "steps": without_ids(fold((event.kind, event.body) for event in events)),
        "status": last["status"],
        "usage": last["usage"],
        "errors": last.get("errors"),
        "step usage": [stop.get("step_usage") for stop in bodies(events, "step.stop")],
        "turns": [
            {"unshown": list(note["unshown"].values()), "held": note.get("held"), "cut": note.get("is_cut")}
            for note in notes
        ],
        "refused": bodies(events, "answer.refused"),
    }


STORIES: dict[str, tuple[list[Played], dict[str, Any]]] = {
    "thoughts, texts and calls in their order": (
        [
            [
                ThoughtDelta("Let "),
                ThoughtDelta("me."),
                ThoughtSignature("gemini.call:sig"),
                ThoughtDelta("More."),
                TextDelta("I "),
                TextDelta("look."),
                *call("code_execution", '{"code": ', '"ls", "language": "bash"}'),
                TextDelta("And."),
                *call("read_file", '{"path":', ' "x"}'),
                end(1),
            ],
            [ThoughtSignature("alone"), TextDelta("Done."), end(10)],
        ],
        {},
    ),
    "arguments that no step shows": (
        [
            [*call("code_execution", '{"code": "x", "sudo": true}'), end(1)],
            [*call("code_execution", '{"code'), end(1)],
            [*call("code_execution"), end(1)],
            [*call("read_file", "[]"), *call("read_file"), *call("nothing", '{"a" :  1}'), end(1)],
            [*call("google_search", '{"queries": ["a", 1], "x": 1}'), end(1)],
            [*call("google_search", '{"queries": ["a"]}'), end(1)],
            [TextDelta("Done."), end(1)],
        ],
        {"request": {"tools": TOOLS}},
    ),
    "an answer that is held, refused, and asked for again": (
        [
            [TextDelta("I look."), *call("code_execution", '{"code": "1"}'), TextDelta("So."), end(1)],
            [ThoughtDelta("Hm."), TextDelta("no "), TextDelta("json"), end(2)],
            [TextDelta('{"sum": 3}'), end(4)],
        ],
        {"request": {"response_format": FORM}},
    ),
    "an answer that never has the form": (
        [[TextDelta("no json"), end(1)]] * 3,
        {"request": {"response_format": FORM}},
    ),
    "an answer that is cut": ([[TextDelta("hal"), end(1, is_cut=True)]], {}),
    "thoughts that are not to be seen": (
        [[ThoughtDelta("secret"), ThoughtSignature("sig"), TextDelta("Done."), end(1)]],
        {
            "request": {"agent": None, "model": "played", "generation_config": {"thinking_summaries": "none"}},
            "is_model": True,
        },
    ),
    "a function of the client's": (
        [[*call("weather", '{"city": "Bonn"}'), *call("code_execution", '{"code": "1"}'), end(1)]],
        {"request": {"tools": TOOLS}},
    ),
    "failures that passed": ([[busy()], [busy()], [TextDelta("Done."), end(1)]], {}),
    "a failure that did not pass": ([[busy()]] * 4, {}),
    "a failure after something was shown": (
        [
            [*call("code_execution", '{"code": "1"}'), end(1)],
            [TextDelta("And th"), ModelError("gone", code="model_refused")],
        ],
        {},
    ),
    "a call that broke off": ([[TextDelta("a"), *call("read_file", '{"pa'), ModelError("gone", code="x")]], {}),
    "arguments without a call": ([[TextDelta("a"), CallDelta("{}")]], {}),
    "nothing at all": ([[end(0)]], {}),
}


@pytest.mark.parametrize("name", STORIES)
async def test_the_same_comes_of_the_same_answers(store: SqliteStore, name: str) -> None:
    attempts, changes = STORIES[name]
    story = Story(store, *attempts, **changes)
    row = await story.run()
    _, log = await story.again(row)
    assert shown(log) == shown(await store.read(row.id))


async def test_the_exchanges_of_a_log(store: SqliteStore) -> None:
    story = Story(
        store,
        [busy()],
        [TextDelta("I "), TextDelta("look."), *call("code_execution", '{"code": "1"}'), end(1)],
        [TextDelta("Done."), end(10)],
    )
    row = await story.run()
    found = cassette_of(row.id, await store.read(row.id))
    assert found.header.compare == []
    assert [(each.key, each.events, each.failure) for each in found.exchanges.values()] == [
        (
            Key("turn", 0),
            (
                TextDelta("I look."),
                CallStart("code_execution"),
                CallDelta('{"language":"python","code":"1"}'),
                end(1),
            ),
            None,
        ),
        (Key("turn", 1), (TextDelta("Done."), end(10)), None),
    ]


async def test_turns_that_a_crash_cut_off_are_left_out(store: SqliteStore) -> None:
    """From every prefix of a log: what the second holder asked for again is said once."""
    from tests.fakes.runs import bash, scripted

    program = scripted(
        {"thought": "Look.", "text": "I look.", "calls": [bash("ls")], "chunk": 4}, {"text": "Done.", "chunk": 2}
    )
    whole_row = await RunWorld(store).run(program)
    whole = await store.read(whole_row.id)

    def said(log: Sequence[Event]) -> list[list[ModelEvent]]:
        # A step that was cut off is read, too, so that the tokens differ.
        exchanges = cassette_of("x", log).exchanges.values()
        return [[TurnEnd() if isinstance(event, TurnEnd) else event for event in each.events] for each in exchanges]

    expected = said(whole)
    assert len(expected) == 2
    for length in range(3, len(whole)):
        _, interaction_id = await taken_up(store, whole, length, program)
        assert said(await store.read(interaction_id)) == expected, kinds(whole)[length - 1]


async def test_a_log_that_cannot_be_read_says_so(store: SqliteStore) -> None:
    story = Story(store, [TextDelta("Done."), end(1)])
    log = await store.read((await story.run()).id)
    for kind in ("turn.started", "turn.ended", "step.delta"):
        damaged = [Event(each.seq, each.at, each.kind, b"[]" if each.kind == kind else each.body) for each in log]
        with pytest.raises(LogDamaged, match=kind):
            cassette_of("x", damaged)


async def test_a_log_without_answers_has_none() -> None:
    assert cassette_of("x", []) == Cassette(cassette_of("x", []).header, {})
    assert json.loads(cassette_of("x", []).header.model_dump_json())["interaction"] == "x"


async def test_an_answer_that_broke_off_is_given_whole(store: SqliteStore) -> None:
    gone = ModelError("gone", code="model_stream_broken", retryable=True)
    story = Story(store, [TextDelta("And th"), gone], [TextDelta("And this."), end(1)])
    row = await story.run()
    _, log = await story.again(row)
    (output,) = shown(log)["steps"]
    assert output["content"] == [{"type": "text", "text": "And this.", "annotations": None}]


async def test_a_long_conversation_is_shortened_where_it_was(store: SqliteStore) -> None:
    """And elsewhere, where its results are longer now: a summary is there for whoever asks for one."""

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.purpose == "compaction":
            return [TextDelta(f"What came before turn {request.turn}."), end(7)]
        if request.turn == 90:
            return [MediaOutput(ImageContent(data="aGVsbG8=", mime_type="image/png")), TextDelta("Done."), end(3)]
        return [*call("code_execution", f'{{"code": "echo {request.turn}", "language": "bash"}}'), end(10)]

    limits = Limits(context_limit_tokens=4_000)
    sandbox = FakeSandbox(lambda asked: _said(asked, 1_000))
    row = await RunWorld(store, sandbox, model=PlayedModel(play), limits=limits).run("Go.")
    log = await store.read(row.id)
    assert len(bodies(log, "context.shortened")) > 1
    for length, is_alike in ((1_000, True), (1_500, False)):
        model = Playback(cassette_of(row.id, log), row.id)
        sandbox = FakeSandbox(lambda asked, length=length: _said(asked, length))  # type: ignore[misc]
        again = await RunWorld(store, sandbox, model=model, limits=limits).run("Go.")
        assert again.status == "completed"
        events = await store.read(again.id)
        assert any(note["summary"].startswith("What came") for note in bodies(events, "context.shortened"))
        assert (shown(events) == shown(log)) is is_alike


async def _said(asked: Asked, length: int) -> CallOutcome:
    return outcome(f"{asked.what}\n{'x' * length}")
