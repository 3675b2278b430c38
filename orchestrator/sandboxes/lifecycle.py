"""How an environment comes to a running sandbox: one that waited, a new one, a fork, or its own found again.

Acts for one environment at a time; who calls holds its lock. Every step is stored before the next is taken, so that
after a crash the next server goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

import structlog

from orchestrator import ids, moments
from orchestrator.clock import Clock
from orchestrator.egress.entry import Entry
from orchestrator.egress.gates import Gates
from orchestrator.errors import (
    CorralError,
    EngineUnavailable,
    NewerGeneration,
    SandboxError,
    SandboxGone,
    SandboxStartFailed,
    StoreError,
)
from orchestrator.sandboxes.driver import (
    Profile,
    SandboxDriver,
    SandboxRef,
    SandboxSpec,
    SandboxState,
    SandboxStatus,
)
from orchestrator.sandboxes.handle import TRUST_SINCE, Sandbox
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.outlet import FIRST_PROTOCOL as OUTLETS_SINCE
from orchestrator.sandboxes.pool import Pools, PoolSettings, Waiting
from orchestrator.sandboxes.sources import SourcePort, put_sources
from orchestrator.sandboxes.specs import held_credentials, parse_profile, read_spec, ref_of, sandbox_spec, variables_of
from orchestrator.sandboxes.stages import Claims
from orchestrator.sandboxes.templates import Templates
from orchestrator.sandboxes.work_queue import Urgency, WorkQueue
from orchestrator.store.port import Store
from orchestrator.store.records import EnvironmentRow, NewEvent
from orchestrator.wire.base import encode_json
from orchestrator.wire.environments import EnvironmentSpec

log = structlog.get_logger(__name__)

_RECONNECT_WAITS_S = (0.05, 0.2, 0.5, 1.0)
_GREETING_S = 10.0
"""A guest answers within milliseconds, a busy one took seconds."""
_GREETINGS = 2
"""So many are left unanswered before a sandbox that runs is taken to hang, and is started anew."""
_SUSPECT_GREETING_S = 5.0
"""Of one that has left a question unanswered before: it may have been the old link that hung."""
_STARTS_AT_ONCE = 6
"""An engine starts most per second with 4 to 8 at a time (design 6). Whole starts: so the first are ready early."""
_ENGINE_PATIENCE_S = 5.0
"""So long an engine may be away before whoever needs a sandbox hears of it: a restart takes one or two seconds."""


@dataclasses.dataclass(slots=True)
class _Made:
    """How far a start has come."""

    ref: SandboxRef
    link: Link | None


class Lifecycle:
    """Starts, resumes and copies sandboxes. `open` fills the pools, `aclose` empties them; other sandboxes stay."""

    def __init__(
        self,
        store: Store,
        driver: SandboxDriver,
        clock: Clock,
        profile: Profile,
        pool: PoolSettings,
        generation: int,
        sources: SourcePort | None,
        *,
        gates: Gates | None,
        watch: Callable[[Sandbox, int], None],
    ) -> None:
        """`sources` and `watch`: see `Templates`."""
        self.queue = WorkQueue(clock, at_once=_STARTS_AT_ONCE, patience_s=_ENGINE_PATIENCE_S)
        self.pools = Pools(driver, clock, pool, self.queue, generation)
        self._store = store
        self._driver = driver
        self._clock = clock
        self._profile = profile
        self._generation = generation
        self._sources = sources
        self._gates = gates
        self.claims: Claims | None = None
        """Who knows which calls are claimed; None: nobody, and no guest's calls are ended for it."""
        self._starting: set[str] = set()
        self._copying: set[str] = set()
        self._templates = Templates(
            store,
            driver,
            self.queue,
            lambda ref: self._connect(ref, EnvironmentSpec()),
            sources,
            let_out=self._let_out,
            watch=watch,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._undoing: set[asyncio.Task[None]] = set()
        self._has_let_go = False

    def open(self) -> None:
        """Begins to fill the pool of the server's own profile."""
        self.pools.open(self._profile)

    def let_go(self) -> None:
        """The server ends: starts that are broken off from now on leave what they have made to the next one."""
        self._has_let_go = True

    async def aclose(self) -> None:
        """Ends what is under way and destroys what waits."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pools.aclose()
        moments.passed("stop.pool_destroyed")
        await self.queue.aclose()
        await asyncio.gather(*self._undoing, return_exceptions=True)

    @property
    def sandbox_ids(self) -> set[str]:
        """Sandboxes that are being made or bound, or wait: not to be reaped."""
        return self._starting | self._templates.sandbox_ids | self.pools.sandbox_ids

    @property
    def snapshots(self) -> set[str]:
        """Snapshots that are being made or are templates in use: not to be reaped."""
        return self._copying | self._templates.snapshots

    # a sandbox for an environment

    async def start(self, row: EnvironmentRow) -> Sandbox:
        """The environment's first sandbox: one that waited if a plain one is wanted, else a new one.

        Raises:
            EngineUnavailable, ImageMissing, SandboxStartFailed: nothing is left of it, and it may be tried again.
        """
        spec = read_spec(row)
        started = self._clock.monotonic()
        # An id without a ref: an earlier start was cut off, and the engine may have gone further than the store.
        is_plain = not (row.sandbox_id or row.snapshot or row.template)
        waiting = await self.pools.claim(self.profile_of(row)) if is_plain else None
        ref = waiting.ref if waiting is not None else SandboxRef(row.sandbox_id or ids.new_sandbox_id(), "")
        made = _Made(ref, waiting.link if waiting is not None else None)
        # Until the start has come to its end, well or not: the row may need the snapshot again.
        self._starting.add(ref.sandbox_id)
        self._copying.add(row.snapshot or "")
        try:
            if waiting is not None:
                sandbox = await self._bind(row, waiting, spec)
            else:
                sandbox = await self._make(row, made, spec)
            await self._complete(row, sandbox, spec)
        except BaseException as error:
            undoing = asyncio.create_task(self._undo(row, made, error), name=f"undo-{ref.sandbox_id}")
            self._undoing.add(undoing)
            undoing.add_done_callback(self._undoing.discard)
            undoing.add_done_callback(lambda _undone: self._has_started(row, ref))
            await asyncio.shield(undoing)
            raise
        self._has_started(row, ref)
        self._let_go_of(row.snapshot)
        duration_ms = round((self._clock.monotonic() - started) * 1000, 1)
        told = {"duration_ms": duration_ms, "from_pool": waiting is not None}
        await self._note_start(row, sandbox, "sandbox.started", **told)
        log.info("sandbox_started", environment_id=row.id, **told)
        return sandbox

    async def _make(self, row: EnvironmentRow, made: _Made, spec: EnvironmentSpec) -> Sandbox:
        profile, sandbox_id = self.profile_of(row), made.ref.sandbox_id
        begins_with = row.snapshot or (
            await self._templates.ready(row.template, profile, row.project_id) if row.template else ""
        )
        wanted = sandbox_spec(sandbox_id, profile, row.id, begins_with)
        await self.note(row.id, "sandbox.starting", sandbox_id=sandbox_id, image=profile.image)
        await self._store.update_environment(row.id, sandbox_id=sandbox_id)
        moments.passed("start.named")
        return await self._create(row, made, wanted, spec)

    async def _create(self, row: EnvironmentRow, made: _Made, wanted: SandboxSpec, spec: EnvironmentSpec) -> Sandbox:
        """Makes what is wanted and links it; `made` and the row say how far that has come."""
        async with self.queue.turn(Urgency.AWAITED):
            async with contextlib.aclosing(self._driver.create(wanted)) as stages:
                async for made.ref in stages:
                    moments.passed("start.created")
                    await self._store.update_environment(row.id, sandbox_ref=made.ref.token)
                    moments.passed("start.kept")
            moments.passed("start.running")
            sandbox = await self._connect(made.ref, spec)
            made.link = sandbox.link
            moments.passed("start.linked")
        return sandbox

    def _has_started(self, row: EnvironmentRow, ref: SandboxRef) -> None:
        self._starting.discard(ref.sandbox_id)
        self._copying.discard(row.snapshot or "")

    async def resume(self, row: EnvironmentRow, *, is_suspect: bool = False) -> Sandbox:
        """The sandbox that the row names: found again, started again if it has ended, or made again around its files.

        One that does not answer is started anew; `is_suspect`: it has not answered before.

        Raises:
            EngineUnavailable: nobody knows. SandboxGone: it vanished, and the files with it; or, `retryable`, it does
                not answer.
        """
        ref = ref_of(row)
        status = await self._driver.inspect(ref)
        moments.passed("resume.inspected")
        if status.state is SandboxState.UNKNOWN:
            raise EngineUnavailable(status.reason)
        if row.status == "pending" and status.state not in (SandboxState.RUNNING, SandboxState.PAUSED):
            # Its first start was cut off, or undone and the store not told: what is there is taken up, be it nothing.
            return await self.start(dataclasses.replace(row, sandbox_ref=None))
        if status.state is SandboxState.ABSENT and not status.has_files:
            if row.status != "lost":
                await self._store.update_environment(row.id, status="lost")
                await self.note(row.id, "sandbox.gone", sandbox_id=ref.sandbox_id, reason="not on the engine any more")
            raise SandboxGone(
                f"The sandbox of environment {row.id} is gone from the engine, and its files with it. "
                "Delete the environment and start a new one."
            )
        try:
            sandbox = await self._find_again(row, ref, status, is_suspect=is_suspect)
        except SandboxGone as error:
            # Its files are there: only what runs around them does not answer.
            raise SandboxGone(error.message, retryable=True) from error
        self._let_go_of(row.snapshot)
        return sandbox

    async def _find_again(
        self, row: EnvironmentRow, ref: SandboxRef, status: SandboxStatus, *, is_suspect: bool
    ) -> Sandbox:
        spec = read_spec(row)
        if status.state is SandboxState.ABSENT:
            sandbox = await self._make_again(row, spec)
        else:
            sandbox = await self._reconnect(row, ref, status.state, spec, is_suspect=is_suspect)
        moments.passed("resume.linked")
        try:
            await self._settle_calls(row.id, sandbox)
            await self._complete(row, sandbox, spec)
        except BaseException:
            await asyncio.shield(sandbox.aclose())
            raise
        is_same = sandbox.guest_id == row.guest_id
        kind = "sandbox.linked" if is_same else "sandbox.restored" if row.guest_id else "sandbox.started"
        await self._note_start(row, sandbox, kind, was=status.state.value, reason=status.reason)
        return sandbox

    async def _make_again(self, row: EnvironmentRow, spec: EnvironmentSpec) -> Sandbox:
        """Around the files of a sandbox that somebody removed from the engine."""
        wanted = sandbox_spec(row.sandbox_id or "", self.profile_of(row), row.id, "")
        return await self._create(row, _Made(ref_of(row), None), wanted, spec)

    async def _settle_calls(self, environment_id: str, sandbox: Sandbox) -> None:
        """Ends and forgets the calls in its guest's book that nobody will ask for: who made them is gone."""
        if self.claims is None or not sandbox.link.calls:
            return
        await sandbox.settle(await self.claims(environment_id))

    def profile_of(self, row: EnvironmentRow) -> Profile:
        """What the environment's sandbox may take and where it runs."""
        return self._profile if row.profile is None else parse_profile(row.profile)

    async def _bind(self, row: EnvironmentRow, waiting: Waiting, spec: EnvironmentSpec) -> Sandbox:
        # From this write on the sandbox is the environment's, whatever happens to us.
        ref = waiting.ref
        moments.passed("pool.claimed")
        await self._store.update_environment(row.id, sandbox_id=ref.sandbox_id, sandbox_ref=ref.token)
        moments.passed("claim.kept")
        # People who list containers find the environment by name; no call needs to wait for that.
        self._own(self._driver.rename(ref, row.id), f"rename-{row.id}")
        return Sandbox(ref, waiting.link, variables_of(spec))

    async def _complete(self, row: EnvironmentRow, sandbox: Sandbox, spec: EnvironmentSpec) -> None:
        """Opens its way out, puts sources in place unless the files that it began with hold them. From here on it needs
        no snapshot.
        """
        await self._let_out(sandbox, row.id, spec, row.project_id, row.traffic_bytes)
        if row.status == "pending" and not row.snapshot:
            await put_sources(sandbox, spec, row.project_id, self._sources)
            moments.passed("start.furnished")
        await self._store.update_environment(
            row.id, status="active", target="", snapshot="", guest_id=sandbox.guest_id, accessed=True
        )
        moments.passed("start.active")

    async def _let_out(
        self, sandbox: Sandbox, environment_id: str, spec: EnvironmentSpec, project_id: str, used_bytes: int = 0
    ) -> None:
        """Where there is none, the sandbox's programs reach nobody: it has no other way. Raises `SandboxStartFailed`
        if it cannot be set up, or the server's authority not be trusted where it must be.
        """

        def tell(reason: str) -> None:
            log.warning("sandbox_no_way_out", environment_id=environment_id, reason=reason)
            self._own(self.note(environment_id, "sandbox.no_way_out", reason=reason), f"note-{environment_id}")

        if self._gates is None:
            return
        if sandbox.link.protocol < OUTLETS_SINCE:
            tell("its guest is of an earlier release; it has one when the sandbox is next started")
            return
        gate = self._gates.gate(environment_id, spec.network, project_id, held_credentials(spec), used_bytes=used_bytes)
        if gate.authority_pem and sandbox.link.protocol < TRUST_SINCE:
            tell("its guest is of an earlier release; what must be read does not get out until it is next started")
        elif gate.authority_pem:
            await sandbox.trust(gate.authority_pem)
        await sandbox.let_out(Entry(gate), self._gates.port, tell)

    async def _note_start(self, row: EnvironmentRow, sandbox: Sandbox, kind: str, **told: object) -> None:
        """What is done is done, whether its entry can be written or not; who is cancelled here leaves no link."""
        try:
            await self.note(row.id, kind, sandbox_id=sandbox.ref.sandbox_id, **told)
        except StoreError as error:
            log.warning("start_not_noted", environment_id=row.id, reason=error.message)
        except asyncio.CancelledError:
            await asyncio.shield(sandbox.aclose())
            raise

    def _let_go_of(self, snapshot: str | None) -> None:
        """Nobody needs to wait for that, and the reaper drops what could not be dropped."""
        if snapshot is not None:
            self._own(self._driver.drop_snapshot(snapshot), f"drop-{snapshot}")

    def _own(self, work: Coroutine[None, None, None], name: str) -> None:
        """Carries out work whose failure changes nothing for anybody."""

        async def carry_out() -> None:
            with contextlib.suppress(SandboxError):
                await work

        task = asyncio.create_task(carry_out(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reconnect(
        self, row: EnvironmentRow, ref: SandboxRef, state: SandboxState, spec: EnvironmentSpec, *, is_suspect: bool
    ) -> Sandbox:
        patience_s, greetings_left = (_SUSPECT_GREETING_S, 1) if is_suspect else (_GREETING_S, _GREETINGS)
        for wait_s in _RECONNECT_WAITS_S:
            try:
                if state is SandboxState.PAUSED:
                    await self._driver.resume(ref)
                elif state is not SandboxState.RUNNING:
                    async with self.queue.turn(Urgency.AWAITED):
                        await self._driver.start(ref)
                moments.passed("resume.started")
                return await self._connect(ref, spec, patience_s)
            except TimeoutError:
                greetings_left -= 1
                if greetings_left == 0:
                    log.warning("sandbox_unresponsive", environment_id=row.id)
                    await self.note(row.id, "sandbox.unresponsive", sandbox_id=ref.sandbox_id)
                    await self._driver.stop(ref)
            except (SandboxGone, SandboxStartFailed) as error:
                # Its guest has just died and the engine has not noticed, or it is just ending, or being removed.
                log.info("sandbox_not_linked", environment_id=row.id, state=state.value, reason=error.message)
                await asyncio.sleep(wait_s)
            state = (await self._driver.inspect(ref)).state
            if state is SandboxState.ABSENT:
                raise SandboxGone(f"The sandbox of environment {row.id} was just removed.")
        return await self._connect(ref, spec)

    async def _connect(self, ref: SandboxRef, spec: EnvironmentSpec, patience_s: float | None = None) -> Sandbox:
        """Raises `TimeoutError` after `patience_s` without an answer of the guest; None is the link's own patience."""
        try:
            link = await self._link(ref, patience_s)
        except NewerGeneration as error:
            # The database is from a backup: whoever holds the data folder is the newest there is.
            self._generation = max(self._generation, await self._store.raise_generation(error.generation))
            link = await self._link(ref, patience_s)
        return Sandbox(ref, link, variables_of(spec))

    async def _link(self, ref: SandboxRef, patience_s: float | None) -> Link:
        stream = await self._driver.connect(ref)
        async with asyncio.timeout(patience_s):
            return await Link.open(stream, self._generation)

    async def _undo(self, row: EnvironmentRow, made: _Made, error: BaseException) -> None:
        """A failed start leaves nothing on the engine, and in the store what it takes to try again.

        The store is told first: what it does not know of is reaped, what it wrongly believes in is lost. At the end of
        the server nothing is undone that the store knows.
        """
        reason = error.message if isinstance(error, CorralError) else type(error).__name__
        log.warning("sandbox_start_failed", environment_id=row.id, reason=reason)
        if made.link is not None:
            await made.link.aclose()
        # The first error is the one to be told; what this leaves behind is found when the environment is next used.
        with contextlib.suppress(CorralError):
            if self._has_let_go and await self._is_known(row.id, made.ref):
                return
            if made.ref.token:
                # The snapshot again: the write that gave it up may have come through.
                await self._store.update_environment(row.id, status="pending", snapshot=row.snapshot)
                await self._driver.destroy(made.ref)
                await self._store.update_environment(row.id, sandbox_id="", sandbox_ref="")
            await self.note(row.id, "sandbox.gone", reason=reason)

    async def _is_known(self, environment_id: str, ref: SandboxRef) -> bool:
        row = await self._store.environment(None, environment_id)
        return row is not None and row.sandbox_id == ref.sandbox_id

    # snapshots

    @contextlib.asynccontextmanager
    async def copied(self, row: EnvironmentRow, name: str) -> AsyncGenerator[None, None]:
        """A snapshot of the environment's sandbox under `name`, safe from the reaper within the block.

        If the block fails the snapshot is dropped; if it is cancelled the reaper finds out whether a row has it. Raises
        what `SandboxDriver.snapshot` raises.
        """
        self._copying.add(name)
        ref = ref_of(row)
        try:
            # Where nothing holds the limit, holes count: a copy may write them out.
            written_bytes = await self._driver.written_bytes(ref)
            if written_bytes is not None and written_bytes > self.profile_of(row).resources.disk_bytes:
                raise SandboxStartFailed("the sandbox has written more than its disk may hold", stage="snapshot")
            await self._driver.snapshot(ref, name)
            moments.passed("fork.copied")
            yield
            moments.passed("fork.stored")
        except CorralError:
            with contextlib.suppress(SandboxError):
                await asyncio.shield(self._driver.drop_snapshot(name))
            raise
        finally:
            self._copying.discard(name)

    @contextlib.contextmanager
    def sparing(self, name: str) -> Generator[None, None, None]:
        """Within the block the reaper leaves a snapshot alone, whether a row has it or not."""
        is_spared = name in self._copying
        self._copying.add(name)
        try:
            yield
        finally:
            if not is_spared:
                self._copying.discard(name)

    async def note(self, environment_id: str, kind: str, **fields: object) -> None:
        """Writes into the environment's log, for operators."""
        await self._store.note(environment_id, [NewEvent(kind, encode_json(fields))])
