"""A project's agents: versions, pins, what they are built on, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.catalogue import Catalogue
from orchestrator.agents.registry import AgentDefinition, AgentRegistry
from orchestrator.errors import Conflict, CorralError, InvalidRequest, NotFound, NotSupported, PermissionDenied
from orchestrator.policy.bounds import Bounds
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.agents import AgentCreate
from orchestrator.wire.base import parse
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.sources import InlineSource
from orchestrator.wire.tools import CodeExecutionTool, UrlContextTool
from tests.fakes.clock import ManualClock
from tests.fakes.rows import interaction_row
from tests.fakes.snapshots import KeptSnapshots

pytestmark = pytest.mark.anyio

GENERAL = AgentDefinition(
    "general",
    instructions="Look first.",
    tools=(CodeExecutionTool(),),
    model="played:x",
    bounds=Bounds(pids=64),
    base=EnvironmentSpec(sources=[InlineSource(target="workspace/rules", content="r")]),
)


def check_model(name: str) -> None:
    if not name.startswith("played:"):
        raise NotFound(f"Model {name!r} not found.")


class World:
    """A project and its catalogue."""

    def __init__(self, store: SqliteStore, project: str) -> None:
        self.store = store
        self.clock = ManualClock()
        self.project = project
        self.snapshots = KeptSnapshots("env")
        self.catalogue = self.again(GENERAL)

    def again(self, *server: AgentDefinition) -> Catalogue:
        registry = AgentRegistry({agent.id: agent for agent in server}, {"public": "general"} if server else {})
        return Catalogue(self.store, registry, self.clock, check_model, self.snapshots)

    async def create(self, agent_id: str, **fields: Any) -> Any:
        return await self.catalogue.create(self.project, parse(AgentCreate, {"id": agent_id, **fields}))

    async def resolve(self, name: str) -> AgentDefinition:
        return await self.catalogue.resolve(self.project, name)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World, None]:
    store = SqliteStore(tmp_path / "corral.db", ManualClock())
    await store.open()
    yield World(store, (await store.default_project()).id)
    await store.aclose()


async def test_an_agent_is_what_it_says_on_top_of_its_base(world: World) -> None:
    made = await world.create("clerk", base_agent="public", instructions="Be brief.", description="d")
    agent = await world.resolve("clerk")
    assert (agent.id, agent.description, agent.uid, agent.version) == ("clerk", "d", made.uid, 1)
    assert agent.instructions == "Look first.\n\nBe brief."
    assert (agent.tools, agent.model, agent.bounds, agent.base) == (
        GENERAL.tools,
        GENERAL.model,
        GENERAL.bounds,
        GENERAL.base,
    )
    fields = {
        "tools": [{"type": "url_context"}],
        "agent_config": {"type": "antigravity", "model": "played:y", "max_total_tokens": 7},
        "base_environment": {"sources": [{"type": "inline", "target": "workspace/b", "content": "b"}]},
    }
    await world.create("own", **fields)
    own = await world.resolve("own")
    assert (own.tools, own.model, own.token_budget) == ((UrlContextTool(),), "played:y", 7)
    assert own.base is not None
    assert own.base.sources[0].model_dump()["target"] == "workspace/b"


async def test_every_change_is_a_version_that_can_be_pinned(world: World) -> None:
    first = await world.create("clerk", instructions="one")
    world.clock.advance(60)
    second = await world.catalogue.change(world.project, "clerk", {"system_instruction": "two", "description": "d"})
    assert (second.version, second.created) == (2, first.created)
    assert second.updated > first.updated
    third = await world.catalogue.change(world.project, "clerk", {"system_instruction": None})
    for name, told in (("clerk@1", "one"), ("clerk@2", "two"), ("clerk@3", ""), ("clerk", "")):
        agent = await world.resolve(name)
        assert agent.id == "clerk"
        assert agent.instructions == f"Look first.\n\n{told}".strip()
    assert (await world.catalogue.change(world.project, "clerk", {"description": "d"})).version == third.version
    assert (await world.catalogue.change(world.project, "clerk", {})).version == third.version


async def test_rolling_back_is_a_change(world: World) -> None:
    await world.create("clerk", instructions="one")
    await world.catalogue.change(world.project, "clerk", {"system_instruction": "two"})
    third = await world.catalogue.roll_back(world.project, "clerk", 1)
    assert third.version == 3
    assert (await world.resolve("clerk")).instructions.endswith("one")
    assert (await world.catalogue.roll_back(world.project, "clerk", 3)).version == 3
    with pytest.raises(NotFound, match="no version 9"):
        await world.catalogue.roll_back(world.project, "clerk", 9)


async def test_changes_at_once_all_count(world: World) -> None:
    await world.create("clerk")
    fields: tuple[dict[str, Any], ...] = ({"description": "d"}, {"system_instruction": "two"}, {"tools": []})
    await asyncio.gather(*(world.catalogue.change(world.project, "clerk", each) for each in fields))
    agent = await world.resolve("clerk")
    assert (agent.version, agent.description, agent.tools) == (4, "d", ())
    assert agent.instructions.endswith("two")


async def test_a_version_keeps_what_its_base_was_when_it_was_made(world: World) -> None:
    await world.create("base", instructions="one")
    await world.create("child", base_agent="base", instructions="child")
    await world.catalogue.change(world.project, "base", {"system_instruction": "two"})
    assert (await world.resolve("child")).instructions == "Look first.\n\none\n\nchild"
    await world.create("pinned", base_agent="base@1")
    await world.create("late", base_agent="base")
    assert (await world.resolve("pinned")).instructions.endswith("one")
    assert (await world.resolve("late")).instructions.endswith("two")
    again = await world.catalogue.change(world.project, "child", {})
    assert again.version == 2
    assert (await world.resolve("child")).instructions == "Look first.\n\ntwo\n\nchild"
    await world.catalogue.delete(world.project, "base")
    assert (await world.resolve("child")).instructions == "Look first.\n\ntwo\n\nchild"


async def test_no_agent_is_built_on_itself(world: World) -> None:
    await world.create("a")
    await world.create("b", base_agent="a")
    for base in ("a", "b", "b@1"):
        with pytest.raises(InvalidRequest, match=r"'base_agent': '.*' is built on 'a' itself"):
            await world.catalogue.change(world.project, "a", {"base_agent": base})
    assert (await world.resolve("a")).version == 1


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"id": "Gemini-x"}, InvalidRequest, "'id'"),
        ({"id": "gemini-x"}, InvalidRequest, "'gemini-' are reserved"),
        ({"id": "antigravity-mine"}, InvalidRequest, "'antigravity-' are reserved"),
        ({"id": "general"}, Conflict, "'general' is one of the server"),
        ({"id": "public"}, Conflict, "'public' is one of the server"),
        ({"base_agent": "generel"}, NotFound, r"'base_agent': Agent 'generel' not found .*'general'"),
        ({"base_agent": "general@1"}, InvalidRequest, "'base_agent': Agent 'general' is one of the server and has no"),
        ({"base_agent": "clerk"}, NotFound, "'base_agent'"),
        ({"agent_config": {"type": "antigravity", "model": "x:y"}}, NotFound, "'agent_config.model': Model 'x:y'"),
        ({"base_environment": "a" * 32}, NotFound, "'base_environment': Environment 'a+' not found"),
        (
            {"base_environment": {"environment_id": "env", "setup": ["true"]}},
            NotSupported,
            r"'base_environment\.setup' together with 'environment_id'",
        ),
        (
            {"base_environment": {"sources": [{"type": "inline", "target": "etc/passwd", "content": ""}]}},
            InvalidRequest,
            r"'base_environment\.sources\[0\]\.target'",
        ),
    ],
)
async def test_what_cannot_be_is_refused(
    world: World, fields: dict[str, Any], error: type[CorralError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await world.create(**{"agent_id": fields.pop("id", "clerk"), **fields})
    assert await world.store.agents(world.project) == []


async def test_agents_of_the_server_stay_as_they_are(world: World) -> None:
    for name in ("general", "public"):
        with pytest.raises(PermissionDenied):
            await world.catalogue.change(world.project, name, {"description": "mine"})
        with pytest.raises(PermissionDenied):
            await world.catalogue.delete(world.project, name)
        with pytest.raises(PermissionDenied):
            await world.catalogue.roll_back(world.project, name, 1)


async def test_other_projects_agents_are_unknown(world: World) -> None:
    await world.create("clerk")
    other = (await world.store.ensure_project("other")).id
    assert await world.catalogue.knows(world.project, "clerk@7")
    assert not await world.catalogue.knows(other, "clerk")
    for act in (
        world.catalogue.resolve(other, "clerk"),
        world.catalogue.resolve(other, "clerk@1"),
        world.catalogue.change(other, "clerk", {}),
        world.catalogue.delete(other, "clerk"),
        world.catalogue.create(other, AgentCreate(id="b", base_agent="clerk")),
    ):
        with pytest.raises(NotFound):
            await act
    assert (await world.resolve("clerk")).version == 1


async def test_a_version_that_is_not_there_says_which_is_the_latest(world: World) -> None:
    await world.create("clerk")
    with pytest.raises(NotFound, match="no version 2; the latest is 1"):
        await world.resolve("clerk@2")
    with pytest.raises(InvalidRequest, match="has no versions"):
        await world.resolve("general@1")
    with pytest.raises(NotFound, match="closest known name: 'general'"):
        await world.resolve("generel@1")


async def test_a_run_keeps_its_version_after_a_change_and_after_the_agent_is_gone(world: World) -> None:
    made = await world.create("clerk", instructions="one")
    row = interaction_row(world.project, agent="clerk", agent_uid=made.uid, agent_version=1)
    await world.store.create_interaction(row, [])
    await world.catalogue.change(world.project, "clerk", {"system_instruction": "two"})
    await world.catalogue.delete(world.project, "clerk")
    for catalogue in (world.catalogue, world.again(GENERAL)):
        assert (await catalogue.recorded(row)).instructions.endswith("one")
    with pytest.raises(NotFound, match="not there any more"):
        await world.again(GENERAL).recorded(interaction_row("p", agent="clerk", agent_uid=made.uid, agent_version=9))
    assert await world.catalogue.recorded(interaction_row("p", agent="general")) is GENERAL


async def test_who_loses_the_agent_that_it_is_built_on_says_so(world: World) -> None:
    await world.create("clerk")
    with pytest.raises(NotFound, match="'clerk' is built on 'general', which this server does not have any more"):
        await world.again().resolve(world.project, "clerk")


async def test_secrets_are_kept_and_not_listed(world: World) -> None:
    tool = {"type": "mcp_server", "name": "m", "url": "https://m.example", "headers": {"X": "s3cr3t"}}
    row = await world.create("clerk", tools=[tool])
    assert "s3cr3t" in row.definition
    assert "s3cr3t" not in row.summary
    assert json.loads(row.summary)["tools"] == [{"type": "mcp_server", "name": "m", "url": "https://m.example"}]


# agents that begin with an environment


async def test_a_version_has_the_files_of_its_environment_as_they_were(world: World) -> None:
    made = await world.create("clerk", base_environment="env")
    assert made.snapshot == (await world.resolve("clerk")).base_snapshot == "base-0"
    told = await world.catalogue.change(world.project, "clerk", {"system_instruction": "Be brief."})
    assert (told.version, told.snapshot) == (2, "base-0"), "what is changed otherwise takes nothing anew"
    base = parse(AgentCreate, {"id": "x", "base_environment": "env"}).base_environment
    anew = await world.catalogue.change(world.project, "clerk", {"base_environment": base})
    assert (anew.version, anew.snapshot) == (3, "base-1")
    back = await world.catalogue.roll_back(world.project, "clerk", 1)
    assert (back.version, back.snapshot) == (4, "base-0")
    assert (await world.resolve("clerk@3")).base_snapshot == "base-1"
    without = await world.catalogue.change(world.project, "clerk", {"base_environment": None})
    assert (without.snapshot, (await world.resolve("clerk")).base_snapshot) == (None, None)
    assert await world.store.agent_snapshots() == {"base-0", "base-1"}


async def test_who_is_built_on_it_begins_with_the_same_files(world: World) -> None:
    await world.create("clerk", base_environment="env")
    child = await world.create("junior", base_agent="clerk")
    assert (child.snapshot, world.snapshots.spared) == ("base-0", ["base-0"])
    await world.catalogue.delete(world.project, "clerk")
    assert (await world.resolve("junior")).base_snapshot == "base-0"
    assert await world.store.agent_snapshots() == {"base-0"}
    own = await world.create("own", base_agent="junior", base_environment={"setup": ["true"]})
    assert own.snapshot is None
    for name in ("junior", "own"):
        await world.catalogue.delete(world.project, name)
    assert await world.store.agent_snapshots() == set()


async def test_what_cannot_be_stored_keeps_no_files(world: World) -> None:
    await world.create("clerk")
    with pytest.raises(Conflict):
        await world.create("clerk", base_environment="env")
    assert world.snapshots.kept == []
