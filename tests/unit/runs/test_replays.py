"""Runs that are recorded, played back, and run once more from what is stored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Conflict, InvalidRequest, NotFound
from orchestrator.models.cassettes import parse_cassette
from orchestrator.models.port import ModelEvent, ModelProvider, ModelRequest
from orchestrator.models.recording import Recordings
from orchestrator.models.scripted import ScriptedModel
from orchestrator.runs.context import read_request, source_of, write_request
from orchestrator.runs.record import read_interaction
from orchestrator.runs.replies import CallerKey
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import AgentRow, InteractionRow, NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.agents import AgentCreate
from orchestrator.wire.base import parse
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.interactions import parse_interaction_request
from tests.fakes.rows import environment_row
from tests.fakes.runs import RunWorld, assert_ended_once, bash, kinds, scripted, without_ids
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio

STORY = scripted({"text": "I look.", "calls": [bash("ls")]}, {"text": "It said {{last}}"})
SPEC = json.dumps({"type": "remote", "env": {"TOKEN": {"value": "a-secret-token"}}})


class Unasked(ModelProvider):
    """A model that must not be asked."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        raise AssertionError("the model was asked")
        yield


async def accept(world: RunWorld, text: str = STORY, **fields: Any) -> InteractionRow:
    project = await world.store.default_project()
    body = parse_interaction_request({"agent": "general", "input": text, **fields})
    row = await world.intake.accept(project.id, CallerKey("tests"), body)
    await world.supervisor.wait(row.id)
    return await world.stored(row.id)


async def replayed(world: RunWorld, source: InteractionRow) -> InteractionRow:
    row = await world.intake.replay(source)
    await world.supervisor.wait(row.id)
    return await world.stored(row.id)


# recording


def recorded_world(store: SqliteStore, folder: Path, sandbox: FakeSandbox | None = None) -> RunWorld:
    return RunWorld(store, sandbox, recordings=Recordings(folder))


async def with_secret(world: RunWorld, text: str) -> InteractionRow:
    """A run in an environment that has a secret."""
    project = await world.store.default_project()
    environment = environment_row(project.id, spec=SPEC)
    await world.store.create_environment(environment)
    return await world.run(text, has_environment=False, environment_id=environment.id)


async def test_a_run_is_recorded_in_its_projects_folder(store: SqliteStore, tmp_path: Path) -> None:
    row = await with_secret(recorded_world(store, tmp_path / "c"), STORY)
    file = tmp_path / "c" / row.project_id / f"{row.id}.jsonl"
    cassette = parse_cassette(file.read_bytes())
    assert [str(key) for key in cassette.exchanges] == ["turn 0", "turn 1"]
    assert (cassette.header.interaction, cassette.header.agent, cassette.header.model) == (row.id, "general", "played")


async def test_values_of_variables_are_not_in_it(store: SqliteStore, tmp_path: Path) -> None:
    async def answer(_asked: Asked) -> CallOutcome:
        return outcome("the token is a-secret-token\n")

    row = await with_secret(recorded_world(store, tmp_path, FakeSandbox(answer)), STORY)
    written = (tmp_path / row.project_id / f"{row.id}.jsonl").read_text()
    assert "the token is [redacted:TOKEN]" in written
    assert "a-secret-token" not in written


async def test_what_is_not_to_be_stored_is_not_recorded(store: SqliteStore, tmp_path: Path) -> None:
    row = await recorded_world(store, tmp_path / "c").run(STORY, is_stored=False)
    assert row.status == "completed"
    assert not (tmp_path / "c").exists()


async def test_a_run_that_is_taken_up_goes_on_with_its_file(store: SqliteStore, tmp_path: Path) -> None:
    story = scripted({"calls": [bash("ls")]}, {"sleep_ms": 20_000, "text": "late"}, {"text": "never"})
    world = recorded_world(store, tmp_path)
    row = await with_secret_started(world, story)
    file = tmp_path / row.project_id / f"{row.id}.jsonl"
    async with asyncio.timeout(10):
        async for batch in store.tail(row.id):
            if "turn.started" in kinds(batch) and "tool.ended" in kinds(await store.read(row.id)):
                break
    await world.supervisor.aclose()
    assert [str(key) for key in parse_cassette(file.read_bytes()).exchanges] == ["turn 0"]
    later = RunWorld(store, model=Hurried(), generation=2, recordings=Recordings(tmp_path))
    assert (await later.finish(row)).status == "completed"
    assert [str(key) for key in parse_cassette(file.read_bytes()).exchanges] == ["turn 0", "turn 1"]


async def with_secret_started(world: RunWorld, text: str) -> InteractionRow:
    project = await world.store.default_project()
    environment = environment_row(project.id, spec=SPEC)
    await world.store.create_environment(environment)
    row = await world.row(text, has_environment=False, environment_id=environment.id)
    world.supervisor.start(row)
    return row


