"""Functions of the client: a run ends waiting, and another one goes on with what the client answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, StoreError
from orchestrator.models.port import CallDelta, CallStart, ModelEvent, ModelRequest, TextDelta, TurnEnd
from orchestrator.runs.context import read_history, read_request
from orchestrator.runs.replies import CallerKey
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import InteractionRow, NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.interactions import parse_interaction_request
from orchestrator.wire.steps import FunctionCall, FunctionResult, Step
from tests.fakes.runs import PlayedModel, RunWorld, assert_ended_once, assert_matched, bash, bodies, kinds, scripted
from tests.fakes.sandboxes import Asked, FakeSandbox

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


# what an answer must be


WIND = {"type": "function", "name": "wind"}
BOTH = [*TOOLS, WIND]


async def two_waiting(world: RunWorld) -> tuple[InteractionRow, FunctionCall, FunctionCall]:
    calls = [ASK, {"tool": "wind", "arguments": {}}]
    row = await world.run(scripted({"calls": calls}, {"text": "It is {{last}}."}), request={"tools": BOTH})
    assert row.status == "requires_action"
    weather, wind = open_calls(await world.steps(row.id))
    return row, weather, wind


def answer(call: FunctionCall, result: Any = "fine", **changes: Any) -> dict[str, Any]:
    fields = {"type": "function_result", "call_id": call.id, "name": call.name, "result": result, **changes}
    return {name: value for name, value in fields.items() if value is not None}


async def refused(world: RunWorld, previous: InteractionRow | None, given: Any) -> str:
    """What is said to an input that must be refused, before anything is stored."""
    before = len(await world.store.interactions(None))
    body = {"agent": "general", "input": given, "environment": "remote"}
    if previous is not None:
        body["previous_interaction_id"] = previous.id
    project = await world.store.default_project()
    with pytest.raises(InvalidRequest) as caught:
        await world.intake.accept(project.id, CallerKey("tests"), parse_interaction_request(body))
    assert len(await world.store.interactions(None)) == before
    return caught.value.message


async def test_a_result_has_the_name_of_its_function(store: SqliteStore) -> None:
    world = RunWorld(store)
    row, weather, wind = await two_waiting(world)
    message = await refused(world, row, [answer(weather, name=None), answer(wind)])
    assert "'name'" in message
    assert "input[0]" in message
    assert "'weather'" in message, "the message says which it is"
    for name in ("wind", "Weather", "", "read_file"):
        message = await refused(world, row, [answer(wind), answer(weather, name=name)])
        assert "input[1].name" in message
    assert (await accept(world, row, [answer(weather), answer(wind)])).status == "completed"


async def test_all_that_wait_are_answered_together_in_any_order(store: SqliteStore) -> None:
    world = RunWorld(store)
    row, weather, wind = await two_waiting(world)
    assert wind.id in await refused(world, row, [answer(weather)])
    assert weather.id in await refused(world, row, [answer(wind)])
    for given in ([answer(weather), answer(wind)], [answer(wind), answer(weather)]):
        child = await accept(world, row, given)
        assert child.status == "completed"
        assert_matched((await read_history(store, child, read_request(child))).steps)


async def test_a_result_may_be_followed_by_words(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await waiting(world, {"calls": [ASK]})
    (call,) = open_calls(await world.steps(row.id))
    words = {"type": "user_input", "content": scripted({"text": "heard"})}
    child = await accept(world, row, [answer(call), words])
    assert child.status == "completed"
    assert "heard" in str((await world.steps(child.id))[-1])


@pytest.mark.parametrize(
    "result",
    [
        "",
        "text",
        {},
        {"paid": True, "nothing": None},
        {"content": [{"type": "text", "text": "x"}]},
        [{"type": "text", "text": "x"}],
    ],
    ids=str,
)
async def test_a_result_may_be_text_an_object_or_contents(store: SqliteStore, result: Any) -> None:
    world = RunWorld(store)
    row = await waiting(world, {"calls": [ASK]}, {"text": "done"})
    (call,) = open_calls(await world.steps(row.id))
    assert (await accept(world, row, [answer(call, result)])).status == "completed"


async def test_a_result_may_be_an_error_that_the_model_reads(store: SqliteStore) -> None:
    seen: list[ModelRequest] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(request)
        if request.turn:
            return [TextDelta("pity"), TurnEnd()]
        return [CallStart("weather"), CallDelta("{}"), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request={"tools": TOOLS})
    (call,) = open_calls(await world.steps(row.id))
    assert (await accept(world, row, [answer(call, "no such city", is_error=True)])).status == "completed"
    result = seen[-1].history[-1]
    assert isinstance(result, FunctionResult)
    assert (result.result, result.is_error) == ("no such city", True)


async def test_one_call_may_be_answered_in_two_branches_and_not_again_further_on(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await waiting(world, {"calls": [ASK]}, {"text": "It is {{last}}."})
    (call,) = open_calls(await world.steps(row.id))
    sunny, rainy = [await accept(world, row, [answer(call, text)]) for text in ("sunny", "rainy")]
    assert "sunny" in str((await world.steps(sunny.id))[-1])
    assert "rainy" in str((await world.steps(rainy.id))[-1])
    assert call.id in await refused(world, sunny, [answer(call)])


async def test_calls_of_a_run_that_was_cancelled_wait_for_nobody(store: SqliteStore) -> None:
    has_begun = asyncio.Event()

    async def hangs(_asked: Asked) -> CallOutcome:
        has_begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    world = RunWorld(store, FakeSandbox(hangs))
    row = await world.row(scripted({"calls": [ASK, bash("sleep")]}), request={"tools": TOOLS})
    world.supervisor.start(row)
    await has_begun.wait()
    await world.supervisor.cancel(row.id)
    row = await world.stored(row.id)
    assert row.status == "cancelled"
    steps = await world.steps(row.id)
    assert_matched(steps)
    (call,) = [step for step in steps if isinstance(step, FunctionCall)]
    assert call.id in await refused(world, row, [answer(call)])


# conversations that come along


def replayed(*steps: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation that was held elsewhere, up to the results of its calls."""
    program = scripted({"calls": [ASK]}, {"text": "It is {{last}}."})
    return [{"type": "user_input", "content": program}, *steps]


