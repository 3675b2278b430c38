"""Environments on a real store and on sandboxes without an engine: servers one after another on the same two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from orchestrator import ids
from orchestrator.clock import Clock, SystemClock
from orchestrator.egress.gates import Gates
from orchestrator.sandboxes.driver import Profile, SandboxDriver
from orchestrator.sandboxes.environments import Environments, SandboxDefaults, opened
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.pool import PoolSettings
from orchestrator.sandboxes.sources import SourcePort
from orchestrator.sandboxes.stages import StageSettings
from orchestrator.store.records import EnvironmentRow
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.environments import EnvironmentSpec, parse_environment
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.local_driver import IMAGE, LocalDriver

WITH_SOURCE = {"type": "remote", "sources": [{"type": "inline", "target": "workspace/data.txt", "content": "given"}]}
SLOW = StageSettings(sweep_interval_s=3600)
"""Rounds come only when something happened."""


def spec_of(value: object = "remote") -> EnvironmentSpec:
    spec = parse_environment(value)
    assert spec is not None
    return spec


class World:
    """A store, a folder of sandboxes, and servers on them one after another."""

    def __init__(self, store: SqliteStore, root: Path, stack: AsyncExitStack) -> None:
        self.store = store
        self.root = root
        self._stack = stack
        self.project = ""

    async def server(
        self,
        driver: SandboxDriver | None = None,
        *,
        limit: int = 50,
        pool_size: int = 0,
        is_open: bool = True,
        stages: StageSettings = SLOW,
        clock: Clock | None = None,
        sources: SourcePort | None = None,
        gates: Gates | None = None,
    ) -> Environments:
        pool = PoolSettings(size=pool_size, max_size=pool_size, refill_delay_s=0.0, memory_limit_bytes=1 << 30)
        defaults = SandboxDefaults(Profile(IMAGE), limit, pool, stages)
        generation = await self.store.next_generation()
        driver, clock = driver or LocalDriver(self.root), clock or SystemClock()
        environments = Environments(self.store, driver, clock, defaults, generation, sources, gates)
        if is_open:
            await self._stack.enter_async_context(opened(environments))
        else:
            self._stack.push_async_callback(environments.aclose)
        return environments

    async def row(self, environment_id: str) -> EnvironmentRow:
        row = await self.store.environment(None, environment_id)
        assert row is not None
        return row

    async def status(self, environment_id: str) -> str:
        return (await self.row(environment_id)).status

    async def owned(self) -> set[str]:
        return {found.ref.sandbox_id async for found in LocalDriver(self.root).owned()}

    async def kinds(self, environment_id: str) -> list[str]:
        return [event.kind for event in await self.store.read(environment_id)]


@asynccontextmanager
async def opened_world(data: Path, root: Path) -> AsyncGenerator[World, None]:
    """At the end the store is consistent and nothing runs."""
    store = SqliteStore(data / "corral.db", SystemClock())
    await store.open()
    async with AsyncExitStack() as stack:
        world = World(store, root, stack)
        world.project = (await store.default_project()).id
        yield world
    await assert_store_consistent(store)
    await store.aclose()
    await asyncio.to_thread(LocalDriver(root).kill_all)


async def says(sandbox: Sandbox, code: str, call: str = "") -> str:
    """What a command prints; without an id it is a call of its own."""
    call = call or ids.new_sandbox_id()
    outcome = await sandbox.bash(call, code, timeout_s=10, output_limit_bytes=1000)
    sandbox.acknowledge(call)
    return outcome.head.decode()


async def used(world: World, environments: Environments, spec: object = "remote") -> tuple[EnvironmentRow, Sandbox]:
    """A new environment and its sandbox."""
    row = await environments.create(world.project, spec_of(spec))
    return row, await environments.sandbox(row.id)


async def eventually(is_true: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not await is_true():
            await asyncio.sleep(0.01)