class Hurried(ScriptedModel):
    """Plays the same without its pauses."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        program = request.history[0]
        text = program.content[0].text.replace('"sleep_ms": 20000', '"sleep_ms": 0')  # type: ignore[union-attr]
        hurried = program.model_copy(update={"content": [program.content[0].model_copy(update={"text": text})]})  # type: ignore[union-attr]
        async for event in super().stream(replace(request, history=(hurried, *request.history[1:]))):
            yield event


# once more


async def test_the_answers_are_those_of_then_and_the_results_those_of_now(store: SqliteStore) -> None:
    first = await accept(RunWorld(store, FakeSandbox(outcome("then\n"))), environment="remote", labels={"job": "a"})
    world = RunWorld(store, FakeSandbox(outcome("now\n")), model=Unasked())
    again = await replayed(world, first)
    assert again.status == "completed"
    assert (again.agent, again.is_model, again.labels) == ("general", False, {"job": "a"})
    assert again.environment_id not in (None, first.environment_id)
    assert again.is_background
    then, now = without_ids(await world.steps(first.id)), without_ids(await world.steps(again.id))
    assert [step["type"] for step in now] == [step["type"] for step in then]
    assert [step["result"] for step in (then[2], now[2])] == ["then\n", "now\n"]
    assert now[-1]["content"][0]["text"] == "It said then\n", "the model has said it, and says it again"


async def test_who_is_replayed_is_in_the_stored_request_and_nowhere_else(store: SqliteStore) -> None:
    first = await accept(RunWorld(store), environment="remote")
    world = RunWorld(store, model=Unasked())
    again = await replayed(world, first)
    assert (source_of(first), source_of(again)) == (None, first.id)
    told = await read_interaction(store, again)
    assert first.id not in json.dumps(told)
    assert read_request(again) == read_request(first).model_copy(update={"background": True, "stream": False})
    with pytest.raises(InvalidRequest, match="_replay_of"):
        parse_interaction_request(json.loads(write_request(read_request(first), "v1_x")))


async def define(world: RunWorld, **fields: Any) -> AgentRow:
    project = await world.store.default_project()
    return await world.agents.create(project.id, parse(AgentCreate, {"id": "clerk", **fields}))


async def test_a_replay_runs_the_agent_in_the_version_of_then(store: SqliteStore) -> None:
    world = RunWorld(store)
    made = await define(world)
    first = await accept(world, agent="clerk", environment="remote")
    await world.agents.change(made.project_id, "clerk", {"tools": []})
    later = RunWorld(store, model=Unasked())
    again = await replayed(later, await replayed(later, first))
    assert (again.agent, again.agent_uid, again.agent_version) == ("clerk", made.uid, 1)
    assert without_ids(await later.steps(again.id)) == without_ids(await world.steps(first.id))


@pytest.mark.parametrize("has_successor", [False, True])
async def test_an_agent_that_is_gone_is_not_replayed_as_another_of_its_name(
    store: SqliteStore, has_successor: bool
) -> None:
    world = RunWorld(store)
    made = await define(world)
    first = await accept(world, agent="clerk", environment="remote")
    await world.agents.delete(made.project_id, "clerk")
    if has_successor:
        await define(world)
    with pytest.raises(NotFound, match="Version 1 of agent 'clerk' is not there any more"):
        await world.intake.replay(first)
    assert len(await store.interactions(None)) == 1


async def test_a_replay_can_be_replayed(store: SqliteStore) -> None:
    first = await accept(RunWorld(store), environment="remote")
    world = RunWorld(store, model=Unasked())
    again = await replayed(world, await replayed(world, first))
    assert without_ids(await world.steps(again.id)) == without_ids(await world.steps(first.id))


async def test_a_replay_is_taken_up_like_any_run(store: SqliteStore) -> None:
    """From every prefix of its log; the model is asked at no time."""
    first = await accept(RunWorld(store), environment="remote")
    whole_row = await replayed(RunWorld(store, model=Unasked()), first)
    whole = await store.read(whole_row.id)
    for length in range(2, len(whole)):
        row = replace(await RunWorld(store).row("x", request=json.loads(whole_row.request)), request=whole_row.request)
        stored = await store.read(row.id)
        prefix = [NewEvent(event.kind, event.body) for event in whole[len(stored) : length]]
        if prefix:
            await store.append(row.id, prefix, generation=1, expected_seq=len(stored) + 1)
        later = RunWorld(store, model=Unasked(), generation=2)
        assert (await later.finish(row)).status == "completed", kinds(whole)[length - 1]
        assert_ended_once(await store.read(row.id), "completed")


async def test_a_model_that_is_gone_is_not_missed(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await world.run("hello", request={"agent_config": {"type": "antigravity", "model": "gone:model"}})
    assert first.status == "failed"
    direct = await world.run("hello", agent="gone:model", is_model=True, request={"agent": None, "model": "gone:model"})
    for row in (first, direct):
        again = await replayed(RunWorld(store, model=Unasked()), row)
        errors = (await read_interaction(store, again))["errors"]
        assert [error["code"] for error in errors] == ["replay_diverged"], "its model was never asked"


async def test_one_that_runs_cannot_be_replayed(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.row(STORY)
    with pytest.raises(InvalidRequest, match=f"{row.id} is still in progress"):
        await world.intake.replay(row)
    assert len(await store.interactions(None)) == 1
    await world.finish(row)


async def test_a_cancelled_run_is_replayed_as_far_as_it_came(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.row(scripted({"calls": [bash("ls")]}, {"sleep_ms": 20_000}))
    world.supervisor.start(row)
    async with asyncio.timeout(10):
        async for _ in store.tail(row.id):
            if kinds(await store.read(row.id)).count("turn.started") == 2:
                break
    await world.supervisor.cancel(row.id)
    again = await replayed(RunWorld(store, model=Unasked()), await world.stored(row.id))
    told = await read_interaction(store, again)
    assert [step["type"] for step in told["steps"]] == ["user_input", "code_execution_call", "code_execution_result"]
    assert "at turn 1: it has no such model call, of 1 in all" in told["errors"][0]["message"]


async def test_what_is_replayed_may_be_deleted_before_it_is_its_turn(store: SqliteStore) -> None:
    world = RunWorld(store)
    first = await accept(world, environment="remote")
    later = RunWorld(store, slots=1)
    blocking = await later.row(scripted({"sleep_ms": 300}))
    later.supervisor.start(blocking)
    again = await later.intake.replay(first)
    await store.delete_interaction(first.id)
    await later.supervisor.wait(again.id)
    errors = (await read_interaction(store, again))["errors"]
    assert [error["code"] for error in errors] == ["not_found"]
    assert first.id in errors[0]["message"]


# where


class Places(RunWorld):
    """Notes what new environments are asked to be."""

    def __init__(self, store: SqliteStore, **fields: Any) -> None:
        super().__init__(store, **fields)
        self.asked: list[EnvironmentSpec] = []
        drafted = self.environments.drafted

        def noting(project_id: str, spec: EnvironmentSpec, **given: Any) -> Any:
            self.asked.append(spec)
            return drafted(project_id, spec, **given)

        self.environments.drafted = noting  # type: ignore[assignment]


SOURCE = {"type": "inline", "target": "workspace/a", "content": "a"}


async def known(store: SqliteStore) -> str:
    project = await store.default_project()
    row = environment_row(project.id, spec=json.dumps({"type": "remote", "sources": [SOURCE], "network": "disabled"}))
    await store.create_environment(row)
    return row.id


async def test_a_new_environment_is_made_as_it_was_asked_for(store: SqliteStore) -> None:
    asked = {"type": "remote", "sources": [SOURCE], "env": {"A": "b"}}
    first = await accept(RunWorld(store), environment=asked)
    world = Places(store, model=Unasked())
    await replayed(world, first)
    assert world.asked == [read_request(first).environment]


async def test_one_that_was_there_is_made_anew(store: SqliteStore) -> None:
    environment_id = await known(store)
    first = await accept(RunWorld(store), environment=environment_id)
    assert first.environment_id == environment_id
    world = Places(store, model=Unasked())
    again = await replayed(world, first)
    assert again.environment_id not in (None, environment_id)
    (spec,) = world.asked
    assert spec.environment_id is None
    assert [source.target for source in spec.sources] == ["workspace/a"]
    assert spec.network == "disabled"


async def test_one_that_was_inherited_is_made_anew(store: SqliteStore) -> None:
    parent = await accept(RunWorld(store), environment=await known(store))
    first = await accept(RunWorld(store), previous_interaction_id=parent.id)
    assert first.environment_id == parent.environment_id
    world = Places(store, model=Unasked())
    again = await replayed(world, first)
    assert again.environment_id not in (None, first.environment_id)
    assert again.previous_id == parent.id
    assert len(world.asked) == 1


async def test_one_that_is_gone_cannot_be_made_anew(store: SqliteStore) -> None:
    first = await accept(RunWorld(store), environment=await known(store))
    assert first.environment_id is not None
    await store.delete_environment(first.environment_id)
    world = Places(store, model=Unasked())
    with pytest.raises(Conflict, match=first.environment_id):
        await world.intake.replay(first)
    assert len(await store.interactions(None)) == 1


async def test_without_an_environment_there_is_none(store: SqliteStore) -> None:
    first = await accept(RunWorld(store), text=scripted({"text": "hello"}))
    world = Places(store, model=Unasked())
    again = await replayed(world, first)
    assert (again.status, again.environment_id, world.asked) == ("completed", None, [])
