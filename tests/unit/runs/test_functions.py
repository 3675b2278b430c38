"""Functions of the client: a run ends waiting, and another one goes on with what the client answers."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, StoreError
from orchestrator.models.port import CallDelta, CallStart, ModelEvent, ModelRequest, TextDelta, TurnEnd
from orchestrator.runs.context import read_history, read_request
from orchestrator.runs.replies import CallerKey
from orchestrator.store.port import InteractionRow, NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.interactions import parse_interaction_request
from orchestrator.wire.steps import FunctionCall, FunctionResult, Step
from tests.fakes.runs import PlayedModel, RunWorld, assert_ended_once, assert_matched, bash, bodies, kinds, scripted
from tests.fakes.sandboxes import FakeSandbox

pytestmark = pytest.mark.anyio

TOOLS = [
    {"type": "code_execution"},
    {"type": "function", "name": "weather", "description": "Tells it.", "parameters": {"type": "object"}},
]
ASK = {"tool": "weather", "arguments": {"city": "Bonn"}}


async def waiting(world: RunWorld, *turns: dict[str, Any]) -> InteractionRow:
    row = await world.run(scripted(*turns), request={"tools": TOOLS})
    assert row.status == "requires_action"
    return row


def open_calls(steps: list[Step]) -> list[FunctionCall]:
    answered = {step.call_id for step in steps if isinstance(step, FunctionResult)}
    return [step for step in steps if isinstance(step, FunctionCall) and step.id not in answered]


def answers(call_id: str, result: str = "sunny") -> list[dict[str, Any]]:
    return [{"type": "function_result", "call_id": call_id, "name": "weather", "result": result}]


async def accept(world: RunWorld, previous: InteractionRow, given: Any) -> InteractionRow:
    body = {"agent": "general", "input": given, "previous_interaction_id": previous.id}
    row = await world.intake.accept(previous.project_id, CallerKey("tests"), parse_interaction_request(body))
    await world.supervisor.wait(row.id)
    return await world.stored(row.id)


async def test_a_call_of_a_function_is_left_to_the_client(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await waiting(world, {"calls": [ASK]}, {"text": "never"})
    log = await world.log(row.id)
    assert_ended_once(log, "requires_action")
    steps = await world.steps(row.id)
    assert [step.type for step in steps] == ["function_call"]
    assert [(call.name, call.arguments) for call in open_calls(steps)] == [("weather", {"city": "Bonn"})]
    assert world.sandbox.asked == []
    assert world.supervisor.running == []
    assert world.environments.held == world.environments.let


async def test_the_servers_calls_of_the_same_turn_are_carried_out(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await waiting(world, {"calls": [ASK, bash("ls")]})
    assert [asked.what for asked in world.sandbox.asked] == ["ls"]
    assert [call.name for call in open_calls(await world.steps(row.id))] == ["weather"]


async def test_an_answer_goes_on_with_the_next_turn_of_the_same_input(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await waiting(world, {"calls": [bash("ls")]}, {"calls": [ASK]}, {"text": "It is {{last}}."})
    (call,) = open_calls(await world.steps(first.id))
    second = await accept(world, first, answers(call.id))
    assert second.status == "completed"
    assert second.environment_id == first.environment_id
    assert "It is sunny." in str((await world.steps(second.id))[-1])
    history = await read_history(store, second, read_request(second))
    assert (history.turns, history.last_guest) == (2, "guest-1")
    assert_matched(history.steps)


async def test_a_user_who_says_something_else_is_heard_and_the_call_has_no_result(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await waiting(world, {"calls": [ASK]})
    second = await accept(world, first, scripted({"text": "turn 0"}))
    assert second.status == "completed"
    history = await read_history(store, second, read_request(second))
    assert history.turns == 0
    assert_matched(history.steps)


async def test_only_calls_that_wait_can_be_answered_and_once(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await waiting(world, {"calls": [bash("ls"), ASK]})
    (call,) = open_calls(await world.steps(first.id))
    ended = await world.run(scripted({"text": "done"}))
    for given, previous in [
        (answers("unknown"), first),
        (answers(call.id) * 2, first),
        (answers(call.id), ended),
        (answers(next(iter(world.sandbox.carried_out))), first),
    ]:
        with pytest.raises(InvalidRequest, match="call_id"):
            await accept(world, previous, given)
    body = parse_interaction_request({"agent": "general", "input": answers(call.id)})
    with pytest.raises(InvalidRequest, match="previous_interaction_id"):
        await world.intake.accept(first.project_id, CallerKey("tests"), body)


async def test_a_waiting_interaction_never_changes_again(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await waiting(world, {"calls": [ASK]})
    before = await world.log(row.id)
    await world.supervisor.cancel(row.id)
    assert (await world.stored(row.id)).status == "requires_action"
    second = RunWorld(store, generation=2)
    await second.supervisor.open()
    assert second.supervisor.running == []
    assert await world.log(row.id) == before
    await second.supervisor.aclose()


async def test_arguments_that_make_no_sense_are_told_to_the_model_and_not_to_the_client(store: SqliteStore) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.turn:
            return [TextDelta("sorry"), TurnEnd()]
        return [CallStart("weather"), CallDelta('{"city": '), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request={"tools": TOOLS})
    assert row.status == "completed"
    (result,) = [step for step in await world.steps(row.id) if isinstance(step, FunctionResult)]
    assert result.is_error
    assert "cannot be read" in str(result.result)


async def test_models_see_functions_beside_the_servers_tools(store: SqliteStore) -> None:
    seen: list[ModelRequest] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(request)
        return [TextDelta("fine"), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    await world.run("go", request={"tools": TOOLS}, has_environment=False)
    assert [(tool.name, tool.description, tool.parameters) for tool in seen[0].tools] == [
        ("weather", "Tells it.", {"type": "object"})
    ]


async def test_from_every_prefix_a_run_comes_to_wait(store: SqliteStore) -> None:
    world = RunWorld(store)
    program = scripted({"calls": [ASK, bash("ls")]})
    whole = await world.log((await world.run(program, request={"tools": TOOLS})).id)
    for length in range(2, len(whole)):
        row = await world.row(program, request={"tools": TOOLS})
        stored = await store.read(row.id)
        prefix = [NewEvent(event.kind, event.body) for event in whole[len(stored) : length]]
        if prefix:
            await store.append(row.id, prefix, generation=1, expected_seq=len(stored) + 1)
        sandbox = FakeSandbox()
        later = RunWorld(store, sandbox, generation=2)
        row = await later.finish(row)
        assert row.status == "requires_action", kinds(whole[:length])[-1]
        steps = await later.steps(row.id)
        assert [call.name for call in open_calls(steps)][-1] == "weather"
        assert len(sandbox.carried_out) == len(set(sandbox.carried_out)) <= 1


async def test_what_is_refused_by_the_store_leaves_no_environment(store: SqliteStore) -> None:
    world = RunWorld(store)
    project = await store.default_project()

    async def refuse(*_arguments: Any) -> None:
        raise StoreError("the disk is full", code="store_full", retryable=True)

    create, store.create_interaction = store.create_interaction, refuse  # type: ignore[method-assign, assignment]
    body = parse_interaction_request({"agent": "general", "input": "x", "environment": "remote"})
    with pytest.raises(StoreError):
        await world.intake.accept(project.id, CallerKey("tests"), body)
    assert await store.environments(None) == []
    store.create_interaction = create  # type: ignore[method-assign]
    row = await world.intake.accept(project.id, CallerKey("tests"), body)
    assert [environment.id for environment in await store.environments(None)] == [row.environment_id]
    await world.supervisor.wait(row.id)


# what was lost between calls


@pytest.mark.parametrize("is_same_environment", [True, False])
async def test_a_sandbox_that_began_anew_between_interactions_is_told(
    store: SqliteStore, is_same_environment: bool
) -> None:
    world = RunWorld(store)
    first = await world.run(scripted({"calls": [bash("ls")]}))
    world.environments.given = world.sandbox = FakeSandbox(guest_id="guest-2")
    program = scripted({"calls": [bash("one"), bash("two")]})
    place = {"environment_id": first.environment_id} if is_same_environment else {}
    second = await world.run(program, previous_id=first.id, **place)
    results = [step for step in await world.steps(second.id) if step.type == "code_execution_result"]
    assert ["started again" in str(result) for result in results] == [is_same_environment, False]
    assert len(bodies(await world.log(second.id), "tool.told_of_loss")) == is_same_environment
