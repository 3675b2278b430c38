"""Whole runs: what is written in which order, and every way in which a run may end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.errors import EngineUnavailable, ModelError, SandboxGone
from orchestrator.models.port import CallDelta, CallStart, ModelEvent, ModelRequest, TextDelta, TurnEnd
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.policy.limits import Limits
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.steps import CodeExecutionResult, FunctionResult, ModelOutput
from tests.fakes.runs import (
    PlayedModel,
    RunWorld,
    assert_ended_once,
    assert_matched,
    bash,
    bodies,
    kinds,
    scripted,
)
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio


async def test_a_whole_run(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(
        scripted(
            {"thought": "First look.", "calls": [bash("ls"), bash("pwd")], "usage": {"input_tokens": 5}},
            {"text": "It said: {{last}}", "usage": {"output_tokens": 7}},
        )
    )
    assert row.status == "completed"
    steps = await world.steps(row.id)
    assert [step.type for step in steps] == [
        "thought",
        "code_execution_call",
        "code_execution_call",
        "code_execution_result",
        "code_execution_result",
        "model_output",
    ]
    assert isinstance(steps[-1], ModelOutput)
    assert steps[-1].content[0].text == "It said: bash: pwd\n"  # type: ignore[union-attr]
    assert [asked.what for asked in world.sandbox.asked] == ["ls", "pwd"]
    assert world.sandbox.acknowledged == world.sandbox.carried_out
    assert world.environments.prepared == world.environments.held == world.environments.let == [row.environment_id]
    events = await world.log(row.id)
    assert_ended_once(events, "completed")
    assert_matched(steps)
    (completed,) = bodies(events, "interaction.completed")
    assert completed["interaction"]["usage"]["total_tokens"] == 12


async def test_every_call_is_durable_before_it_is_made_and_its_result_before_the_next_turn(store: SqliteStore) -> None:
    seen: list[tuple[str, list[str]]] = []

    async def answer(asked: Asked) -> CallOutcome:
        seen.append((asked.what, kinds(await store.read(row.id))))
        return outcome("fine")

    requests: list[tuple[int, list[str]]] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        requests.append((request.turn, [step.type for step in request.history]))
        if request.turn == 2:
            return [TextDelta("done"), TurnEnd()]
        return [CallStart("code_execution"), CallDelta('{"code": "x", "language": "bash"}'), TurnEnd()]

    world = RunWorld(store, FakeSandbox(answer), model=PlayedModel(play))
    row = await world.row("go")
    await world.finish(row)
    for number, (_, stored) in enumerate(seen, 1):
        assert stored.count("turn.ended") == number
        assert stored.count("tool.started") == number
        assert stored[-1] == "tool.started"
    assert requests == [
        (0, ["user_input"]),
        (1, ["user_input", "code_execution_call", "code_execution_result"]),
        (2, ["user_input", *["code_execution_call", "code_execution_result"] * 2]),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"language": "ruby", "code": "puts 1"}', "language"),
        ('{"language": "bash"', "cannot be read"),
        ("[]", "not a JSON object"),
        ('{"language": "bash", "code": "x", "sudo": true}', "sudo"),
    ],
)
async def test_a_call_that_makes_no_sense_is_answered_and_not_made(
    store: SqliteStore, arguments: str, told: str
) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.turn:
            return [TextDelta("sorry"), TurnEnd()]
        return [CallStart("code_execution"), CallDelta(arguments), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go")
    assert (row.status, world.sandbox.asked) == ("completed", [])
    (result,) = [step for step in await world.steps(row.id) if isinstance(step, CodeExecutionResult)]
    assert result.is_error
    assert isinstance(result.result, str)
    assert told in result.result


async def test_an_unknown_tool_is_a_function_that_failed(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted({"calls": [{"tool": "rocket", "arguments": {"to": "moon"}}]}))
    assert row.status == "completed"
    (result,) = [step for step in await world.steps(row.id) if isinstance(step, FunctionResult)]
    assert (result.name, result.is_error) == ("rocket", True)


async def test_without_an_environment_there_are_no_tools(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted({"calls": [bash("ls")]}, {"text": "{{last}}"}), has_environment=False)
    assert row.status == "completed"
    assert world.sandbox.asked == []
    assert world.environments.prepared == world.environments.held == []
    assert "there are: none" in str((await world.steps(row.id))[-1])


# limits


async def test_the_number_of_turns_is_limited(store: SqliteStore) -> None:
    world = RunWorld(store, limits=Limits(max_turns=3))
    row = await world.run(scripted(*[{"calls": [bash(f"echo {number}")]} for number in range(10)]))
    assert row.status == "incomplete"
    assert [asked.what for asked in world.sandbox.asked] == ["echo 0", "echo 1", "echo 2"]
    assert_ended_once(await world.log(row.id), "incomplete")


@pytest.mark.parametrize(("budget", "turns"), [(10, 1), (11, 2), (1000, 4)])
async def test_the_token_budget_is_checked_between_turns(store: SqliteStore, budget: int, turns: int) -> None:
    usage = {"input_tokens": 8, "output_tokens": 2, "cached_tokens": 0}
    world = RunWorld(store)
    row = await world.run(
        scripted(*[{"calls": [bash("x")], "usage": usage}] * 3, {"text": "done", "usage": usage}),
        request={"agent_config": {"type": "antigravity", "max_total_tokens": budget}},
    )
    assert row.status == ("completed" if turns == 4 else "incomplete")
    assert kinds(await world.log(row.id)).count("turn.ended") == turns


async def test_cached_tokens_are_not_spent(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(
        scripted({"calls": [bash("x")], "usage": {"input_tokens": 50, "cached_tokens": 45}}, {"text": "done"}),
        request={"agent_config": {"type": "antigravity", "max_total_tokens": 10}},
    )
    assert row.status == "completed"


async def test_the_run_has_a_time_limit(store: SqliteStore) -> None:
    async def hangs(_asked: Asked) -> CallOutcome:
        await asyncio.sleep(60)
        raise AssertionError

    sandbox = FakeSandbox(hangs)
    world = RunWorld(store, sandbox, limits=Limits(run_timeout_s=0.2))
    row = await world.run(scripted({"calls": [bash("sleep 60")]}))
    assert row.status == "incomplete"
    assert len(sandbox.cancelled) == 1
    steps = await world.steps(row.id)
    assert_matched(steps)
    assert "may take 0.2 s" in str(steps[-1])
    assert_ended_once(await world.log(row.id), "incomplete")


# failures


@pytest.mark.parametrize("error", [EngineUnavailable("the engine is away"), SandboxGone("lost")])
async def test_a_platform_that_fails_fails_the_run(store: SqliteStore, error: Exception) -> None:
    world = RunWorld(store, error)
    row = await world.run(scripted({"text": "Let me look.", "calls": [bash("ls"), bash("pwd")]}))
    assert row.status == "failed"
    events = await world.log(row.id)
    (told,) = bodies(events, "error")
    assert told["error"] == {"code": error.code, "message": error.message}  # type: ignore[attr-defined]
    steps = await world.steps(row.id)
    assert_matched(steps)
    assert sum(error.message in str(step) for step in steps) == 2  # type: ignore[attr-defined]
    assert_ended_once(events, "failed")


async def test_a_mistake_of_ours_fails_one_run_and_tells_nothing_of_it(store: SqliteStore) -> None:
    async def breaks(_asked: Asked) -> CallOutcome:
        raise ZeroDivisionError("secret detail")

    world = RunWorld(store, FakeSandbox(breaks))
    row = await world.run(scripted({"calls": [bash("ls")]}))
    assert row.status == "failed"
    events = await world.log(row.id)
    assert bodies(events, "error")[0]["error"]["code"] == "internal"
    assert b"secret detail" not in b"".join(event.body for event in events)
    assert_matched(await world.steps(row.id))
    assert (await world.run(scripted({"text": "fine"}))).status == "completed"


@pytest.mark.parametrize("code", ["model_auth", "model_stream_broken"])
async def test_a_model_that_fails_for_good(store: SqliteStore, code: str) -> None:
    world = RunWorld(store)
    row = await world.run(
        scripted({"calls": [bash("ls")]}, {"text": "half", "error": {"code": code, "message": "no", "times": 9}})
    )
    assert row.status == "failed"
    events = await world.log(row.id)
    assert bodies(events, "error")[0]["error"] == {"code": code, "message": "no"}
    assert_matched(await world.steps(row.id))
    assert_ended_once(events, "failed")


async def test_calls_of_a_turn_that_broke_off_are_not_made(store: SqliteStore) -> None:
    def play(_request: ModelRequest) -> list[ModelEvent | Exception]:
        whole: list[ModelEvent] = [CallStart("code_execution"), CallDelta('{"code": "x"}')]
        return [*whole, CallStart("code_execution"), CallDelta('{"co'), ModelError("cut", code="model_stream_broken")]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go")
    assert (row.status, world.sandbox.asked) == ("failed", [])
    steps = await world.steps(row.id)
    assert len(steps) == 4
    assert_matched(steps)


async def test_usage_adds_up(store: SqliteStore) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        usage = ModelUsage(input_tokens=10, output_tokens=1, thought_tokens=2, cached_tokens=4, tool_use_tokens=3)
        if request.turn < 2:
            return [CallStart("code_execution"), CallDelta('{"code": "x"}'), TurnEnd(usage)]
        return [TextDelta("done"), TurnEnd(usage)]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go")
    usage: dict[str, Any] = bodies(await world.log(row.id), "interaction.completed")[0]["interaction"]["usage"]
    assert {name: usage[name] for name in usage if name.startswith("total")} == {
        "total_input_tokens": 30,
        "total_output_tokens": 3,
        "total_thought_tokens": 6,
        "total_cached_tokens": 12,
        "total_tool_use_tokens": 9,
        "total_tokens": 48,
    }
