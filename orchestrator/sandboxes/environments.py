"""Environments and the sandboxes that embody them: made at first use, found again after a restart, removed on request.

Owns the links. One lock per environment keeps its starts and its end apart; calls need none. The store remembers, the
driver acts; after a crash every step here may be taken again (design 4.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from orchestrator import ids
from orchestrator.clock import Clock
from orchestrator.errors import (
    CorralError,
    EngineUnavailable,
    LimitExceeded,
    NotFound,
    SandboxError,
    SandboxGone,
)
from orchestrator.sandboxes.driver import Profile, Resources, SandboxDriver, SandboxRef, SandboxSpec, SandboxState
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.pool import Pools, PoolSettings
from orchestrator.sandboxes.sources import put_sources
from orchestrator.sandboxes.work_queue import Urgency, WorkQueue
from orchestrator.store.port import EnvironmentRow, NewEvent, Store
from orchestrator.wire.base import encode_json
from orchestrator.wire.environments import EnvironmentSpec, InlineSource, parse_environment

log = structlog.get_logger(__name__)

_RETRY_ENGINE_S = 2.0
_RECONNECT_WAITS_S = (0.05, 0.2, 0.5, 1.0)
_PAGE = 500
_STARTS_AT_ONCE = 6
"""An engine starts most per second with 4 to 8 at a time (design 6). Whole starts: so the first are ready early."""
_ENGINE_PATIENCE_S = 5.0
"""So long an engine may be away before whoever needs a sandbox hears of it: a restart takes one or two seconds."""


@dataclass(frozen=True, slots=True)
class SandboxDefaults:
    """What new sandboxes are made of."""

    image: str
    resources: Resources
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
        self._generation = generation
        self._profile = Profile(defaults.image, defaults.resources)
        self._queue = WorkQueue(clock, at_once=_STARTS_AT_ONCE, patience_s=_ENGINE_PATIENCE_S)
        self._pools = Pools(driver, clock, defaults.pool, self._queue, generation)
        self._live: dict[str, Sandbox] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._creating = asyncio.Lock()
        self._starting: set[str] = set()
        """Sandboxes that are being made or bound: not to be reaped."""
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects to the engine if it answers; from then on a watcher reaps what no row owns and notices ends."""
        try:
            await self._driver.open()
        except EngineUnavailable as error:
            log.warning("engine_unavailable", reason=error.message)
        self._pools.open(self._profile)
        self._watcher = asyncio.create_task(self._watch(), name="sandbox-exits")

    def let_go(self) -> None:
        """The server ends: calls that are cancelled from now on go on inside, for the next server to follow."""
        for sandbox in self._live.values():
            sandbox.link.let_go()

    async def aclose(self) -> None:
        """Closes all links; what runs inside goes on."""
        tasks = [*self._tasks, *([self._watcher] if self._watcher is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sandbox in list(self._live.values()):
            await sandbox.link.aclose()
        self._live.clear()
        await self._pools.aclose()
        await self._queue.aclose()
        await self._driver.aclose()

    async def create(self, project_id: str, spec: EnvironmentSpec) -> EnvironmentRow:
        """A new environment, stored; its sandbox is made at first use.

        Raises:
            LimitExceeded: the project has as many as it may.
        """
        limit = self._defaults.max_per_project
        now = self._clock.now()
        row = EnvironmentRow(
            id=ids.new_environment_id(),
            project_id=project_id,
            status="pending",
            sandbox_id=None,
            sandbox_ref=None,
            spec=_dump(spec),
            created=now,
            updated=now,
            last_accessed=now,
        )
        # One at a time: between the count and the insert nobody else may come in.
        async with self._creating:
            if await self._store.count_environments(project_id) >= limit:
                raise LimitExceeded(f"The project has {limit} environments already; delete some.")
            await self._store.create_environment(row)
        await self._note(row.id, "environment.created", project=project_id)
        return row

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
        known = read_spec(row)
        merged = known.model_copy(update={"env": {**known.env, **spec.env}})
        await self._store.update_environment(row.id, spec=_dump(merged))
        if row.id in self._live:
            self._live[row.id].variables.update(_variables(spec))

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
        return await self._queue.do(environment_id, lambda: self._embody(environment_id))

    async def _embody(self, environment_id: str) -> Sandbox:
        async with self._lock(environment_id):
            live = self._live.get(environment_id)
            if live is not None and live.is_connected:
                return live
            row = await self._store.environment(None, environment_id)
            if row is None or row.status == "deleting":
                raise NotFound(f"Environment {environment_id!r} not found.")
            sandbox = await (self._resume(row) if row.sandbox_ref else self._start(row))
            self._live[environment_id] = sandbox
            return sandbox

    def prepare(self, environment_id: str) -> None:
        """Begins to start the sandbox while the model still thinks. A failure comes again to whoever needs it."""
        live = self._live.get(environment_id)
        if live is None or not live.is_connected:
            self._own(asyncio.create_task(self._prepare(environment_id), name=f"prepare-{environment_id}"))

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
            await self._store.delete_environment(row.id)
        self._locks.pop(row.id, None)
        log.info("environment_deleted", environment_id=row.id)

    async def _destroy(self, sandbox_id: str, token: str | None) -> None:
        """Without a token a crash cut the start off: the engine may have made the sandbox, or not."""
        if token:
            await self._driver.destroy(SandboxRef(sandbox_id, token))
            return
        async for ref in self._driver.owned():
            if ref.sandbox_id == sandbox_id:
                await self._driver.destroy(ref)

    async def touch(self, environment_id: str) -> None:
        """Remembers that the environment was used now."""
        await self._store.update_environment(environment_id, accessed=True)

    def _lock(self, environment_id: str) -> asyncio.Lock:
        return self._locks.setdefault(environment_id, asyncio.Lock())

    async def _start(self, row: EnvironmentRow) -> Sandbox:
        """A sandbox that waited in the pool, else a new one; its sources put in place."""
        spec = read_spec(row)
        started = self._clock.monotonic()
        # An id without a ref: an earlier start was cut off, and the engine may have gone further than the store.
        waiting = await self._pools.claim(self._profile) if not row.sandbox_id else None
        ref = waiting.ref if waiting is not None else SandboxRef(row.sandbox_id or ids.new_sandbox_id(), "")
        self._starting.add(ref.sandbox_id)
        try:
            if waiting is not None:
                # From this write on the sandbox is the environment's, whatever happens to us.
                await self._store.update_environment(row.id, sandbox_id=ref.sandbox_id, sandbox_ref=ref.token)
                sandbox = Sandbox(ref, waiting.link, _variables(spec))
                self._rename_later(ref, row.id)
            else:
                await self._note(row.id, "sandbox.starting", sandbox_id=ref.sandbox_id, image=self._defaults.image)
                wanted = SandboxSpec(ref.sandbox_id, self._defaults.image, self._defaults.resources, row.id)
                await self._store.update_environment(row.id, sandbox_id=ref.sandbox_id)
                turn = self._queue.turn(Urgency.AWAITED)
                async with turn, contextlib.aclosing(self._driver.create(wanted)) as stages:
                    async for ref in stages:
                        await self._store.update_environment(row.id, sandbox_id=ref.sandbox_id, sandbox_ref=ref.token)
                    sandbox = await self._connect(ref, spec)
            await _furnish(sandbox, spec)
        except BaseException as error:
            await asyncio.shield(self._undo(row.id, ref, error))
            raise
        finally:
            self._starting.discard(ref.sandbox_id)
        duration_ms = round((self._clock.monotonic() - started) * 1000, 1)
        waited = waiting is not None
        await self._store.update_environment(row.id, status="active", accessed=True)
        await self._note(
            row.id, "sandbox.started", sandbox_id=ref.sandbox_id, duration_ms=duration_ms, from_pool=waited
        )
        log.info("sandbox_started", environment_id=row.id, duration_ms=duration_ms, from_pool=waited)
        return sandbox

    def _rename_later(self, ref: SandboxRef, name: str) -> None:
        """People who list containers find the environment by name; no call needs to wait for that."""

        async def rename() -> None:
            with contextlib.suppress(SandboxError):
                await self._driver.rename(ref, name)

        self._own(asyncio.create_task(rename(), name=f"rename-{name}"))

    async def _resume(self, row: EnvironmentRow) -> Sandbox:
        ref = SandboxRef(row.sandbox_id or "", row.sandbox_ref or "")
        status = await self._driver.inspect(ref)
        if status.state is SandboxState.UNKNOWN:
            raise EngineUnavailable(status.reason)
        if status.state is SandboxState.ABSENT:
            await self._store.update_environment(row.id, status="lost")
            await self._note(row.id, "sandbox.gone", sandbox_id=ref.sandbox_id, reason="not on the engine any more")
            raise SandboxGone(
                f"The sandbox of environment {row.id} is gone from the engine, and its files with it. "
                "Delete the environment and start a new one."
            )
        spec = read_spec(row)
        sandbox = await self._reconnect(ref, spec, status.state)
        if row.status == "pending":  # its start was cut off
            await _furnish(sandbox, spec)
        await self._store.update_environment(row.id, status="active", accessed=True)
        await self._note(row.id, "sandbox.started", sandbox_id=ref.sandbox_id, was=status.state.value)
        return sandbox

    async def _reconnect(self, ref: SandboxRef, spec: EnvironmentSpec, state: SandboxState) -> Sandbox:
        for wait_s in _RECONNECT_WAITS_S:
            try:
                if state is not SandboxState.RUNNING:
                    async with self._queue.turn(Urgency.AWAITED):
                        await self._driver.start(ref)
                return await self._connect(ref, spec)
            except SandboxGone:
                # Its guest has just died and the engine has not noticed, or it is just ending.
                await asyncio.sleep(wait_s)
                state = (await self._driver.inspect(ref)).state
        return await self._connect(ref, spec)

    async def _connect(self, ref: SandboxRef, spec: EnvironmentSpec) -> Sandbox:
        link = await Link.open(await self._driver.connect(ref), self._generation)
        return Sandbox(ref, link, _variables(spec))

    async def _undo(self, environment_id: str, ref: SandboxRef, error: BaseException) -> None:
        """A failed start leaves nothing on the engine, or in the store what it takes to try again."""
        reason = error.message if isinstance(error, CorralError) else type(error).__name__
        if ref.token:
            with contextlib.suppress(SandboxError):
                await self._driver.destroy(ref)
                await self._store.update_environment(environment_id, status="pending", sandbox_id="", sandbox_ref="")
        await self._note(environment_id, "sandbox.gone", reason=reason)
        log.warning("sandbox_start_failed", environment_id=environment_id, reason=reason)

    async def _watch(self) -> None:
        """Keeps an eye on the engine for as long as the server lives."""
        while True:
            try:
                await self._driver.open()
                if not await self._driver.has_image(self._defaults.image):
                    log.warning("image_missing", image=self._defaults.image)
                await self._finish_deletions()
                await self._reap()
                async for sandbox_id in self._driver.exits():
                    await self._ended(sandbox_id)
            except SandboxError as error:
                log.warning("engine_unavailable", reason=error.message)
            except Exception:
                # The reconcile boundary: whatever went wrong in one round must not end the watch.
                log.exception("watch_broken")
            await asyncio.sleep(_RETRY_ENGINE_S)

    async def _reap(self) -> None:
        """Destroys sandboxes of ours that no row knows: a crash came between the engine's work and the store's."""
        found = [ref async for ref in self._driver.owned()]
        if not found:
            return
        # Rows last: of what was found, what is not in hand now is either in its row already or nobody's.
        in_hand = self._starting | self._pools.sandbox_ids
        known = in_hand | {row.sandbox_id async for row in self._rows()}
        for ref in found:
            if ref.sandbox_id not in known:
                log.warning("sandbox_reaped", sandbox_id=ref.sandbox_id)
                await self._driver.destroy(ref)

    async def _finish_deletions(self) -> None:
        """Takes up deletions that the engine's or the server's end came in between."""
        async for row in self._rows():
            if row.status == "deleting":
                await self.delete(row)

    async def _rows(self) -> AsyncIterator[EnvironmentRow]:
        """Every environment of every project."""
        after: str | None = None
        while rows := await self._store.environments(None, after=after, limit=_PAGE):
            for row in rows:
                yield row
            after = rows[-1].id

    async def _ended(self, sandbox_id: str) -> None:
        if await self._pools.forget(sandbox_id):
            return
        for environment_id, sandbox in list(self._live.items()):
            if sandbox.ref.sandbox_id == sandbox_id:
                status = await self._driver.inspect(sandbox.ref)
                if status.state is SandboxState.RUNNING:
                    continue  # the event is late: it has been started again
                del self._live[environment_id]
                await sandbox.link.aclose()
                await self._store.update_environment(environment_id, status="stopped")
                await self._note(environment_id, "sandbox.stopped", sandbox_id=sandbox_id, reason=status.reason)
                log.info("sandbox_stopped", environment_id=environment_id, reason=status.reason)

    async def _note(self, environment_id: str, kind: str, **fields: object) -> None:
        await self._store.note(environment_id, [NewEvent(kind, encode_json(fields))])


@asynccontextmanager
async def opened(environments: Environments) -> AsyncGenerator[Environments, None]:
    """Opens and closes around a block."""
    await environments.open()
    try:
        yield environments
    finally:
        await environments.aclose()


def read_spec(row: EnvironmentRow) -> EnvironmentSpec:
    """What the environment was asked to be."""
    spec = parse_environment(json.loads(row.spec))
    return spec if spec is not None else EnvironmentSpec()


async def _furnish(sandbox: Sandbox, spec: EnvironmentSpec) -> None:
    inline = [source for source in spec.sources if isinstance(source, InlineSource)]
    await put_sources(sandbox, f"sources-{sandbox.ref.sandbox_id[:8]}", inline)


def _dump(spec: EnvironmentSpec) -> str:
    return json.dumps(spec.model_dump(exclude_none=True, exclude={"environment_id"}))


def _variables(spec: EnvironmentSpec) -> dict[str, str]:
    return {name: variable.value for name, variable in spec.env.items() if variable.value is not None}
