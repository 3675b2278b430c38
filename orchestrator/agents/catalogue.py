"""All agents that a project can call: those of the server, and its own, of which every change is a version.

Imports `store`, `policy`, `wire`, `errors`, `ids` and `clock`, and beside it `registry`, `lineage` and
`skill_registry`.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

from orchestrator.agents.lineage import Lineage, combined, parse_lineage
from orchestrator.agents.registry import AgentDefinition, AgentRegistry
from orchestrator.agents.skill_registry import SkillRegistry
from orchestrator.clock import Clock
from orchestrator.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, naming
from orchestrator.ids import new_agent_uid
from orchestrator.policy.agents import AGENTS_LIMIT, VERSIONS_LIMIT, check_base_environment, check_new_id
from orchestrator.store.port import Store
from orchestrator.store.records import AgentRow, InteractionRow
from orchestrator.wire.agents import AgentCreate, dump_agent, pinned, public_agent
from orchestrator.wire.base import encode_json, parse
from orchestrator.wire.generation import AntigravityConfig

_DEFAULT_BASE = "general"
_KEPT = 32
"""Definitions that are kept parsed; one may have megabytes."""
_TRIES = 5
"""So often a change is made anew that somebody else's comes before."""

CheckModel = Callable[[str], object]
"""Raises `InvalidRequest` unless there is a model of that name."""


class Snapshots(Protocol):
    """Keeps files of environments for agents that begin with them."""

    def preserved(self, project_id: str, environment_id: str) -> AbstractAsyncContextManager[str]:
        """The name of a snapshot, which lasts if a version with it is stored within the block."""

    def sparing(self, snapshot: str) -> AbstractContextManager[None]:
        """Within the block it is kept, though the version that had it may go."""


