"""The agents that come with Corral: complete, installed with it, and each of them runs."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator.agents.folder import AgentFolder, read_folder
from orchestrator.agents.prompt import build_system
from orchestrator.agents.registry import AgentRegistry, shipped_folder
from orchestrator.clock import SystemClock
from orchestrator.config import Settings
from orchestrator.store.sqlite import SqliteStore
from tests.fakes import runs
from tests.fakes.runs import RunWorld, bash, scripted

FOLDERS = [read_folder(place.parent) for place in sorted(shipped_folder().glob("*/agent.yaml"))]
REGISTRY = AgentRegistry.load(aliases=Settings().agent_aliases)
each_agent = pytest.mark.parametrize("folder", [pytest.param(each, id=each.file.id) for each in FOLDERS])


def test_they_are_all_there() -> None:
    assert [folder.file.id for folder in FOLDERS] == ["coder", "data-analyst", "general", "web-researcher"]


@each_agent
def test_it_is_told_its_work_and_has_examples_that_can_be_wrong(folder: AgentFolder) -> None:
    assert folder.file.description
    assert len(folder.guide.splitlines()) > 10
    assert folder.file.examples
    assert all(example.name and example.expect for example in folder.file.examples)


@each_agent
def test_it_is_installed_with_a_wheel(folder: AgentFolder) -> None:
    project = tomllib.loads((shipped_folder().parent / "pyproject.toml").read_text())
    name = folder.file.id
    assert project["tool"]["setuptools"]["data-files"][f"share/corral/agents/{name}"] == [f"agents/{name}/*"]


@each_agent
def test_it_is_told_what_the_general_agent_is_told_and_then_its_own(folder: AgentFolder) -> None:
    system = build_system(REGISTRY.resolve(folder.file.id), None, {})
    assert system.startswith("You are a careful engineer")
    assert folder.guide in system


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore, None]:
    store = SqliteStore(tmp_path / "corral.db", SystemClock())
    await store.open()
    yield store
    await store.aclose()


@pytest.mark.anyio
@each_agent
async def test_it_runs(folder: AgentFolder, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "AGENTS", REGISTRY)
    world = RunWorld(store)
    program = scripted({"calls": [bash("echo hello")]}, {"text": "It is done."})
    async with asyncio.timeout(20):
        ended = await world.run(program, agent=folder.file.id)
    assert (ended.agent, ended.status) == (folder.file.id, "completed")
    kinds = [step.type for step in await world.steps(ended.id)]
    assert kinds == ["code_execution_call", "code_execution_result", "model_output"]