CALL = {"type": "function_call", "id": "k3v9z0aa", "name": "weather", "arguments": {"city": "Bonn"}}
RESULT = {"type": "function_result", "call_id": "k3v9z0aa", "name": "weather", "result": "sunny"}


async def replay(world: RunWorld, given: list[dict[str, Any]], **fields: Any) -> InteractionRow:
    project = await world.store.default_project()
    body = parse_interaction_request({"agent": "general", "input": given, "tools": TOOLS, **fields})
    row = await world.intake.accept(project.id, CallerKey("tests"), body)
    await world.supervisor.wait(row.id)
    return await world.stored(row.id)


@pytest.mark.parametrize("fields", [{}, {"store": False}, {"agent": None, "model": "played"}], ids=str)
async def test_a_conversation_may_come_along_without_an_earlier_interaction(
    store: SqliteStore, fields: dict[str, Any]
) -> None:
    world = RunWorld(store)
    thought = {"type": "thought", "signature": "c2ln"}
    row = await replay(world, replayed(thought, CALL, RESULT), **fields)
    assert row.status == "completed"
    assert "It is sunny." in str((await world.steps(row.id))[-1])


async def test_in_a_conversation_that_comes_along_every_result_has_its_call_before_it(store: SqliteStore) -> None:
    world = RunWorld(store)
    for given, at in (
        (replayed(RESULT, CALL), "input[1].call_id"),
        (replayed(CALL, RESULT, RESULT), "input[3].call_id"),
        (replayed(CALL, {**RESULT, "call_id": "other"}), "input[2].call_id"),
        (replayed(CALL, {**RESULT, "name": "wind"}), "input[2].name"),
        (replayed(CALL, {name: value for name, value in RESULT.items() if name != "name"}), "input[2]"),
        ([RESULT], "input[0].call_id"),
    ):
        assert at in await refused(world, None, given)


