"""Answers of a wanted form: held back until they have it, asked for again, and never lost or shown twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, ModelError
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    Correction,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    TurnEnd,
)
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.policy.limits import Limits
from orchestrator.runs.answers import answer_schema
from orchestrator.runs.record import read_interaction
from orchestrator.runs.replies import CallerKey
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.interactions import parse_interaction_request
from orchestrator.wire.steps import ModelOutput, Step, UserInput
from tests.fakes.runs import (
    PlayedModel,
    RunWorld,
    assert_ended_once,
    assert_matched,
    bash,
    bodies,
    is_in_shown_turn,
    kinds,
    scripted,
    taken_up,
    without_ids,
)

pytestmark = pytest.mark.anyio

FORM = {
    "type": "text",
    "mime_type": "application/json",
    "schema": {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]},
}
ASKED = {"response_format": FORM}
GOOD = '{"sum": 3}'
STORY = scripted(
    {"text": "I look first.", "calls": [bash("ls")]},
    {"text": "The sum is 3.", "again": ['{"sum": "3"}', GOOD], "chunk": 3},
)


def texts(steps: Sequence[Step]) -> list[str]:
    return [block.text for step in steps if isinstance(step, ModelOutput) for block in step.content]  # type: ignore[union-attr]


async def errors_of(world: RunWorld, interaction_id: str) -> list[str]:
    told = await read_interaction(world.store, await world.stored(interaction_id))
    return [each["code"] for each in told.get("errors", [])]


# what is asked for


async def test_which_requests_ask_for_a_form() -> None:
    def schema_of(**fields: Any) -> Any:
        form = answer_schema(parse_interaction_request({"agent": "general", "input": "x", **fields}))
        return "any text" if form is None else form.schema

    assert schema_of() == "any text"
    assert schema_of(response_format={"type": "text"}) == "any text"
    assert schema_of(response_format={"type": "text", "mime_type": "text/plain"}) == "any text"
    assert schema_of(response_format={"type": "text", "mime_type": "application/json"}) is None
    assert schema_of(response_mime_type="application/json") is None
    assert schema_of(response_format=FORM) == schema_of(response_format=[FORM]) == FORM["schema"]
    assert schema_of(response_format={"type": "text", "schema": FORM["schema"]}) == FORM["schema"]
    with pytest.raises(InvalidRequest, match=r"response_format\[0\]\.schema.*type"):
        schema_of(response_format={"type": "text", "schema": {"type": "objekt"}})


async def test_a_schema_that_is_none_is_refused_before_anything_is_stored(store: SqliteStore) -> None:
    world = RunWorld(store)
    project = await store.default_project()
    form = {"type": "text", "mime_type": "application/json", "schema": {"type": "objekt"}}
    body = parse_interaction_request(
        {"agent": "general", "input": "x", "environment": "remote", "response_format": form}
    )
    with pytest.raises(InvalidRequest, match=r"response_format\[0\]\.schema"):
        await world.intake.accept(project.id, CallerKey("tests"), body)
    assert await store.interactions(None) == []
    assert await store.environments(None) == []


# one turn


async def test_an_answer_that_fits_is_shown_whole_and_once(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted({"text": f"```json\n{GOOD}\n```", "chunk": 2}), request=ASKED)
    assert row.status == "completed"
    assert texts(await world.steps(row.id)) == [GOOD]
    assert_ended_once(await world.log(row.id), "completed")
    assert (await read_interaction(store, row))["output_text"] == GOOD


async def test_an_answer_that_does_not_fit_is_never_shown_and_asked_for_again(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(STORY, request=ASKED)
    assert row.status == "completed"
    steps = await world.steps(row.id)
    assert texts(steps) == ["I look first.", GOOD]
    assert [step.type for step in steps] == [
        "model_output",
        "code_execution_call",
        "code_execution_result",
        "model_output",
    ]
    log = await world.log(row.id)
    assert_ended_once(log, "completed")
    public = b"".join(event.body for event in log if not event.kind.startswith(("turn.", "answer.", "tool.", "run.")))
    assert b"The sum is" not in public
    assert kinds(log).count("turn.ended") == 4
    assert bodies(log, "interaction.completed")[0]["interaction"].get("errors") is None


async def test_the_model_reads_its_answer_and_what_was_wrong_with_it(store: SqliteStore) -> None:
    answers = ["no", '{"sum": "3"}', GOOD]
    seen: list[ModelRequest] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(request)
        return [TextDelta(answers[len(seen) - 1]), TurnEnd(ModelUsage(input_tokens=5))]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request=ASKED)
    assert row.status == "completed"
    assert [(request.turn, request.asked_again) for request in seen] == [(0, 0), (0, 1), (0, 2)]
    assert all(request.answer_schema == FORM["schema"] for request in seen)
    assert '"sum"' in seen[0].system
    assert [step.type for step in seen[2].history] == ["user_input", *["model_output", "user_input"] * 2]
    assert texts(seen[2].history) == ["no", '{"sum": "3"}']
    corrections = [step for step in seen[2].history if isinstance(step, Correction)]
    assert "not JSON" in str(corrections[0])
    assert "$.sum" in str(corrections[1])
    (completed,) = bodies(await world.log(row.id), "interaction.completed")
    assert completed["interaction"]["usage"]["total_tokens"] == 15, "all that was asked is paid for"


@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_a_model_that_cannot_is_asked_so_often_and_then_the_run_fails(store: SqliteStore, limit: int) -> None:
    world = RunWorld(store, limits=Limits(max_asked_again=limit))
    row = await world.run(scripted({"text": "never"}), request=ASKED)
    assert row.status == "failed"
    log = await world.log(row.id)
    assert_ended_once(log, "failed")
    assert kinds(log).count("turn.ended") == limit + 1
    assert await errors_of(world, row.id) == ["answer_not_valid"]
    (told,) = bodies(log, "error")
    assert "response_format" in told["error"]["message"]


async def test_no_answer_at_all_does_not_fit(store: SqliteStore) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        return [TurnEnd()] if not request.asked_again else [TextDelta(GOOD), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request=ASKED)
    assert row.status == "completed"
    assert texts(await world.steps(row.id)) == [GOOD]


async def test_after_a_call_the_model_has_all_its_tries_again(store: SqliteStore) -> None:
    turns: list[list[ModelEvent | Exception]] = [
        [TextDelta("no"), TurnEnd()],
        [CallStart("code_execution"), CallDelta('{"language": "bash", "code": "ls"}'), TurnEnd()],
        [TextDelta("no"), TurnEnd()],
        [TextDelta(GOOD), TurnEnd()],
    ]
    seen: list[ModelRequest] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(request)
        return turns[len(seen) - 1]

    world = RunWorld(store, model=PlayedModel(play), limits=Limits(max_asked_again=1))
    row = await world.run("go", request=ASKED)
    assert row.status == "completed"
    assert [(request.turn, request.asked_again) for request in seen] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [step.type for step in seen[3].history] == [
        "user_input",
        "model_output",
        "user_input",
        "code_execution_call",
        "code_execution_result",
        "model_output",
        "user_input",
    ]


async def test_what_is_said_beside_calls_is_shown(store: SqliteStore) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.turn:
            return [TextDelta(GOOD), TurnEnd()]
        call: list[ModelEvent | Exception] = [
            CallStart("code_execution"),
            CallDelta('{"language": "bash", "code": "ls"}'),
        ]
        return [TextDelta("bef"), TextDelta("ore"), *call, TextDelta("between"), *call, TextDelta("after"), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request=ASKED)
    assert row.status == "completed"
    steps = await world.steps(row.id)
    assert [texts([step])[0] if isinstance(step, ModelOutput) else step.type for step in steps] == [
        "before",
        "code_execution_call",
        "between",
        "code_execution_call",
        "after",
        "code_execution_result",
        "code_execution_result",
        GOOD,
    ]
    assert_matched(steps)


async def test_text_and_thoughts_in_turn_make_one_answer(store: SqliteStore) -> None:
    def play(_request: ModelRequest) -> list[ModelEvent | Exception]:
        return [TextDelta('{"sum"'), ThoughtDelta("hm"), TextDelta(": 3}"), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request=ASKED)
    assert row.status == "completed"
    assert texts(await world.steps(row.id)) == ['{"sum": 3}']


async def test_a_turn_that_breaks_off_before_anything_is_shown_is_tried_again(store: SqliteStore) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.attempt == 0:
            return [TextDelta('{"sum": 1'), ModelError("cut", code="model_stream_broken", retryable=True)]
        return [TextDelta(GOOD), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request=ASKED)
    assert row.status == "completed"
    assert texts(await world.steps(row.id)) == [GOOD]


async def test_an_answer_that_was_cut_is_shown_as_far_as_it_goes(store: SqliteStore) -> None:
    world = RunWorld(store)
    request = {
        "model": "played",
        "agent": None,
        "generation_config": {"max_output_tokens": 1},
        **ASKED,
    }
    row = await world.run(scripted({"text": GOOD}), request=request, is_model=True, agent="played")
    assert row.status == "incomplete"
    assert texts(await world.steps(row.id)) == [GOOD[:4]]
    assert await errors_of(world, row.id) == ["max_output_tokens"]


async def test_a_call_of_a_client_is_no_answer(store: SqliteStore) -> None:
    world = RunWorld(store)
    ask = {"tool": "weather", "arguments": {}}
    tools = [{"type": "function", "name": "weather"}]
    row = await world.run(scripted({"text": "Wait.", "calls": [ask]}), request={**ASKED, "tools": tools})
    assert row.status == "requires_action"
    assert texts(await world.steps(row.id)) == ["Wait."]


async def test_a_large_answer_is_looked_at_too(store: SqliteStore) -> None:
    large = json.dumps({"sum": 3, "text": "x" * 200_000})
    world = RunWorld(store, model=PlayedModel(lambda _: [TextDelta(large), TurnEnd()]))
    row = await world.run("go", request=ASKED)
    assert row.status == "completed"
    assert texts(await world.steps(row.id)) == [large]


async def test_what_was_refused_is_no_part_of_the_conversation(store: SqliteStore) -> None:
    seen: list[ModelRequest] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(request)
        return [TextDelta(GOOD if request.asked_again else "no"), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    first = await world.run("go", request=ASKED)
    second = await world.run("and now?", previous_id=first.id)
    assert second.status == "completed"
    assert (seen[-1].turn, seen[-1].answer_schema) == (0, None)
    assert texts(seen[-1].history) == [GOOD]
    assert sum(isinstance(step, UserInput) for step in seen[-1].history) == 2


async def test_the_number_of_turns_limits_being_asked_again_too(store: SqliteStore) -> None:
    world = RunWorld(store, limits=Limits(max_turns=2, max_asked_again=5))
    row = await world.run(scripted({"text": "never"}), request=ASKED)
    assert row.status == "incomplete"
    assert await errors_of(world, row.id) == ["max_turns"]
    assert texts(await world.steps(row.id)) == []


# after a crash


async def test_from_every_prefix_the_answer_is_neither_lost_nor_shown_twice(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await world.run(STORY, request=ASKED)
    whole, steps = await world.log(first.id), without_ids(await world.steps(first.id))
    assert kinds(whole).count("answer.refused") == 2
    for length in range(2, len(whole)):
        later, interaction_id = await taken_up(store, whole, length, STORY, request=ASKED)
        context = f"{length} events, the last is {whole[length - 1].kind}"
        log = await later.log(interaction_id)
        assert [event.body for event in log[2:length]] == [event.body for event in whole[2:length]], context
        assert_ended_once(log, "completed")
        found = await later.steps(interaction_id)
        assert_matched(found)
        assert texts(found)[-1] == GOOD, context
        assert texts(found).count(GOOD) == 1, context
        assert "The sum is 3." not in str(found), context
        is_result_open = whole[length - 1].kind != "step.stop" and kinds(whole[:length]).count("step.start") > kinds(
            whole[:length]
        ).count("step.stop")
        if not is_in_shown_turn(whole[:length]) and not is_result_open:
            assert without_ids(found) == steps, context


async def test_from_every_prefix_an_answer_that_does_not_fit_fails_the_run(store: SqliteStore) -> None:
    program = scripted({"text": "never", "chunk": 2})
    world = RunWorld(store)
    whole = await world.log((await world.run(program, request=ASKED)).id)
    assert kinds(whole).count("answer.refused") == 2
    for length in range(2, len(whole)):
        later, interaction_id = await taken_up(store, whole, length, program, request=ASKED)
        context = f"{length} events, the last is {whole[length - 1].kind}"
        row = await later.stored(interaction_id)
        assert row.status == "failed", context
        log = await later.log(interaction_id)
        assert_ended_once(log, "failed")
        assert await errors_of(later, interaction_id) == ["answer_not_valid"], context
        assert kinds(log).count("turn.ended") == 3, context
        assert kinds(log).count("answer.refused") == 2, context
        assert texts(await later.steps(interaction_id)) in (["never"], []), context


async def test_cancelled_while_it_is_asked_again_a_run_shows_no_answer(store: SqliteStore) -> None:
    world = RunWorld(store)
    program = scripted({"text": "no", "again": ["no"], "sleep_ms": 50})
    row = await world.row(program, request=ASKED)
    world.supervisor.start(row)
    async for batch in store.tail(row.id):
        if any(event.kind == "answer.refused" for event in batch):
            break
    await world.supervisor.cancel(row.id)
    assert_ended_once(await world.log(row.id), "cancelled")
    assert texts(await world.steps(row.id)) == []
