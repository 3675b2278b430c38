"""Environments and the sandboxes that embody them: made at first use, found again after a restart, removed on request.

The store remembers, the driver acts; after a crash every step here may be taken again (design 4.1). What is linked is
in `roster.py`, how a sandbox comes about in `lifecycle.py`, what becomes of one that nobody uses in `stages.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from orchestrator import ids, moments
from orchestrator.clock import Clock
from orchestrator.egress.gates import Gates
from orchestrator.errors import (
    Conflict,
    CorralError,
    EngineUnavailable,
    LimitExceeded,
    NotFound,
    SandboxError,
    SandboxGone,
)
from orchestrator.sandboxes.disk_watch import DiskWatch
from orchestrator.sandboxes.driver import Profile, SandboxDriver, SandboxRef, SandboxState
from orchestrator.sandboxes.files import measure_soon
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.lifecycle import Lifecycle
from orchestrator.sandboxes.pool import PoolSettings
from orchestrator.sandboxes.reconciler import Deeds, Reconciler
from orchestrator.sandboxes.roster import Roster
from orchestrator.sandboxes.sources import SourcePort, may_reach
from orchestrator.sandboxes.specs import (
    dump_profile,
    dump_spec,
    held_credentials,
    is_preserved,
    parse_spec,
    preserved_name,
    read_spec,
    ref_of,
    template_name,
    variables_of,
)
from orchestrator.sandboxes.stages import Claims, Stages, StageSettings
from orchestrator.sandboxes.uses import Uses
from orchestrator.store.port import Store
from orchestrator.store.records import EnvironmentRow
from orchestrator.wire.environments import EnvironmentSpec, EnvVar, SandboxReach
from orchestrator.wire.network import Network, NetworkRules

log = structlog.get_logger(__name__)

_FIRST_ANSWER_S = 2.0
"""So long the start of the server waits for the engine."""


@dataclass(frozen=True, slots=True)
class SandboxDefaults:
    """What new sandboxes are made of."""

    profile: Profile
    max_per_project: int
    pool: PoolSettings
    stages: StageSettings = StageSettings()  # noqa: RUF009 - frozen


class Reached(NamedTuple):
    """What a model cannot see of the way out."""

    reach: SandboxReach
    domains: Sequence[str]
    """Of the allowlist."""
    granted: Sequence[str]
    """Those of them whose requests get a credential on the way."""
    placeholders: Sequence[str]
    """Variables that hold placeholders."""


class Environments:
    """All environments of this server. `open` before use, `aclose` at the end; sandboxes stay."""

    def __init__(
        self,
        store: Store,
        driver: SandboxDriver,
        clock: Clock,
        defaults: SandboxDefaults,
        generation: int,
        sources: SourcePort | None = None,
        gates: Gates | None = None,
    ) -> None:
        """Without `sources` environments can have inline ones only; without `gates` their sandboxes reach nobody."""
        self._store = store
        self._driver = driver
        self._clock = clock
        self._defaults = defaults
        self._roster = Roster()
        self._uses = Uses(clock)
        self._gates = gates
        self._disk_watch = DiskWatch(driver)
        self._lifecycle = Lifecycle(
            store,
            driver,
            clock,
            defaults.profile,
            defaults.pool,
            generation,
            sources,
            gates=gates,
            watch=self._disk_watch.add,
        )
        self._stages = Stages(store, driver, self._lifecycle.queue, self._roster, self._uses, clock, defaults.stages)
        deeds = Deeds(self._finish_deletion, self._expire, self._ended)
        self._reconciler = Reconciler(
            store, driver, self._lifecycle, self._stages, self._roster, defaults.profile.image, deeds
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._creating = asyncio.Lock()
        self._changing = asyncio.Lock()

    @property
    def claims(self) -> Claims | None:
        """Asked for the calls of an environment that runs still want, whenever a link to its guest is opened: all
        others that the guest has are ended. Where there are any, the sandbox is in use. None: nothing is ended.
        """
        return self._lifecycle.claims

    @claims.setter
    def claims(self, claims: Claims | None) -> None:
        self._lifecycle.claims = self._stages.claims = claims

    async def open(self) -> None:
        """Connects to the engine if it answers soon; from then on a reconciler keeps rows and engine in agreement, and
        goes on trying if it does not.
        """
        try:
            async with asyncio.timeout(_FIRST_ANSWER_S):
                await self._driver.open()
        except TimeoutError:
            log.warning("engine_unavailable", reason=f"no answer within {_FIRST_ANSWER_S:.0f} s")
        except SandboxError as error:
            log.warning("engine_unavailable", reason=error.message)
        self._lifecycle.open()
        self._reconciler.open()
        self._disk_watch.open()

    def let_go(self) -> None:
        """The server ends: calls that are cancelled from now on go on inside, for the next server to follow, and what
        has been made of a sandbox that is being started is left to it.
        """
        self._lifecycle.let_go()
        for sandbox in self._roster.sandboxes:
            sandbox.link.let_go()

    async def aclose(self) -> None:
        """Closes all links; what runs inside goes on."""
        self._lifecycle.let_go()
        await self._disk_watch.aclose()
        await self._reconciler.aclose()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lifecycle.aclose()
        for sandbox in self._roster.sandboxes:
            await sandbox.aclose()
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
        that holds the sources of `base`, in which its setup ran, and is built once for all of them.

        Raises:
            LimitExceeded: the project has as many as it may.
        """
        async with self.drafted(project_id, spec, profile=profile, base=base) as (row, files):
            await self._store.create_environment(row, files)
        return row

    @asynccontextmanager
    async def drafted(
        self,
        project_id: str,
        spec: EnvironmentSpec,
        *,
        profile: Profile | None = None,
        base: EnvironmentSpec | None = None,
        snapshot: str | None = None,
    ) -> AsyncGenerator[tuple[EnvironmentRow, str | None], None]:
        """As `create`, for who stores the row with something else: within the block, as
        `Store.create_environment(row, base)` would. With `snapshot` it begins with what was `preserved`.
        """
        row = self._new_row(project_id, dump_spec(spec))
        if profile is not None:
            row = replace(row, profile=dump_profile(profile))
        files: str | None = None
        if base is not None and (base.sources or base.setup):
            files = dump_spec(base)
            row = replace(row, template=template_name(self._lifecycle.profile_of(row), base, project_id))
        elif snapshot is not None:
            row = replace(row, template=snapshot)
        async with self._room(project_id):
            yield row, files
        await self._lifecycle.note(row.id, "environment.created", project=project_id)

    async def fork(
        self, parent: EnvironmentRow, network: Network | None = None, env: Mapping[str, EnvVar] | None = None
    ) -> EnvironmentRow:
        """A new environment that begins with the files of `parent` as they are now; from here on neither sees what the
        other does. A running parent goes on; its processes and variables of Python stay its own.

        `network` replaces the parent's rules, `env` comes on top of its variables. May be repeated: each call makes
        another fork.

        Raises:
            LimitExceeded: the project has as many as it may.
            NotFound: the parent was deleted. Conflict: its files are gone.
            SandboxError: the platform failed; nothing was made.
        """
        with self._uses.hold(parent.id):
            try:
                return await self._fork(parent, network, env or {})
            except SandboxGone:
                # Somebody removed it from the engine: it is made again around its files, if they are there.
                await self.sandbox(parent.id)
                return await self._fork(parent, network, env or {})

    async def _fork(self, parent: EnvironmentRow, network: Network | None, env: Mapping[str, EnvVar]) -> EnvironmentRow:
        await self._check_room(parent.project_id)
        if parent.status == "pending" and (parent.sandbox_ref or parent.snapshot):
            await self.sandbox(parent.id)  # its files are not complete before it has started once
        async with self._roster.lock(parent.id):
            fresh = await self._store.environment(None, parent.id)
            if fresh is None or fresh.status == "deleting":
                raise NotFound(f"Environment {parent.id!r} not found.")
            if fresh.status == "lost":
                raise Conflict(f"The files of environment {parent.id!r} are gone; it cannot be forked.")
            spec = _changed(read_spec(fresh), network, env)
            row = replace(
                self._new_row(fresh.project_id, dump_spec(spec)),
                profile=fresh.profile,
                template=fresh.template,
                file_count=fresh.file_count,
                size_bytes=fresh.size_bytes,
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

    @asynccontextmanager
    async def preserved(self, project_id: str, environment_id: str) -> AsyncGenerator[str, None]:
        """The name of a snapshot of the environment's files as they are now, for a version of an agent. It is there
        within the block, and from then on for as long as the store has a version with it.

        An environment that nobody has used is started for it.

        Raises:
            NotFound: the project has no such environment. Conflict: its files are gone.
            SandboxError: the platform failed; nothing was kept.
        """
        row = await self.find(project_id, environment_id)
        name = preserved_name(ids.new_environment_id())
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._uses.hold(row.id))
            if row.status == "pending":
                await self.sandbox(row.id)
            try:
                await stack.enter_async_context(self._copied(row.id, name))
            except SandboxGone:
                # As in `fork`.
                await self.sandbox(row.id)
                await stack.enter_async_context(self._copied(row.id, name))
            yield name

    @contextmanager
    def sparing(self, snapshot: str) -> Generator[None, None, None]:
        """Within the block nobody drops what was `preserved`: its name is being stored once more."""
        with self._lifecycle.sparing(snapshot):
            yield

    @asynccontextmanager
    async def _copied(self, environment_id: str, name: str) -> AsyncGenerator[None, None]:
        async with self._roster.lock(environment_id):
            row = await self._store.environment(None, environment_id)
            if row is None or row.status == "deleting":
                raise NotFound(f"Environment {environment_id!r} not found.")
            if row.status == "lost":
                raise Conflict(f"The files of environment {environment_id!r} are gone.")
            async with self._lifecycle.copied(row, name):
                yield

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

    @asynccontextmanager
    async def _room(self, project_id: str) -> AsyncGenerator[None, None]:
        """For one more. One at a time: between the count and the insert nobody else may come in."""
        async with self._creating:
            await self._check_room(project_id)
            yield

    async def _insert(self, row: EnvironmentRow) -> None:
        async with self._room(row.project_id):
            await self._store.create_environment(row)

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
        """Adds the variables of `spec` to an existing environment, which hold from the next call on, and replaces its
        network rules if `spec` has some: what they do not allow is cut. Its files stay.
        """
        if not spec.env and spec.network is None:
            return
        # One at a time: what others have added since is not to be lost.
        async with self._changing:
            fresh = await self._store.environment(None, row.id)
            merged = _changed(read_spec(fresh if fresh is not None else row), spec.network, spec.env)
            await self._store.update_environment(row.id, spec=dump_spec(merged))
            if self._gates is not None and self._gates.living(row.id) is not None:
                self._gates.gate(row.id, merged.network, row.project_id, held_credentials(merged))
        sandbox = self._roster.linked(row.id)
        if sandbox is not None:
            sandbox.variables.update(variables_of(spec))

    def reach(self, network: Network | None) -> SandboxReach:
        """Whom programs in sandboxes of environments with these rules reach."""
        if self._gates is None or network == "disabled" or (network is not None and not network.allowlist):
            return "none"
        return "open" if network is None else "allowlist"

    async def reached(self, environment_id: str) -> Reached:
        """Whom programs in the environment's sandbox reach, and as whom."""
        row = await self._store.environment(None, environment_id)
        spec = read_spec(row) if row is not None else EnvironmentSpec()
        rules = spec.network.allowlist if isinstance(spec.network, NetworkRules) else []
        return Reached(
            self.reach(spec.network),
            [rule.domain for rule in rules],
            [rule.domain for rule in rules if rule.credential is not None],
            [name for name, each in spec.env.items() if each.credential is not None],
        )

    @property
    def image(self) -> str:
        """What sandboxes are made from."""
        return self._defaults.profile.image

    async def may_hold(self, environment_id: str, places: Sequence[str]) -> bool:
        """Whether an environment may have files at or below one of `places`, absolute paths. Starts nothing.

        One whose sandbox was never made has what its sources and those of its template put there.
        """
        row = await self._store.environment(None, environment_id)
        if row is None or row.sandbox_id or row.sandbox_ref or row.snapshot:
            return True
        if is_preserved(row.template):
            return True
        specs = [read_spec(row)]
        if row.template is not None:
            base = await self._store.template(row.template)
            specs += [parse_spec(base)] if base is not None else []
        return any(may_reach(source, places) for spec in specs for source in spec.sources)

    async def measured(self, row: EnvironmentRow) -> EnvironmentRow:
        """The row with how much the environment holds now, if its sandbox runs and tells soon; else as it was told
        last.

        Nothing is started, and it is no use of the environment.
        """
        sandbox = self._roster.ready(row.id)
        total = await measure_soon(sandbox) if sandbox is not None else None
        if total is None:
            return row
        if (total.files, total.size_bytes) != (row.file_count, row.size_bytes):
            await self._store.note_size(row.id, file_count=total.files, size_bytes=total.size_bytes)
        return replace(row, file_count=total.files, size_bytes=total.size_bytes)

    def expires(self, row: EnvironmentRow) -> datetime | None:
        """When the environment is deleted unless it is used before; None: never."""
        after_s = self._defaults.stages.delete_after_s
        return row.last_accessed + timedelta(seconds=after_s) if after_s else None

    @contextmanager
    def hold(self, environment_id: str, interaction_id: str = "") -> Generator[None, None, None]:
        """The environment is in use for as long as the block lasts: its sandbox is neither paused nor stopped, and it
        is not deleted because nobody used it. Both ends are remembered as uses of it. What goes out meanwhile is told
        of with the interaction, if it is one that uses it.
        """
        self._touch_soon(environment_id)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._uses.hold(environment_id))
                if interaction_id and self._gates is not None:
                    stack.enter_context(self._gates.during(environment_id, interaction_id))
                yield
        finally:
            self._touch_soon(environment_id)

    async def sandbox(self, environment_id: str) -> Sandbox:
        """The environment's running sandbox: the one that is there, started again, found again, or a new one.

        Whoever needs it for longer than a moment holds the environment.

        Raises:
            NotFound: the environment was deleted.
            EngineUnavailable, ImageMissing, SandboxStartFailed: it cannot be started now.
            SandboxGone: it vanished from the engine, and the files with it; or, `retryable`, it does not answer.
        """
        self._uses.renew(environment_id)
        ready = self._roster.ready(environment_id)
        if ready is not None:
            return ready
        return await self._lifecycle.queue.do(environment_id, lambda: self._embody(environment_id))

    async def running(self, environment_id: str) -> Sandbox | None:
        """The environment's sandbox if it runs, be it paused; None if there is none, or it has ended: nothing is
        started.

        Raises:
            EngineUnavailable: nobody knows. SandboxGone: it does not answer.
        """
        ready = self._roster.ready(environment_id)
        row = None if ready is not None else await self._store.environment(None, environment_id)
        if row is None or not row.sandbox_ref or row.status in ("pending", "deleting"):
            return ready
        status = await self._driver.inspect(ref_of(row))
        if status.state is SandboxState.UNKNOWN:
            raise EngineUnavailable(status.reason)
        is_there = status.state in (SandboxState.RUNNING, SandboxState.PAUSED)
        return await self.sandbox(environment_id) if is_there else None

    async def _embody(self, environment_id: str) -> Sandbox:
        async with self._roster.lock(environment_id):
            ready = self._roster.ready(environment_id)
            if ready is not None:
                return ready
            row = await self._store.environment(None, environment_id)
            if row is None or row.status == "deleting":
                raise NotFound(f"Environment {environment_id!r} not found.")
            linked = self._roster.linked(environment_id)
            is_suspect = linked is not None and linked.link.is_unresponsive
            if linked is not None and linked.is_connected and await self._thaw(row, linked):
                return linked
            await self._roster.drop(environment_id)
            if row.sandbox_ref:
                sandbox = await self._lifecycle.resume(row, is_suspect=is_suspect)
            else:
                sandbox = await self._lifecycle.start(row)
            self._roster.add(environment_id, sandbox)
            self._disk_watch.add(sandbox, self._lifecycle.profile_of(row).resources.disk_bytes)
            return sandbox

    async def _thaw(self, row: EnvironmentRow, sandbox: Sandbox) -> bool:
        """Makes a paused sandbox go on; False if it does not, or has not been paused at all but has ended."""
        try:
            await self._driver.resume(sandbox.ref)
        except SandboxGone:
            return False
        if not sandbox.is_connected:
            return False
        await self._store.update_environment(row.id, status="active", target="", accessed=True)
        await self._lifecycle.note(row.id, "sandbox.resumed", sandbox_id=sandbox.ref.sandbox_id)
        self._roster.add(row.id, sandbox)
        return True

    def prepare(self, environment_id: str) -> None:
        """Begins to start the sandbox while the model still thinks. A failure comes again to whoever needs it."""
        if self._roster.ready(environment_id) is None:
            self._own(asyncio.create_task(self._prepare(environment_id), name=f"prepare-{environment_id}"))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, environment_id: str) -> None:
        with contextlib.suppress(CorralError):
            await self.sandbox(environment_id)

    async def delete(self, row: EnvironmentRow) -> None:
        """Removes the sandbox with its files, then the row. May be repeated. Raises `EngineUnavailable`."""
        async with self._roster.lock(row.id):
            await self._store.update_environment(row.id, status="deleting")
            moments.passed("delete.marked")
            await self._roster.drop(row.id)
            fresh = await self._store.environment(None, row.id)
            if fresh is not None and fresh.sandbox_id:
                await self._destroy(fresh.sandbox_id, fresh.sandbox_ref)
            if fresh is not None and fresh.snapshot:
                await self._driver.drop_snapshot(fresh.snapshot)
            moments.passed("delete.destroyed")
            await self._store.delete_environment(row.id)
            moments.passed("delete.done")
        self._roster.forget(row.id)
        self._uses.forget(row.id)
        if self._gates is not None:
            self._gates.forget(row.id)
        log.info("environment_deleted", environment_id=row.id)

    async def _destroy(self, sandbox_id: str, token: str | None) -> None:
        """Without a token a crash cut the start off: the engine may have made the sandbox, or not."""
        if token:
            await self._driver.destroy(SandboxRef(sandbox_id, token))
            return
        async for found in self._driver.owned():
            if found.ref.sandbox_id == sandbox_id:
                await self._driver.destroy(found.ref)

    async def _finish_deletion(self, environment_id: str) -> None:
        row = await self._store.environment(None, environment_id)
        if row is not None:
            await self.delete(row)

    async def _expire(self, environment_id: str) -> None:
        """Deletes an environment that nobody has used for long, and nobody uses now."""
        row = await self._store.environment(None, environment_id)
        if row is not None and not self._uses.is_held(environment_id):
            log.info("environment_expired", environment_id=environment_id, last_accessed=row.last_accessed.isoformat())
            await self.delete(row)

    def _touch_soon(self, environment_id: str) -> None:
        """Remembers that the environment was used now. Nobody waits for that, or fails of it."""
        self._own(asyncio.create_task(self._touch(environment_id), name=f"touch-{environment_id}"))

    async def _touch(self, environment_id: str) -> None:
        with contextlib.suppress(CorralError):
            await self._store.update_environment(environment_id, accessed=True)

    async def _ended(self, sandbox_id: str) -> None:
        if await self._lifecycle.pools.forget(sandbox_id):
            return
        environment_id = self._roster.environment_of(sandbox_id)
        if environment_id is None:
            self._reconciler.look_again()
        else:
            # A task: whoever holds the lock may be long, and other ends are reported behind this one.
            self._own(asyncio.create_task(self._take_note(environment_id), name=f"ended-{environment_id}"))

    async def _take_note(self, environment_id: str) -> None:
        try:
            await self._stages.look_at(environment_id)
        except CorralError as error:
            log.warning("sandbox_end_not_stored", environment_id=environment_id, reason=error.message)


def _changed(spec: EnvironmentSpec, network: Network | None, env: Mapping[str, EnvVar]) -> EnvironmentSpec:
    """`network` replaces the rules as a whole (reference, 2.5), `env` comes on top."""
    rules = {"network": network} if network is not None else {}
    return spec.model_copy(update={**rules, "env": {**spec.env, **env}})


@asynccontextmanager
async def opened(environments: Environments) -> AsyncGenerator[Environments, None]:
    """Opens and closes around a block."""
    await environments.open()
    try:
        yield environments
    finally:
        await environments.aclose()