class Catalogue:
    """The agents of one server and its projects. A name is first looked for among the project's own."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        clock: Clock,
        check_model: CheckModel,
        snapshots: Snapshots,
        skills: SkillRegistry | None = None,
    ) -> None:
        """`skills` are those that their environments may have of the server; None: it has none."""
        self.registry = registry
        self.skills = skills if skills is not None else SkillRegistry()
        self._store = store
        self._clock = clock
        self._check_model = check_model
        self._snapshots = snapshots
        self._kept: OrderedDict[tuple[str, int], AgentDefinition] = OrderedDict()

    # for runs

    async def resolve(self, project_id: str, name: str) -> AgentDefinition:
        """The agent of an id, an alias, or `ID@3`, which is a version.

        Raises:
            NotFound: there is none. InvalidRequest: agents of the server have no versions.
        """
        agent_id, version = pinned(name)
        row = await self._store.agent(project_id, agent_id, version)
        if row is not None:
            return self._definition(row)
        if version is None:
            return self.registry.resolve(agent_id)
        if (latest := await self._store.agent(project_id, agent_id)) is not None:
            raise NotFound(f"Agent {agent_id!r} has no version {version}; the latest is {latest.version}.")
        if self.registry.knows(agent_id):
            raise InvalidRequest(f"Agent {agent_id!r} is one of the server and has no versions.")
        raise NotFound(f"Agent {agent_id!r} not found{self.registry.closest(agent_id)}.")

    async def knows(self, project_id: str, name: str) -> bool:
        """Whether there is an agent of that name, of whatever version."""
        agent_id, _ = pinned(name)
        return self.registry.knows(agent_id) or await self._store.agent(project_id, agent_id) is not None

    async def recorded(self, row: InteractionRow) -> AgentDefinition:
        """The agent that an interaction runs, in the version that it began with.

        Raises:
            NotFound: it is not there any more.
        """
        if row.agent_uid is None or row.agent_version is None:
            return self.registry.resolve(row.agent)
        kept = self._kept.get((row.agent_uid, row.agent_version))
        if kept is not None:
            return kept
        found = await self._store.recorded_agent(row.agent_uid, row.agent_version)
        if found is None:
            raise NotFound(f"Version {row.agent_version} of agent {row.agent!r} is not there any more.")
        return self._definition(found)

    async def pin_of(self, row: InteractionRow) -> str | None:
        """What calls the agent of an interaction once more, in the same version; None: one of the server, or a model.

        Raises:
            NotFound: it was deleted. Another may have its id by now.
        """
        if row.agent_uid is None or row.agent_version is None:
            return None
        found = await self._store.agent(row.project_id, row.agent, row.agent_version)
        if found is None or found.uid != row.agent_uid:
            raise NotFound(f"Version {row.agent_version} of agent {row.agent!r} is not there any more.")
        return f"{row.agent}@{row.agent_version}"

    def _definition(self, row: AgentRow) -> AgentDefinition:
        key = (row.uid, row.version)
        if key not in self._kept:
            self._kept[key] = self._read(row)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _read(self, row: AgentRow) -> AgentDefinition:
        own, lineage = read_agent(row), parse_lineage(row.lineage)
        if not self.registry.knows(lineage.root):
            raise NotFound(
                f"Agent {row.name!r} is built on {lineage.root!r}, which this server does not have any more."
            )
        root = self.registry.resolve(lineage.root)
        whole = root.extended(row.name, own.description, combined(lineage.inherited, own))
        return dataclasses.replace(whole, uid=row.uid, version=row.version, base_snapshot=row.snapshot)

    # for those who define agents

    async def create(self, project_id: str, agent: AgentCreate) -> AgentRow:
        """A new agent, as its version 1.

        Raises:
            InvalidRequest, NotSupported: the definition cannot be used; names the field. NotFound: its base is unknown.
            Conflict: the id is taken, or the files that it begins with are gone. LimitExceeded: the project has as
                many as it may. SandboxError: these files cannot be kept now.
        """
        check_new_id(agent.id)
        if self.registry.knows(agent.id):
            raise Conflict(f"Agent {agent.id!r} is one of the server; take another id.")
        uid = new_agent_uid()
        async with self._drafted(project_id, uid, agent, version=1) as row:
            await self._store.create_agent(row, limit=AGENTS_LIMIT)
        return row

    async def change(self, project_id: str, agent_id: str, fields: Mapping[str, Any]) -> AgentRow:
        """The agent with these fields changed, as a new version; what changes nothing makes none. An environment that
        it is to begin with is taken as it is now; where that is not said again, it stays as it was.

        Raises:
            As `create`. PermissionDenied: it is one of the server. LimitExceeded: it has as many versions as it may.
        """

        def following(latest: AgentRow) -> tuple[AgentCreate, str | None]:
            changed = read_agent(latest).model_copy(update=dict(fields))
            return changed, None if "base_environment" in fields else latest.snapshot

        return await self._succeed(project_id, agent_id, following)

    async def roll_back(self, project_id: str, agent_id: str, version: int) -> AgentRow:
        """A new version with the definition of an earlier one. On which version of its base is decided anew.

        Raises:
            NotFound: there is no such version. As `change` otherwise.
        """
        await self.find(project_id, agent_id)
        row = await self.find(project_id, agent_id, version)
        earlier = read_agent(row), row.snapshot
        return await self._succeed(project_id, agent_id, lambda _: earlier)

    async def _succeed(
        self, project_id: str, agent_id: str, following: Callable[[AgentRow], tuple[AgentCreate, str | None]]
    ) -> AgentRow:
        """`following`: the next version of the latest, and the snapshot that it had before, if it had one."""
        for _ in range(_TRIES):
            latest = await self.find(project_id, agent_id)
            agent, snapshot = following(latest)
            version = latest.version + 1
            drafted = self._drafted(project_id, latest.uid, agent, version=version, created=latest, snapshot=snapshot)
            async with drafted as row:
                if _same(row, latest):
                    return latest
                if await self._is_added(row):
                    return row
        raise Conflict(f"Agent {agent_id!r} is changed by others all the time; try again.")

    async def _is_added(self, row: AgentRow) -> bool:
        try:
            await self._store.add_agent_version(row, limit=VERSIONS_LIMIT)
        except Conflict:
            return False
        return True

    async def find(self, project_id: str, agent_id: str, version: int | None = None) -> AgentRow:
        """The project's own agent, in its latest version or this one.

        Raises:
            NotFound: there is none. PermissionDenied: it is one of the server.
        """
        row = await self._store.agent(project_id, agent_id, version)
        if row is not None:
            return row
        if version is not None and await self._store.agent(project_id, agent_id) is not None:
            raise NotFound(f"Agent {agent_id!r} has no version {version}.")
        if self.registry.knows(agent_id):
            raise PermissionDenied(f"Agent {agent_id!r} is one of the server: it has no versions and stays as it is.")
        raise NotFound(f"Agent {agent_id!r} not found{self.registry.closest(agent_id)}.")

    async def delete(self, project_id: str, agent_id: str) -> None:
        """Removes the agent with its versions. Runs of it go on, agents that are built on it stay whole.

        Raises:
            NotFound, PermissionDenied: as `find`.
        """
        await self._store.delete_agent((await self.find(project_id, agent_id)).uid)

    @asynccontextmanager
    async def _drafted(
        self,
        project_id: str,
        uid: str,
        agent: AgentCreate,
        *,
        version: int,
        created: AgentRow | None = None,
        snapshot: str | None = None,
    ) -> AsyncGenerator[AgentRow, None]:
        """A version, to be stored within the block. `snapshot`: of an earlier one of the agent with the same base."""
        row, base = await self._row(project_id, uid, agent, version=version, created=created)
        environment = agent.base_environment
        async with AsyncExitStack() as stack:
            if environment is None and base is not None and base.snapshot is not None:
                stack.enter_context(self._snapshots.sparing(base.snapshot))
                if await self._store.recorded_agent(base.uid, base.version) is None:
                    raise NotFound(f"Invalid value at 'base_agent': Agent {base.name!r} not found.")
                row = dataclasses.replace(row, snapshot=base.snapshot)
            elif environment is not None and environment.environment_id is not None:
                if snapshot is None:
                    with naming("base_environment"):
                        taken = self._snapshots.preserved(project_id, environment.environment_id)
                        snapshot = await stack.enter_async_context(taken)
                row = dataclasses.replace(row, snapshot=snapshot)
            yield row

    async def _row(
        self, project_id: str, uid: str, agent: AgentCreate, *, version: int, created: AgentRow | None = None
    ) -> tuple[AgentRow, AgentRow | None]:
        """The version, still without the files that it begins with, and that of the project that it is built on."""
        if agent.base_environment is not None:
            check_base_environment(agent.base_environment)
            await self.skills.pinned(agent.base_environment, "base_environment.sources")
        if isinstance(agent.agent_config, AntigravityConfig) and agent.agent_config.model is not None:
            with naming("agent_config.model"):
                self._check_model(agent.agent_config.model)
        lineage, base = await self._lineage(project_id, uid, agent)
        now = self._clock.now()
        row = AgentRow(
            uid=uid,
            project_id=project_id,
            name=agent.id,
            version=version,
            created=created.created if created is not None else now,
            updated=max(now, created.updated) if created is not None else now,
            summary=encode_json(public_agent(agent, with_contents=False)).decode(),
            definition=encode_json(dump_agent(agent)).decode(),
            lineage=lineage.dump(),
        )
        return row, base

    async def _lineage(self, project_id: str, uid: str, agent: AgentCreate) -> tuple[Lineage, AgentRow | None]:
        name = agent.base_agent or _DEFAULT_BASE
        with naming("base_agent"):
            base = await self.resolve(project_id, name)
        if base.uid is None or base.version is None:
            return Lineage(base.id), None
        row = await self._store.recorded_agent(base.uid, base.version)
        if row is None:
            raise NotFound(f"Invalid value at 'base_agent': Agent {name!r} not found.")
        lineage = parse_lineage(row.lineage)
        if uid in (base.uid, *lineage.uids):
            raise InvalidRequest(f"Invalid value at 'base_agent': {name!r} is built on {agent.id!r} itself.")
        return lineage.of_child(base.uid, read_agent(row)), row


def _same(row: AgentRow, other: AgentRow) -> bool:
    """Whether two versions are the same agent."""
    return (row.definition, row.lineage, row.snapshot) == (other.definition, other.lineage, other.snapshot)


def read_agent(row: AgentRow) -> AgentCreate:
    """What was given."""
    return parse(AgentCreate, json.loads(row.definition))
