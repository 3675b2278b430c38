"""What a model gets to read: chains, branches, and conversations with gaps."""

from __future__ import annotations

import pytest

from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.runs.context import find_parent, read_history, read_request, with_all_results
from orchestrator.store.records import InteractionRow
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.content import TextContent
from orchestrator.wire.steps import FunctionCall, FunctionResult, ModelOutput, Step, UserInput
from tests.fakes.runs import RunWorld, bash, scripted

pytestmark = pytest.mark.anyio


async def said(store: SqliteStore, row: InteractionRow) -> list[str]:
    """The conversation in short."""
    found = []
    for step in (await read_history(store, row, read_request(row))).steps:
        if isinstance(step, UserInput | ModelOutput):
            found.append("".join(block.text for block in step.content if isinstance(block, TextContent)).strip("`")[:9])
        else:
            found.append(step.type)
    return [each.split("\n")[0] for each in found]


def says(text: str) -> str:
    return scripted({"text": text})


async def test_the_first_interaction_has_its_input_only(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(says("one"))
    assert await said(store, row) == ["script"]


async def test_a_chain_is_read_from_its_beginning(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await world.run(scripted({"calls": [bash("ls")]}, {"text": "first"}))
    second = await world.run(says("second"), previous_id=first.id)
    third = await world.row(says("third"), previous_id=second.id)
    assert await said(store, third) == [
        "script",
        "code_execution_call",
        "code_execution_result",
        "first",
        "script",
        "second",
        "script",
    ]


async def test_branches_do_not_see_each_other(store: SqliteStore) -> None:
    world = RunWorld(store)
    root = await world.run(says("root"))
    left = await world.run(says("left"), previous_id=root.id)
    right = await world.run(says("right"), previous_id=root.id)
    left_next = await world.row(says("x"), previous_id=left.id)
    right_next = await world.row(says("x"), previous_id=right.id)
    assert await said(store, left_next) == ["script", "root", "script", "left", "script"]
    assert await said(store, right_next) == ["script", "root", "script", "right", "script"]


async def test_what_came_after_a_deleted_interaction_still_stands(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await world.run(says("first"))
    second = await world.run(says("second"), previous_id=first.id)
    third = await world.row(says("third"), previous_id=second.id)
    await store.delete_interaction(first.id)
    assert await said(store, third) == ["script", "second", "script"]
    await store.delete_interaction(second.id)
    assert await said(store, third) == ["script"]


async def test_a_parent_of_another_project_is_not_read(store: SqliteStore) -> None:
    world = RunWorld(store)
    secret = await world.run(says("secret"))
    other = await store.ensure_project("other")
    row = await world.row(says("x"), has_environment=False, previous_id=secret.id, project_id=other.id)
    assert await said(store, row) == ["script"]


async def test_the_models_next_call_is_turn_zero_again(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await world.run(scripted({"calls": [bash("ls")]}, {"text": "done"}))
    second = await world.run(scripted({"text": "turn 0"}, {"text": "never"}), previous_id=first.id)
    assert "turn 0" in str((await world.steps(second.id))[-1])


async def test_parents(store: SqliteStore) -> None:
    world = RunWorld(store)
    ended = await world.run(says("x"))
    running = await world.row(says("x"))
    project = ended.project_id
    assert (await find_parent(store, project, ended.id)).id == ended.id
    with pytest.raises(NotFound):
        await find_parent(store, "prj_other", ended.id)
    with pytest.raises(NotFound):
        await find_parent(store, project, "v1_nothing")
    with pytest.raises(InvalidRequest, match="in progress"):
        await find_parent(store, project, running.id)


def test_calls_without_results_get_one_in_their_place() -> None:
    answered, open_ = FunctionCall(id="a", name="f"), FunctionCall(id="b", name="g")
    result = FunctionResult(call_id="a", name="f", result="fine")
    text = ModelOutput(content=[TextContent(text="x")])
    steps: list[Step] = [answered, open_, result, text]
    assert with_all_results(steps) == [
        answered,
        open_,
        FunctionResult(call_id="b", name="g", result="no result", is_error=True),
        result,
        text,
    ]
    assert with_all_results([]) == []
