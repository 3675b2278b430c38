"""Models that are asked directly, without an agent: which ones, with what, and how they are told to answer."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, ModelError, NotFound
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    TurnEnd,
)
from orchestrator.runs.record import read_interaction
from orchestrator.runs.replies import CallerKey
from orchestrator.store.records import InteractionRow
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.interactions import parse_interaction_request
from tests.fakes.runs import PlayedModel, RunWorld, assert_ended_once, bash, scripted

pytestmark = pytest.mark.anyio

FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


class Listening(PlayedModel):
    """Says the same whatever it is asked."""

    def __init__(self, *said: ModelEvent) -> None:
        super().__init__(lambda _request: [*(said or (TextDelta("fine"),)), TurnEnd()])


async def ask(world: RunWorld, text: Any = "hello", **fields: Any) -> InteractionRow:
    """A call that is taken and run to its end; `model`, unless it names an agent."""
    body = {"input": text, **({} if "agent" in fields else {"model": "played"}), **fields}
    project = await world.store.default_project()
    row = await world.intake.accept(project.id, CallerKey("tests"), parse_interaction_request(body))
    await world.supervisor.wait(row.id)
    return await world.stored(row.id)


def offered(request: ModelRequest) -> set[str]:
    return {tool.name for tool in request.tools}


async def told(world: RunWorld, row: InteractionRow) -> dict[str, Any]:
    return await read_interaction(world.store, row, timeline=False)


# which


async def test_a_model_answers_without_an_agent(store: SqliteStore) -> None:
    world = RunWorld(store, model=(model := Listening()))
    row = await ask(world, system_instruction="Be brief.")
    found = await told(world, row)
    assert (row.status, found["model"], "agent" in found) == ("completed", "played", False)
    assert found["output_text"] == "fine"
    assert "environment_id" not in found
    (request,) = model.requests
    assert (request.model, request.system, request.tools) == ("played", "Be brief.", ())
    created = (await world.log(row.id))[0].body
    assert b'"model":"played"' in created
    assert b'"agent"' not in created


async def test_a_model_may_be_named_with_its_provider_and_is_told_as_it_was_named(store: SqliteStore) -> None:
    world = RunWorld(store, model=(model := Listening()))
    for name in ("played:large", "models/played:large"):
        row = await ask(world, model=name)
        assert (await told(world, row))["model"] == "played:large"
    assert [request.model for request in model.requests] == ["played:large"] * 2


async def test_an_agent_is_found_in_either_field(store: SqliteStore) -> None:
    world = RunWorld(store, model=Listening())
    for fields in ({"agent": "general"}, {"model": "general"}, {"model": "agents/general"}):
        found = await told(world, await ask(world, **fields))
        assert (found["agent"], "model" in found) == ("general", False)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "nobody"}, "'model'"),
        ({"model": "playd"}, "'played'"),
        ({"model": "nowhere:played"}, "'model'"),
        ({"agent": "played"}, "'agent'"),
        ({"agent": "general", "agent_config": {"type": "antigravity", "model": "nobody"}}, "'agent_config.model'"),
    ],
    ids=str,
)
async def test_what_is_not_there_is_not_found_and_nothing_is_stored(
    store: SqliteStore, fields: dict[str, Any], named: str
) -> None:
    world = RunWorld(store)
    with pytest.raises(NotFound) as caught:
        await ask(world, **fields, environment="remote")
    assert named in caught.value.message
    assert await store.interactions(None) == []
    assert await store.environments(None) == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"agent_config": {"type": "antigravity", "max_total_tokens": 5}}, "agent_config"),
        ({"agent": "general", "generation_config": {"temperature": 1}}, "generation_config"),
        ({"model": "general", "generation_config": {"temperature": 1}}, "generation_config"),
        ({"model": "general", "generation_config": {}}, "generation_config"),
    ],
    ids=str,
)
async def test_each_has_a_config_of_its_own(store: SqliteStore, fields: dict[str, Any], named: str) -> None:
    world = RunWorld(store)
    with pytest.raises(InvalidRequest, match=f"'{named}'"):
        await ask(world, **fields)
    assert await store.interactions(None) == []


# where


async def test_a_model_inherits_the_conversation_and_no_environment(store: SqliteStore) -> None:
    world = RunWorld(store, model=(model := Listening()))
    first = await ask(world, agent="general", environment="remote")
    second = await ask(world, "and?", previous_interaction_id=first.id)
    assert first.environment_id is not None
    assert second.environment_id is None
    assert [step.type for step in model.requests[-1].history] == ["user_input", "model_output", "user_input"]
    assert offered(model.requests[-1]) == set()
    third = await ask(world, "and now?", agent="general", previous_interaction_id=second.id)
    assert third.environment_id is None, "its parent worked nowhere"
    named = await ask(world, environment=first.environment_id, previous_interaction_id=first.id)
    assert named.environment_id == first.environment_id
    assert "read_file" in offered(model.requests[-1])


async def test_a_model_has_the_tools_that_are_declared(store: SqliteStore) -> None:
    world = RunWorld(store)
    program = scripted({"calls": [bash("ls")]}, {"text": "It said {{last}}"})
    row = await ask(world, program, tools=[{"type": "code_execution"}], environment="remote")
    assert row.status == "completed"
    assert [asked.what for asked in world.sandbox.asked] == ["ls"]
    undeclared = await ask(world, program, environment="remote")
    assert undeclared.status == "completed"
    assert len(world.sandbox.asked) == 1


async def test_a_model_calls_functions_of_the_client(store: SqliteStore) -> None:
    world = RunWorld(store)
    program = scripted({"calls": [{"tool": "weather", "arguments": {}}]}, {"text": "It is {{last}}."})
    first = await ask(world, program, tools=[FUNCTION])
    assert first.status == "requires_action"
    (call,) = [step for step in await world.steps(first.id) if step.type == "function_call"]
    answer = [{"type": "function_result", "call_id": call.id, "name": "weather", "result": "sunny"}]
    second = await ask(world, answer, previous_interaction_id=first.id)
    assert (await told(world, second))["output_text"] == "It is sunny."


# how


async def test_what_is_asked_of_the_answer_reaches_the_model_and_is_told_again(store: SqliteStore) -> None:
    world = RunWorld(store, model=(model := Listening()))
    config = {"temperature": 0.5, "seed": "7", "thinking_level": "LOW", "stop_sequences": ["x"], "max_output_tokens": 9}
    row = await ask(world, generation_config=config)
    generation = model.requests[0].generation
    assert generation is not None
    assert (generation.temperature, generation.seed, generation.thinking_level) == (0.5, 7, "low")
    assert (await told(world, row))["generation_config"] == {**config, "seed": 7, "thinking_level": "low"}


async def test_an_answer_that_is_too_long_is_cut_and_the_run_incomplete(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await ask(world, scripted({"text": "x" * 100}), generation_config={"max_output_tokens": 5})
    assert row.status == "incomplete"
    found = await told(world, row)
    assert found["output_text"] == "x" * 20
    assert [error["code"] for error in found["errors"]] == ["max_output_tokens"]
    assert_ended_once(await world.log(row.id), "incomplete")
    short = await ask(world, scripted({"text": "x" * 20}), generation_config={"max_output_tokens": 5})
    assert (short.status, (await told(world, short)).get("errors")) == ("completed", None)


async def test_what_was_cut_can_be_gone_on_with(store: SqliteStore) -> None:
    world = RunWorld(store)
    cut = await ask(world, scripted({"text": "x" * 100}), generation_config={"max_output_tokens": 5})
    row = await ask(world, scripted({"text": "the rest"}), previous_interaction_id=cut.id)
    assert (await told(world, row))["output_text"] == "the rest"


async def test_an_answer_ends_before_a_stop_sequence(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await ask(world, scripted({"text": "one END two"}), generation_config={"stop_sequences": ["two", "END"]})
    assert (row.status, (await told(world, row))["output_text"]) == ("completed", "one ")


@pytest.mark.parametrize("environment", [None, "remote"])
async def test_a_model_that_may_call_nothing_has_nothing_to_call(store: SqliteStore, environment: str | None) -> None:
    world = RunWorld(store, model=(model := Listening()))
    tools = [{"type": "code_execution"}, FUNCTION, {"type": "google_search"}]
    await ask(world, tools=tools, generation_config={"tool_choice": "none"}, environment=environment)
    assert offered(model.requests[0]) == set()
    await ask(world, tools=tools, generation_config={"tool_choice": "auto"}, environment=environment)
    assert {"weather", "google_search"} <= offered(model.requests[1])


async def test_a_call_that_it_makes_all_the_same_is_not_carried_out(store: SqliteStore) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.turn:
            return [TextDelta("sorry"), TurnEnd()]
        calls = [("code_execution", '{"language": "bash", "code": "ls"}'), ("write_file", "{}"), ("weather", "{}")]
        made: list[ModelEvent | Exception] = []
        for name, arguments in calls:
            made += [CallStart(name), CallDelta(arguments)]
        return [*made, TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    tools = [{"type": "code_execution"}, FUNCTION]
    row = await ask(world, tools=tools, generation_config={"tool_choice": "none"}, environment="remote")
    assert row.status == "completed"
    assert world.sandbox.asked == []


THOUGHTS = (ThoughtDelta("Let me "), ThoughtDelta("see."), ThoughtSignature("c2ln"), TextDelta("fine"))


@pytest.mark.parametrize("summaries", ["auto", None])
async def test_thoughts_are_shown(store: SqliteStore, summaries: str | None) -> None:
    world = RunWorld(store, model=Listening(*THOUGHTS))
    config = {} if summaries is None else {"thinking_summaries": summaries}
    row = await ask(world, generation_config=config)
    thought, _ = (await told(world, row))["steps"]
    assert thought == {
        "type": "thought",
        "signature": "c2ln",
        "summary": [{"type": "text", "text": "Let me see."}],
    }


async def test_thoughts_that_are_not_wanted_are_not_told_and_their_signatures_are(store: SqliteStore) -> None:
    world = RunWorld(store, model=(model := Listening(*THOUGHTS)))
    row = await ask(world, generation_config={"thinking_summaries": "none"})
    found = await told(world, row)
    assert [step["type"] for step in found["steps"]] == ["thought", "model_output"]
    assert found["steps"][0] == {"type": "thought", "signature": "c2ln"}
    assert b"see." not in b"".join(event.body for event in await world.log(row.id))
    await ask(world, "and?", previous_interaction_id=row.id)
    assert "c2ln" in str(model.requests[-1].history), "the provider wants it back"


async def test_what_is_asked_of_one_answer_is_not_asked_of_the_next(store: SqliteStore) -> None:
    world = RunWorld(store, model=(model := Listening()))
    first = await ask(world, generation_config={"temperature": 1}, system_instruction="Be brief.", tools=[FUNCTION])
    await ask(world, "and?", previous_interaction_id=first.id)
    request = model.requests[-1]
    assert (request.generation, request.system, request.tools) == (None, "", ())


async def test_a_run_of_a_model_is_taken_up_as_one(store: SqliteStore) -> None:
    first = RunWorld(store, model=Listening(), slots=0)
    project = await store.default_project()
    body = parse_interaction_request(
        {"model": "played", "input": "hello", "generation_config": {"max_output_tokens": 9}}
    )
    row = await first.intake.accept(project.id, CallerKey("tests"), body)
    await first.supervisor.aclose()
    second = RunWorld(store, model=(model := Listening()), generation=2)
    await second.supervisor.open()
    await second.supervisor.wait(row.id)
    assert (await told(second, await second.stored(row.id)))["model"] == "played"
    assert model.requests[0].generation is not None
    await second.supervisor.aclose()


@pytest.mark.parametrize(("summaries", "broken"), [("none", 0), ("auto", 1)])
async def test_a_turn_that_broke_off_shows_what_it_had_shown(store: SqliteStore, summaries: str, broken: int) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.attempt == 0:
            return [ThoughtDelta("Hm."), ModelError("cut", code="model_stream_broken", retryable=True)]
        return [TextDelta("fine"), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await ask(world, generation_config={"thinking_summaries": summaries})
    assert row.status == "completed"
    assert [event.kind for event in await store.read(row.id)].count("turn.broken") == broken
    assert [step.type for step in await world.steps(row.id)] == ["thought"] * broken + ["model_output"]
