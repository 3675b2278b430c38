"""`google_search` and `url_context`: both can be declared, and say themselves what is missing."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import ToolError
from orchestrator.models.port import CallDelta, CallStart, ModelEvent, ModelRequest, TextDelta, TurnEnd
from orchestrator.runs.record import read_interaction
from orchestrator.store.records import Event, NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.tools.web import GoogleSearch, SearchArguments, UrlArguments, UrlContext
from orchestrator.wire.steps import GoogleSearchResult, Step, UrlContextResult
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.runs import (
    PlayedModel,
    RunWorld,
    assert_ended_once,
    bash,
    bodies,
    is_in_shown_turn,
    kinds,
    scripted,
    taken_up,
    without_ids,
)

pytestmark = pytest.mark.anyio

TOOLS = [{"type": "code_execution"}, {"type": "google_search"}, {"type": "url_context"}]
SEARCH = {"tool": "google_search", "arguments": {"queries": ["primes", "twins"]}}
PAGES = {"tool": "url_context", "arguments": {"urls": ["https://a.example", "https://b.example"]}}
PAIRS = {"google_search_call": "google_search_result", "url_context_call": "url_context_result"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore, None]:
    store = SqliteStore(tmp_path / "corral.db", SystemClock())
    await store.open()
    yield store
    await assert_store_consistent(store)
    await store.aclose()


def assert_paired(steps: Sequence[Step]) -> None:
    """Every call of any sort has exactly one result, after it, of its own sort."""
    waiting: dict[str, str] = {}
    for step in steps:
        if step.type.endswith("_call"):
            waiting[step.id] = step.type  # type: ignore[union-attr]
        elif step.type.endswith("_result"):
            kind = waiting.pop(step.call_id)  # type: ignore[union-attr]
            assert step.type == kind.replace("_call", "_result")
    assert waiting == {}


# the tools


async def test_each_says_what_is_missing() -> None:
    with pytest.raises(ToolError, match="no search provider") as caught:
        await GoogleSearch().answer(SearchArguments(queries=["x"]))
    assert caught.value.code == "not_configured"
    with pytest.raises(ToolError, match="cannot read web pages") as caught:
        await UrlContext().answer(UrlArguments(urls=["https://x"]))
    assert caught.value.code == "not_configured"


def test_models_see_what_they_may_ask() -> None:
    search, pages = GoogleSearch().spec(), UrlContext().spec()
    assert (search.name, pages.name) == ("google_search", "url_context")
    assert search.parameters["required"] == ["queries"]
    assert pages.parameters["required"] == ["urls"]
    assert search.parameters["properties"]["queries"]["description"]
    assert pages.parameters["properties"]["urls"]["description"]


# in a run


@pytest.mark.parametrize("has_environment", [True, False])
async def test_calls_show_as_steps_of_their_own_with_errors_for_results(
    store: SqliteStore, has_environment: bool
) -> None:
    world = RunWorld(store)
    program = scripted({"calls": [SEARCH, PAGES]}, {"text": "I could not: {{last}}"})
    row = await world.run(program, request={"tools": TOOLS}, has_environment=has_environment)
    assert row.status == "completed"
    assert world.sandbox.asked == []
    steps = (await read_interaction(store, row, timeline=False))["steps"]
    search, pages, found, read, answer = steps
    assert (search["type"], search["arguments"]) == ("google_search_call", {"queries": ["primes", "twins"]})
    assert (pages["type"], pages["arguments"]) == (
        "url_context_call",
        {"urls": ["https://a.example", "https://b.example"]},
    )
    assert (found["type"], found["call_id"], found["is_error"]) == ("google_search_result", search["id"], True)
    assert "no search provider" in found["result"][0]["error"]
    assert (read["type"], read["call_id"], read["is_error"]) == ("url_context_result", pages["id"], True)
    assert [(each["url"], each["status"]) for each in read["result"]] == [
        ("https://a.example", "error"),
        ("https://b.example", "error"),
    ]
    assert "cannot read web pages" in answer["content"][0]["text"]


async def test_the_stream_tells_whole_arguments_and_whole_results(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted({"calls": [SEARCH, PAGES], "chunk": 3}), request={"tools": TOOLS})
    log = await world.log(row.id)
    assert_ended_once(log, "completed")
    starts = [start["step"] for start in bodies(log, "step.start")]
    deltas = [delta["delta"] for delta in bodies(log, "step.delta")]
    for call, result in PAIRS.items():
        (begun,) = [start for start in starts if start["type"] == call]
        assert set(begun) == {"type", "id"}
        (answered,) = [start for start in starts if start["type"] == result]
        assert answered == {"type": result, "call_id": begun["id"]}
        assert len([delta for delta in deltas if delta["type"] == call]) == 1
        (told,) = [delta for delta in deltas if delta["type"] == result]
        assert told["is_error"] is True


async def test_operators_see_what_was_asked(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted({"calls": [SEARCH]}), request={"tools": TOOLS})
    log = await world.log(row.id)
    (asked,) = bodies(log, "tool.asked")
    assert (asked["tool"], asked["arguments"]) == ("google_search", {"queries": ["primes", "twins"]})
    (ended,) = bodies(log, "tool.ended")
    assert (ended["call_id"], ended["verdict"]) == (asked["call_id"], "not_configured")


async def test_they_stand_beside_code_in_the_order_of_the_calls(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted({"calls": [bash("one"), SEARCH, bash("two")]}), request={"tools": TOOLS})
    steps = await world.steps(row.id)
    assert [step.type for step in steps if step.type.endswith("_result")] == [
        "code_execution_result",
        "google_search_result",
        "code_execution_result",
    ]
    assert_paired(steps)
    assert [asked.what for asked in world.sandbox.asked] == ["one", "two"]
    assert world.sandbox.acknowledged == world.sandbox.carried_out


async def test_only_what_was_declared_is_there(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted({"calls": [SEARCH]}), request={"tools": [{"type": "url_context"}]})
    call, result, *_ = await world.steps(row.id)
    assert (call.type, result.type) == ("function_call", "function_result")
    assert "there is no tool 'google_search'" in str(result)


@pytest.mark.parametrize(
    ("tool", "arguments", "shown", "told"),
    [
        ("google_search", "{}", {"queries": []}, "queries"),
        ("google_search", '{"queries": []}', {"queries": []}, "queries"),
        ("google_search", '{"queries": "primes"}', {"queries": []}, "queries"),
        ("google_search", '{"queries": ["a", 5, ""]}', {"queries": ["a", ""]}, "queries"),
        ("google_search", '{"queries": ["a"], "page": 2}', {"queries": ["a"]}, "page"),
        ("google_search", '{"queries": ', {"queries": []}, "cannot be read"),
        ("google_search", "[]", {"queries": []}, "not a JSON object"),
        ("url_context", "{}", {"urls": []}, "urls"),
        ("url_context", '{"urls": [null]}', {"urls": []}, "urls"),
        ("url_context", json.dumps({"urls": ["x"] * 21}), {"urls": ["x"] * 21}, "urls"),
        ("url_context", "nonsense", {"urls": []}, "cannot be read"),
    ],
)
async def test_arguments_that_make_no_sense_are_told_to_the_model(
    store: SqliteStore, tool: str, arguments: str, shown: dict[str, Any], told: str
) -> None:
    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if request.turn:
            return [TextDelta("sorry"), TurnEnd()]
        return [CallStart(tool), CallDelta(arguments), TurnEnd()]

    world = RunWorld(store, model=PlayedModel(play))
    row = await world.run("go", request={"tools": TOOLS})
    assert row.status == "completed"
    call, result, _ = await world.steps(row.id)
    assert call.model_dump()["arguments"] == shown
    assert isinstance(result, GoogleSearchResult | UrlContextResult)
    assert result.is_error
    assert told in str(result.result)
    assert kinds(await world.log(row.id)).count("tool.asked") == 0


async def test_a_model_that_searches_on_and_on_is_stopped(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(scripted(*[{"calls": [SEARCH]} for _ in range(20)]), request={"tools": TOOLS})
    assert row.status == "incomplete"
    found = await read_interaction(store, row)
    assert [error["code"] for error in found["errors"]] == ["repeated_failure"]
    results = [step for step in found["steps"] if step["type"] == "google_search_result"]
    assert "try something else" in results[-1]["result"][0]["error"]


async def test_a_conversation_with_them_goes_on(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await world.run(scripted({"calls": [SEARCH, PAGES]}, {"text": "no"}), request={"tools": TOOLS})
    seen: list[ModelRequest] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        seen.append(request)
        return [TextDelta("fine"), TurnEnd()]

    later = RunWorld(store, model=PlayedModel(play))
    second = await later.run("and?", previous_id=first.id)
    assert second.status == "completed"
    assert_paired(seen[0].history)
    assert {"google_search_result", "url_context_result"} <= {step.type for step in seen[0].history}


# after a crash


def is_quiet(prefix: Sequence[Event]) -> bool:
    """Nothing was being shown: no turn under way that had shown something, no step open."""
    found = kinds(prefix)
    return not is_in_shown_turn(prefix) and found.count("step.start") == found.count("step.stop")


@pytest.mark.parametrize("has_environment", [True, False])
async def test_from_every_prefix_each_call_gets_one_result(store: SqliteStore, has_environment: bool) -> None:
    program = scripted(
        {"text": "I search.", "calls": [SEARCH, PAGES]},
        {"calls": [{"tool": "google_search", "arguments": {"queries": "primes", "page": 2}}]},
        {"text": "I could not: {{last}}"},
    )
    world = RunWorld(store)
    first = await world.run(program, request={"tools": TOOLS}, has_environment=has_environment)
    whole, steps = await world.log(first.id), without_ids(await world.steps(first.id))
    for length in range(2, len(whole)):
        later, interaction_id = await taken_up(
            store, whole, length, program, request={"tools": TOOLS}, has_environment=has_environment
        )
        context = f"{length} events, the last is {whole[length - 1].kind}"
        log = await later.log(interaction_id)
        assert_ended_once(log, "completed")
        found = await later.steps(interaction_id)
        assert_paired(found)
        results = [step for step in found if isinstance(step, GoogleSearchResult | UrlContextResult)]
        assert all(result.is_error for result in results), context
        if is_quiet(whole[:length]):
            assert without_ids(found) == steps, context


async def test_cancelled_in_the_middle_of_a_call_its_step_is_closed_and_answered(store: SqliteStore) -> None:
    program = scripted({"calls": [SEARCH, PAGES]})
    world = RunWorld(store)
    whole = await world.log((await world.run(program, request={"tools": TOOLS})).id)
    for length in range(2, len(whole)):
        row = await world.row(program, request={"tools": TOOLS})
        stored = await store.read(row.id)
        prefix = [NewEvent(event.kind, event.body) for event in whole[len(stored) : length]]
        if prefix:
            await store.append(row.id, prefix, generation=1, expected_seq=len(stored) + 1)
        later = RunWorld(store, generation=2)
        await later.supervisor.cancel(row.id)
        assert_ended_once(await later.log(row.id), "cancelled")
        assert_paired(await later.steps(row.id))
