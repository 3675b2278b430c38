"""Budgets, and models that make the same failing call again and again: told first, ended then, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.models.port import CallDelta, CallStart, ModelEvent, ModelRequest, TextDelta, TurnEnd
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.policy.limits import Limits
from orchestrator.runs.record import read_interaction
from orchestrator.runs.repeats import TOLD_FROM, failures_alike, told
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import InteractionRow, NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    ModelOutput,
    Step,
    UserInput,
)
from tests.fakes.runs import PlayedModel, RunWorld, assert_ended_once, assert_matched, bash, bodies, kinds, scripted
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio

MARK = "same call failed"


async def fails_where_told(asked: Asked) -> CallOutcome:
    return outcome(f"{asked.what}\n", exit_code=1 if asked.what.startswith("bad") else 0)


async def errors_of(world: RunWorld, row: InteractionRow) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (await read_interaction(world.store, row)).get("errors", [])
    return found


def results_of(steps: Sequence[Step]) -> list[str]:
    return [str(step.result) for step in steps if isinstance(step, CodeExecutionResult | FunctionResult)]


# counting


def code(number: int, text: str = "x", *, failed: bool = True) -> list[Step]:
    call_id = f"c{number}"
    return [
        CodeExecutionCall(id=call_id, arguments=CodeArguments(language="bash", code=text)),
        CodeExecutionResult(call_id=call_id, result="", is_error=failed),
    ]


def test_what_counts_is_the_call_and_not_what_came_of_it() -> None:
    steps = [*code(1), *code(2), *code(3)]
    assert failures_alike(steps, "c3") == 3
    assert failures_alike([*code(1), *code(2, "y"), *code(3)], "c3") == 2
    assert failures_alike([*code(1), *code(2, "y"), *code(3)], "c2") == 1


def test_anything_that_worked_begins_the_count_anew() -> None:
    assert failures_alike([*code(1), *code(2, "y", failed=False), *code(3)], "c3") == 1
    assert failures_alike([*code(1), *code(2, failed=False)], "c2") == 0
    assert failures_alike([*code(1, failed=False), *code(2)], "c2") == 1


def test_the_order_of_arguments_does_not_matter_nor_do_words_between() -> None:
    def call(number: int, arguments: dict[str, Any], name: str = "f") -> list[Step]:
        return [
            FunctionCall(id=f"f{number}", name=name, arguments=arguments),
            FunctionResult(call_id=f"f{number}", name=name, result="no", is_error=True),
        ]

    said = ModelOutput(content="Again.")
    steps = [*call(1, {"a": 1, "b": 2}), said, *call(2, {"b": 2, "a": 1})]
    assert failures_alike(steps, "f2") == 2
    assert failures_alike([*call(1, {"a": 1}), *call(2, {"a": 1}, "g")], "f2") == 1


def test_a_call_without_a_result_has_not_failed_yet() -> None:
    open_call = CodeExecutionCall(id="c9", arguments=CodeArguments(language="bash", code="x"))
    assert failures_alike([open_call], "c9") == 0
    assert failures_alike([*code(1), *code(2), open_call], "c9") == 2
    results_of_others = [
        UserInput(content="x"),
        FunctionResult(call_id="elsewhere", name="f", result="no", is_error=True),
        *code(1),
    ]
    assert failures_alike(results_of_others, "c1") == 1


# told and ended


@pytest.mark.parametrize("limit", [4, 6])
async def test_a_model_is_told_first_and_its_run_ended_then(store: SqliteStore, limit: int) -> None:
    world = RunWorld(store, FakeSandbox(fails_where_told), limits=Limits(max_repeats=limit))
    row = await world.run(scripted(*[{"calls": [bash("bad")]} for _ in range(20)]))
    assert row.status == "incomplete"
    assert len(world.sandbox.carried_out) == limit
    steps = await world.steps(row.id)
    assert_matched(steps)
    results = results_of(steps)
    assert [MARK in result for result in results] == [False] * (TOLD_FROM - 1) + [True] * (limit - TOLD_FROM + 1)
    assert results[2].endswith(told(3))
    (error,) = await errors_of(world, row)
    assert error["code"] == "repeated_failure"
    assert str(limit) in error["message"]
    log = await world.log(row.id)
    assert_ended_once(log, "incomplete")
    assert bodies(log, "interaction.completed")[0]["interaction"]["errors"] == [error]
    assert kinds(log).count("error") == 0, "it is no failure of the platform"


async def test_a_model_that_tries_something_else_goes_on(store: SqliteStore) -> None:
    world = RunWorld(store, FakeSandbox(fails_where_told), limits=Limits(max_repeats=3))
    turns = [{"calls": [bash(f"bad {number}")]} for number in range(8)]
    row = await world.run(scripted(*turns, {"text": "done"}))
    assert row.status == "completed"
    assert MARK not in str(await world.steps(row.id))


async def test_what_works_in_between_keeps_a_run_going(store: SqliteStore) -> None:
    world = RunWorld(store, FakeSandbox(fails_where_told), limits=Limits(max_repeats=3))
    row = await world.run(scripted(*[{"calls": [bash("bad"), bash("good")]} for _ in range(6)], {"text": "done"}))
    assert row.status == "completed"
    assert MARK not in str(await world.steps(row.id))


async def test_failing_calls_in_turn_are_each_counted(store: SqliteStore) -> None:
    world = RunWorld(store, FakeSandbox(fails_where_told), limits=Limits(max_repeats=4))
    row = await world.run(scripted(*[{"calls": [bash("bad 1"), bash("bad 2")]} for _ in range(20)]))
    assert (row.status, [error["code"] for error in await errors_of(world, row)]) == (
        "incomplete",
        ["repeated_failure"],
    )
    assert len(world.sandbox.carried_out) == 8


async def test_calls_of_tools_that_are_not_there_count_too(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted(*[{"calls": [{"tool": "rocket", "arguments": {"to": "moon"}}]} for _ in range(20)]))
    assert row.status == "incomplete"
    assert [error["code"] for error in await errors_of(world, row)] == ["repeated_failure"]
    assert len(results_of(await world.steps(row.id))) == Limits().max_repeats


async def test_a_model_that_gives_up_in_time_has_answered(store: SqliteStore) -> None:
    world = RunWorld(store, FakeSandbox(fails_where_told), limits=Limits(max_repeats=4))
    row = await world.run(scripted(*[{"calls": [bash("bad")]} for _ in range(3)], {"text": "I cannot."}))
    assert (row.status, await errors_of(world, row)) == ("completed", [])


async def test_what_is_told_reaches_the_model(store: SqliteStore) -> None:
    seen: list[ModelRequest] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(request)
        if MARK in str(request.history):
            return [TextDelta("I see."), TurnEnd()]
        return [CallStart("code_execution"), CallDelta('{"language": "bash", "code": "bad"}'), TurnEnd()]

    world = RunWorld(store, FakeSandbox(fails_where_told), model=PlayedModel(play))
    assert (await world.run("go")).status == "completed"
    assert len(seen) == TOLD_FROM + 1


async def test_from_every_prefix_the_count_goes_on_where_it_was(store: SqliteStore) -> None:
    program = scripted(*[{"calls": [bash("bad")]} for _ in range(20)])
    limits = Limits(max_repeats=4)
    world = RunWorld(store, FakeSandbox(fails_where_told), limits=limits)
    whole = await world.log((await world.run(program)).id)
    for length in range(2, len(whole)):
        row = await world.row(program)
        stored = await store.read(row.id)
        prefix = [NewEvent(event.kind, event.body) for event in whole[len(stored) : length]]
        if prefix:
            await store.append(row.id, prefix, generation=1, expected_seq=len(stored) + 1)
        later = RunWorld(store, FakeSandbox(fails_where_told), limits=limits, generation=2)
        row = await later.finish(row)
        context = f"{length} events, the last is {whole[length - 1].kind}"
        assert row.status == "incomplete", context
        assert [error["code"] for error in await errors_of(later, row)] == ["repeated_failure"], context
        assert_ended_once(await later.log(row.id), "incomplete")
        steps = await later.steps(row.id)
        assert_matched(steps)
        assert sum(isinstance(step, CodeExecutionResult) for step in steps) in (4, 5), context


# budgets: each says which it was


@pytest.mark.parametrize(
    ("limits", "request_fields", "code"),
    [
        (Limits(max_turns=2), {}, "max_turns"),
        (Limits(), {"agent_config": {"type": "antigravity", "max_total_tokens": 10}}, "max_total_tokens"),
        (Limits(), {"agent_config": {"type": "antigravity", "max_total_tokens": "10"}}, "max_total_tokens"),
        (Limits(run_timeout_s=0.0), {}, "run_timeout"),
    ],
)
async def test_a_run_that_ends_early_says_why(
    store: SqliteStore, limits: Limits, request_fields: dict[str, Any], code: str
) -> None:
    world = RunWorld(store, limits=limits)
    usage = {"input_tokens": 4, "output_tokens": 3, "thought_tokens": 3, "cached_tokens": 0}
    turns = [{"calls": [bash(f"echo {number}")], "usage": usage} for number in range(9)]
    row = await world.run(scripted(*turns), request=request_fields)
    assert row.status == "incomplete"
    (error,) = await errors_of(world, row)
    assert error["code"] == code
    assert error["message"]
    log = await world.log(row.id)
    assert_ended_once(log, "incomplete")
    assert bodies(log, "interaction.completed")[0]["interaction"]["errors"] == [error]
    assert_matched(await world.steps(row.id))


async def test_work_that_was_done_is_kept_and_can_be_gone_on_with(store: SqliteStore) -> None:
    world = RunWorld(store, limits=Limits(max_turns=1))
    first = await world.run(scripted({"text": "I begin.", "calls": [bash("ls")]}, {"text": "never"}))
    assert first.status == "incomplete"
    assert [step.type for step in await world.steps(first.id)] == [
        "model_output",
        "code_execution_call",
        "code_execution_result",
    ]
    second = await world.run(scripted({"text": "done"}), previous_id=first.id, environment_id=first.environment_id)
    assert second.status == "completed"


async def test_an_answer_within_the_budget_is_complete_even_if_it_takes_the_last_of_it(store: SqliteStore) -> None:
    def play(_request: ModelRequest) -> list[ModelEvent | Exception]:
        return [TextDelta("fine"), TurnEnd(ModelUsage(input_tokens=100))]

    world = RunWorld(store, model=PlayedModel(play), limits=Limits(max_turns=1))
    budget = {"agent_config": {"type": "antigravity", "max_total_tokens": 5}}
    row = await world.run("go", request=budget)
    assert (row.status, await errors_of(world, row)) == ("completed", [])


async def test_a_run_that_ended_well_has_no_errors_and_one_that_failed_has_one(store: SqliteStore) -> None:
    world = RunWorld(store)
    assert await errors_of(world, await world.run(scripted({"text": "fine"}))) == []
    failed = await world.run(scripted({"error": {"code": "model_refused", "message": "no"}}))
    assert failed.status == "failed"
    assert await errors_of(world, failed) == [{"code": "model_refused", "message": "no"}]