async def test_a_call_that_came_along_without_a_result_has_none(store: SqliteStore) -> None:
    world = RunWorld(store)
    words: dict[str, Any] = {"type": "user_input", "content": scripted({"text": "never mind"})}
    row = await replay(world, [*replayed(CALL), words])
    assert row.status == "completed"
    assert "never mind" in str((await world.steps(row.id))[-1])
    assert_matched((await read_history(store, row, read_request(row))).steps)


async def test_several_rounds_may_come_along_and_the_next_turn_is_played(store: SqliteStore) -> None:
    world = RunWorld(store)
    program = scripted({"calls": [ASK]}, {"text": "So.", "calls": [ASK]}, {"text": "It is {{last}}."})
    given: list[dict[str, Any]] = [
        {"type": "user_input", "content": "before"},
        {"type": "model_output", "content": "yes?"},
        {"type": "user_input", "content": program},
        CALL,
        RESULT,
        {"type": "model_output", "content": "So."},
        {**CALL, "id": "k2"},
        {**RESULT, "call_id": "k2", "result": "still sunny"},
    ]
    row = await replay(world, given)
    assert "It is still sunny." in str((await world.steps(row.id))[-1])


async def test_what_came_along_can_be_built_on(store: SqliteStore) -> None:
    world = RunWorld(store)
    program = scripted({"calls": [ASK]}, {"calls": [ASK]}, {"text": "It is {{last}}."})
    row = await replay(world, [{"type": "user_input", "content": program}, CALL, RESULT])
    assert row.status == "requires_action"
    (call,) = open_calls(await world.steps(row.id))
    child = await accept(world, row, [answer(call, "windy")])
    assert "It is windy." in str((await world.steps(child.id))[-1])


# declarations


async def offered(store: SqliteStore, previous: InteractionRow, given: Any, **request: Any) -> set[str]:
    """Names of the functions that the model of the next run is offered."""
    seen: list[ModelRequest] = []

    def play(asked: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(asked)
        return [TextDelta("fine"), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    body = {"agent": "general", "input": given, "previous_interaction_id": previous.id, **request}
    row = await world.intake.accept(previous.project_id, CallerKey("tests"), parse_interaction_request(body))
    await world.supervisor.wait(row.id)
    return {tool.name for tool in seen[0].tools} & {"weather", "wind", "code_execution"}


async def test_results_go_on_with_what_their_calls_were_declared_with(store: SqliteStore) -> None:
    world = RunWorld(store)
    row, weather, wind = await two_waiting(world)
    given = [answer(weather), answer(wind)]
    assert await offered(store, row, given) == {"weather", "wind", "code_execution"}
    assert await offered(store, row, given, tools=[WIND]) == {"wind"}
    assert await offered(store, row, given, tools=[]) == set()
    words = [*given, {"type": "user_input", "content": "and?"}]
    assert await offered(store, row, words) == {"code_execution"}, "a new question has the agent's own tools"


async def test_declarations_hold_over_several_rounds_of_results(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await waiting(world, {"calls": [ASK]}, {"calls": [ASK]}, {"text": "done"})
    (call,) = open_calls(await world.steps(row.id))
    second = await accept(world, row, [answer(call)])
    assert second.status == "requires_action"
    (call,) = open_calls(await world.steps(second.id))
    assert await offered(store, second, [answer(call)]) == {"weather", "code_execution"}
    third = await accept(world, second, [answer(call)])
    assert third.status == "completed"
    assert await offered(store, third, "and now?") == {"code_execution"}
