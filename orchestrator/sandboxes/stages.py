"""The stages of an environment that nobody uses, and how it comes from one to the next:

    active ─► paused ─► stopped ─► deleted          a use leads back to active from everywhere but the last

Each change is stored as a target before the platform is asked, and as a status when it is done: after a crash the next
server finishes what has a target. What the platform did by itself (a sandbox ended, or was paused from outside) is
looked at here, too, so that a row always says what is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from orchestrator import moments
from orchestrator.clock import Clock, JumpWatch
from orchestrator.sandboxes.adoption import status_of
from orchestrator.sandboxes.driver import SandboxDriver, SandboxState
from orchestrator.sandboxes.files import measure_soon
from orchestrator.sandboxes.roster import Roster
from orchestrator.sandboxes.specs import ref_of
from orchestrator.sandboxes.uses import Uses
from orchestrator.sandboxes.work_queue import Urgency, WorkQueue
from orchestrator.store.port import Store
from orchestrator.store.records import EnvironmentRow, NewEvent, SandboxRow
from orchestrator.wire.base import encode_json

log = structlog.get_logger(__name__)

Claims = Callable[[str], Awaitable[set[str]]]
"""Ids of the calls in an environment that somebody will still ask for."""

_LEAST_OBSERVED_S = 600.0
"""A server that has just started does not know yet whether its machine's clock can be believed."""
_CONFIRMED_AFTER_S = 300.0
_CLOCK_JUMP_S = 60.0
_KINDS = {"active": "sandbox.resumed", "paused": "sandbox.paused", "stopped": "sandbox.stopped", "lost": "sandbox.gone"}
"""What an environment's log says of a new status."""


@dataclass(frozen=True, slots=True)
class StageSettings:
    """After how much unused time comes what; 0 is never."""

    pause_after_s: float = 300.0
    stop_after_s: float = 900.0
    delete_after_s: float = 7 * 24 * 3600.0
    sweep_interval_s: float = 15.0
    """How often rows and platform are compared and what is due is done."""


def next_stage(status: str, idle_s: float, settings: StageSettings, *, can_pause: bool) -> str | None:
    """The status that an environment is due for that has been idle so long, or None."""
    if status not in ("active", "paused"):
        return None
    if settings.stop_after_s and idle_s >= settings.stop_after_s:
        return "stopped"
    if status == "active" and can_pause and settings.pause_after_s and idle_s >= settings.pause_after_s:
        return "paused"
    return None


