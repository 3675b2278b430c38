"""Environments and the sandboxes that embody them: made at first use, found again after a restart, removed on request.

Owns the links. One lock per environment keeps its starts and its end apart; calls need none. The store remembers, the
driver acts; after a crash every step here may be taken again (design 4.1).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from orchestrator import ids
from orchestrator.clock import Clock
from orchestrator.errors import Conflict, CorralError, EngineUnavailable, LimitExceeded, NotFound
from orchestrator.sandboxes.disk_watch import DiskWatch
from orchestrator.sandboxes.driver import Profile, SandboxDriver, SandboxRef, SandboxState
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.lifecycle import Lifecycle, dump_profile, dump_spec, read_spec, template_name, variables_of
from orchestrator.sandboxes.pool import PoolSettings
from orchestrator.sandboxes.reconciler import Reconciler
from orchestrator.store.port import EnvironmentRow, Store
from orchestrator.wire.environments import EnvironmentSpec, Network

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SandboxDefaults:
    """What new sandboxes are made of."""

    profile: Profile
    max_per_project: int
    pool: PoolSettings


class Environments:
    """All environments of this server. `open` before use, `aclose` at the end; sandboxes stay."""

    def __init__(
        self, store: Store, driver: SandboxDriver, clock: Clock, defaults: SandboxDefaults, generation: int
    ) -> None:
        self._store = store
        self._driver = driver
        self._clock = clock
        self._defaults = defaults
        self._lifecycle = Lifecycle(store, driver, clock, defaults.profile, defaults.pool, generation)
        self._reconciler = Reconciler(
            store, driver, self._lifecycle, defaults.profile.image, self.delete, self._ended, self._notice_ends
        )
        self._disk_watch = DiskWatch(driver)
        self._live: dict[str, Sandbox] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._creating = asyncio.Lock()
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Connects to the engine if it answers; from then on a watcher reaps what no row owns and notices ends."""
        try:
            await self._driver.open()
        except EngineUnavailable as error:
            log.warning("engine_unavailable", reason=error.message)
        self._lifecycle.open()
        self._reconciler.open()
        self._disk_watch.open()

    def let_go(self) -> None:
        """The server ends: calls that are cancelled from now on go on inside, for the next server to follow."""
        for sandbox in self._live.values():
            sandbox.link.let_go()

    async def aclose(self) -> None:
        """Closes all links; what runs inside goes on."""
        await self._disk_watch.aclose()
        await self._reconciler.aclose()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lifecycle.aclose()
        for sandbox in list(self._live.values()):
            await sandbox.link.aclose()
        self._live.clear()
        await self._driver.aclose()

    async def create(
        self,
        project_id: str,
        spec: EnvironmentSpec,
        *,
        profile: Profile | None = None,
        base: EnvironmentSpec | None = None,
    ) -> EnvironmentRow:
        """A new environment, stored; its sandbox is made at first use.

        `profile` is what its sandbox may take, the server's own if None. With `base` it begins as a fork of a template
        that holds the sources of `base` and is built once for all of them.

        Raises:
            LimitExceeded: the project has as many as it may.
        """
        row = self._new_row(project_id, dump_spec(spec))
        if profile is not None:
            row = replace(row, profile=dump_profile(profile))
        files = dump_spec(base) if base is not None and base.sources else None
        if files is not None:
            row = replace(row, template=template_name(self._lifecycle.profile_of(row), files))
        await self._insert(row, files)
        await self._lifecycle.note(row.id, "environment.created", project=project_id)
        return row

    async def fork(self, parent: EnvironmentRow, network: Network | None = None) -> EnvironmentRow:
        """A new environment that begins with the files of `parent` as they are now; from here on neither sees what the
        other does. A running parent goes on; its processes and variables of Python stay its own.

        `network` replaces the parent's rules. May be repeated: each call makes another fork.

        Raises:
            LimitExceeded: the project has as many as it may.
            NotFound: the parent was deleted. Conflict: its files are gone.
            SandboxError: the platform failed; nothing was made.
        """
        await self._check_room(parent.project_id)
        if parent.status == "pending" and (parent.sandbox_ref or parent.snapshot):
            await self.sandbox(parent.id)  # its files are not complete before it has started once
        async with self._lock(parent.id):
            fresh = await self._store.environment(None, parent.id)
            if fresh is None or fresh.status == "deleting":
                raise NotFound(f"Environment {parent.id!r} not found.")
            if fresh.status == "lost":
                raise Conflict(f"The files of environment {parent.id!r} are gone; it cannot be forked.")
            spec = read_spec(fresh)
            if network is not None:
                spec = spec.model_copy(update={"network": network})
            row = replace(
                self._new_row(fresh.project_id, dump_spec(spec)), profile=fresh.profile, template=fresh.template
            )
            if fresh.sandbox_ref is None and fresh.snapshot is not None:
                raise Conflict(f"Environment {parent.id!r} could not be started; try again.")
            if fresh.sandbox_ref is None:  # nobody has used it: its fork is another one that is made like it
                await self._insert(row)
            else:
                row = replace(row, snapshot=f"fork-{row.id}")
                async with self._lifecycle.copied(fresh, row.snapshot or ""):
                    await self._insert(row)
        await self._lifecycle.note(row.id, "environment.forked", project=row.project_id, parent=parent.id)
        return row

    def _new_row(self, project_id: str, spec: str) -> EnvironmentRow:
        now = self._clock.now()
        return EnvironmentRow(
            id=ids.new_environment_id(),
            project_id=project_id,
            status="pending",
            sandbox_id=None,
            sandbox_ref=None,
            spec=spec,
            created=now,
            updated=now,
            last_accessed=now,
        )

    async def _insert(self, row: EnvironmentRow, base: str | None = None) -> None:
        # One at a time: between the count and the insert nobody else may come in.
        async with self._creating:
            await self._check_room(row.project_id)
            await self._store.create_environment(row, base)

    async def _check_room(self, project_id: str) -> None:
        limit = self._defaults.max_per_project
        if await self._store.count_environments(project_id) >= limit:
            raise LimitExceeded(f"The project has {limit} environments already; delete some.")

    async def find(self, project_id: str, environment_id: str, *, include_deleting: bool = False) -> EnvironmentRow:
        """The project's environment; `include_deleting` finds also one whose deletion was not finished.

        Raises:
            NotFound: it is unknown to the project.
        """
        row = await self._store.environment(project_id, environment_id)
        if row is None or (row.status == "deleting" and not include_deleting):
            raise NotFound(f"Environment {environment_id!r} not found.")
        return row

    async def change(self, row: EnvironmentRow, spec: EnvironmentSpec) -> None:
        """Adds the variables of `spec` to an existing environment; they hold from the next call on."""
        if not spec.env:
            return
        # One at a time: what others have added since is not to be lost.
        async with self._changing:
            fresh = await self._store.environment(None, row.id)
            known = read_spec(fresh if fresh is not None else row)
            merged = known.model_copy(update={"env": {**known.env, **spec.env}})
            await self._store.update_environment(row.id, spec=dump_spec(merged))
        if row.id in self._live:
            self._live[row.id].variables.update(variables_of(spec))

    async def sandbox(self, environment_id: str) -> Sandbox:
        """The environment's running sandbox: the one that is there, started again, found again, or a new one.

        Raises:
            NotFound: the environment was deleted.
            EngineUnavailable, ImageMissing, SandboxStartFailed: it cannot be started now.
            SandboxGone: it vanished from the engine, and the files with it.
        """
        live = self._live.get(environment_id)
        if live is not None and live.is_connected:
            return live
        return await self._lifecycle.queue.do(environment_id, lambda: self._embody(environment_id))

    async def _embody(self, environment_id: str) -> Sandbox:
        async with self._lock(environment_id):
            live = self._live.get(environment_id)
            if live is not None and live.is_connected:
                return live
            row = await self._store.environment(None, environment_id)
            if row is None or row.status == "deleting":
                raise NotFound(f"Environment {environment_id!r} not found.")
            if live is not None and live.link.is_unresponsive:
                log.warning("sandbox_unresponsive", environment_id=environment_id)
                await self._lifecycle.note(environment_id, "sandbox.unresponsive", sandbox_id=live.ref.sandbox_id)
                await self._driver.stop(live.ref)
            sandbox = await (self._lifecycle.resume(row) if row.sandbox_ref else self._lifecycle.start(row))
            self._live[environment_id] = sandbox
            self._disk_watch.add(sandbox, self._lifecycle.profile_of(row).resources.disk_bytes)
            return sandbox

    def prepare(self, environment_id: str) -> None:
        """Begins to start the sandbox while the model still thinks. A failure comes again to whoever needs it."""
        live = self._live.get(environment_id)
        if live is None or not live.is_connected:
            self._own(asyncio.create_task(self._prepare(environment_id), name=f"prepare-{environment_id}"))
        else:
            self.touch(environment_id)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, environment_id: str) -> None:
        with contextlib.suppress(CorralError):
            await self.sandbox(environment_id)

    async def delete(self, row: EnvironmentRow) -> None:
        """Removes the sandbox with its files, then the row. May be repeated. Raises `EngineUnavailable`."""
        async with self._lock(row.id):
            await self._store.update_environment(row.id, status="deleting")
            live = self._live.pop(row.id, None)
            if live is not None:
                await live.link.aclose()
            fresh = await self._store.environment(None, row.id)
            if fresh is not None and fresh.sandbox_id:
                await self._destroy(fresh.sandbox_id, fresh.sandbox_ref)
            if fresh is not None and fresh.snapshot:
                await self._driver.drop_snapshot(fresh.snapshot)
            await self._store.delete_environment(row.id)
        self._locks.pop(row.id, None)
        log.info("environment_deleted", environment_id=row.id)

    async def _destroy(self, sandbox_id: str, token: str | None) -> None:
        """Without a token a crash cut the start off: the engine may have made the sandbox, or not."""
        if token:
            await self._driver.destroy(SandboxRef(sandbox_id, token))
            return
        async for found in self._driver.owned():
            if found.ref.sandbox_id == sandbox_id:
                await self._driver.destroy(found.ref)

    def touch(self, environment_id: str) -> None:
        """Remembers that the environment was used now. Nobody waits for that, or fails of it."""
        self._own(asyncio.create_task(self._touch(environment_id), name=f"touch-{environment_id}"))

    async def _touch(self, environment_id: str) -> None:
        with contextlib.suppress(CorralError):
            await self._store.update_environment(environment_id, accessed=True)

    def _lock(self, environment_id: str) -> asyncio.Lock:
        return self._locks.setdefault(environment_id, asyncio.Lock())

    async def _ended(self, sandbox_id: str) -> None:
        if await self._lifecycle.pools.forget(sandbox_id):
            return
        for environment_id, sandbox in list(self._live.items()):
            if sandbox.ref.sandbox_id == sandbox_id:
                # A task: whoever holds the lock may be long, and other ends are reported behind this one.
                self._own(asyncio.create_task(self._take_note(environment_id, sandbox), name=f"ended-{environment_id}"))

    async def _notice_ends(self) -> None:
        """Of sandboxes that ended while nobody watched."""
        for environment_id, sandbox in list(self._live.items()):
            if not sandbox.is_connected:
                await self._take_note(environment_id, sandbox)

    async def _take_note(self, environment_id: str, sandbox: Sandbox) -> None:
        try:
            await self._has_ended(environment_id, sandbox)
        except CorralError as error:
            log.warning("sandbox_end_not_stored", environment_id=environment_id, reason=error.message)

    async def _has_ended(self, environment_id: str, sandbox: Sandbox) -> None:
        async with self._lock(environment_id):
            if self._live.get(environment_id) is not sandbox:
                return  # deleted, or started again
            status = await self._driver.inspect(sandbox.ref)
            if status.state in (SandboxState.RUNNING, SandboxState.PAUSED):
                return  # the event is late: it has been started again
            del self._live[environment_id]
            await sandbox.link.aclose()
            is_lost = status.state is SandboxState.ABSENT
            await self._store.update_environment(environment_id, status="lost" if is_lost else "stopped")
            await self._lifecycle.note(
                environment_id, "sandbox.stopped", sandbox_id=sandbox.ref.sandbox_id, reason=status.reason
            )
            log.info("sandbox_stopped", environment_id=environment_id, reason=status.reason)


@asynccontextmanager
async def opened(environments: Environments) -> AsyncGenerator[Environments, None]:
    """Opens and closes around a block."""
    await environments.open()
    try:
        yield environments
    finally:
        await environments.aclose()