class Expiry:
    """Which environments have been unused for so long that they are deleted, by the time in their rows.

    That is wall time, which may be set to anything, and a deletion is for good: it takes two looks, some minutes apart
    and with no jump of the clock between them, that both find an environment due.
    """

    def __init__(self, clock: Clock, uses: Uses, delete_after_s: float) -> None:
        self._clock = clock
        self._uses = uses
        self._after_s = delete_after_s
        self._due_since: dict[str, float] = {}
        """Monotonic."""
        self._jumps = JumpWatch(clock, _CLOCK_JUMP_S)

    def look(self, rows: Iterable[SandboxRow]) -> list[SandboxRow]:
        """Those of `rows` that are to be deleted now."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        if jump_s := self._jumps.look():
            log.warning("clock_jumped", by_s=round(jump_s))
            self._due_since.clear()
        if not self._after_s or self._uses.observed_s < min(_LEAST_OBSERVED_S, self._after_s):
            return []
        oldest = now - timedelta(seconds=self._after_s)
        due = [row for row in rows if row.last_accessed < oldest and self._uses.idle_s(row.id) > 0]
        self._due_since = {row.id: self._due_since.get(row.id, monotonic) for row in due}
        confirmed = monotonic - min(_CONFIRMED_AFTER_S, self._after_s)
        return [row for row in due if self._due_since[row.id] <= confirmed]

    def future(self, rows: Iterable[SandboxRow]) -> list[SandboxRow]:
        """Those whose last use is yet to come: the clock was set back."""
        latest: datetime = self._clock.now() + timedelta(seconds=_CLOCK_JUMP_S)
        return [row for row in rows if row.last_accessed > latest]


class Stages:
    """Brings environments from stage to stage, one change at a time for each."""

    def __init__(
        self,
        store: Store,
        driver: SandboxDriver,
        queue: WorkQueue,
        roster: Roster,
        uses: Uses,
        clock: Clock,
        settings: StageSettings,
    ) -> None:
        self.claims: Claims | None = None
        """Who knows of calls that go on in a sandbox though nobody holds it yet: their runs wait for their turn."""
        self.settings = settings
        self.expiry = Expiry(clock, uses, settings.delete_after_s)
        self._store = store
        self._driver = driver
        self._queue = queue
        self._roster = roster
        self._uses = uses

    def next(self, environment_id: str, status: str, *, can_pause: bool) -> str | None:
        """The status that an environment is due for now, or None."""
        return next_stage(status, self._uses.idle_s(environment_id), self.settings, can_pause=can_pause)

    async def advance(self, environment_id: str, *, can_pause: bool) -> None:
        """Finishes the change that an environment's row says was begun, or makes the one that it is due for.

        Nothing if somebody needs it by now. May be repeated. Raises `SandboxError`; then the target stands, and it is
        to be called again.
        """
        async with self._queue.turn(Urgency.AHEAD):
            if self._roster.is_busy(environment_id):
                return  # nobody may wait for a lock and have a turn
            async with self._roster.lock(environment_id):
                row = await self._store.environment(None, environment_id)
                if row is None:
                    return
                is_there = row.sandbox_ref is not None and row.status in ("active", "paused")
                target = row.target or self.next(row.id, row.status, can_pause=can_pause)
                is_claimed = self.claims is not None and bool(await self.claims(row.id))
                if is_there and target is not None and not is_claimed and not self._uses.is_held(row.id):
                    await self._change(row, target)
                elif row.target is not None:
                    await self._store.update_environment(row.id, target="")

    async def _change(self, row: EnvironmentRow, target: str) -> None:
        sandbox = self._roster.ready(row.id)
        total = await measure_soon(sandbox) if sandbox is not None else None
        if total is not None:
            await self._store.note_size(row.id, file_count=total.files, size_bytes=total.size_bytes)
        if self._uses.is_held(row.id):
            return  # somebody has come meanwhile
        # From here on whoever needs it waits for the lock, and finds what this has made of it.
        self._roster.set_paused(row.id, True)
        await self._store.update_environment(row.id, target=target)
        moments.passed("stage.target_stored")
        if target == "paused":
            await self._driver.pause(ref_of(row))
            moments.passed("stage.paused")
        else:
            await self._roster.drop(row.id)
            await self._driver.stop(ref_of(row))
            moments.passed("stage.stopped")
        await self._store.update_environment(row.id, status=target, target="")
        moments.passed("stage.stored")
        await self._note(row, target, "unused")

    async def look_at(self, environment_id: str) -> None:
        """Writes down what the platform says of an environment's sandbox; nothing if that is what its row says."""
        async with self._roster.lock(environment_id):
            row = await self._store.environment(None, environment_id)
            if row is None or not row.sandbox_ref or row.status in ("pending", "deleting"):
                return
            found = await self._driver.inspect(ref_of(row))
            status = status_of(found.state, has_files=found.has_files)
            if status is None:
                return
            if status in ("stopped", "lost"):
                await self._roster.drop(environment_id)
            else:
                self._roster.set_paused(environment_id, status == "paused")
            if status != row.status:
                await self._store.update_environment(environment_id, status=status)
                await self._note(row, status, found.reason)
            if found.state is SandboxState.EXITED:
                await self._driver.stop(ref_of(row))  # which lets go of its files

    async def _note(self, row: EnvironmentRow, status: str, reason: str) -> None:
        kind = _KINDS[status]
        log.info(kind.replace(".", "_"), environment_id=row.id, reason=reason)
        body = encode_json({"sandbox_id": row.sandbox_id, "reason": reason})
        await self._store.note(row.id, [NewEvent(kind, body)])
