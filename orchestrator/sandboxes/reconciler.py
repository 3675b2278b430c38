"""Keeps rows and engine in agreement: notices sandboxes that end, brings unused ones to their next stage, finishes what
a crash cut off, removes what no row knows.

Two tasks for as long as the server lives: one listens to the engine, one makes rounds. What they find is a fact about
the engine; what should be is in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat

import structlog

from orchestrator import moments
from orchestrator.errors import CorralError, SandboxError
from orchestrator.sandboxes.adoption import compare
from orchestrator.sandboxes.driver import SandboxDriver, SandboxRef, SandboxState
from orchestrator.sandboxes.lifecycle import Lifecycle
from orchestrator.sandboxes.roster import Roster
from orchestrator.sandboxes.specs import is_preserved
from orchestrator.sandboxes.stages import Stages
from orchestrator.sandboxes.work_queue import Urgency
from orchestrator.store.port import Store
from orchestrator.store.records import SandboxRow

log = structlog.get_logger(__name__)

Work = Callable[[], Awaitable[None]]

_RETRY_ENGINE_S = 2.0
_SECOND_ROUND_S = 5.0
"""After the first: an engine finishes what a server asked it for that was killed meanwhile."""
_LEAST_INTERVAL_S = 0.5
"""Sandboxes that end by themselves often end together."""
_AT_ONCE = 4
"""Fewer than an engine takes: somebody may need a sandbox meanwhile."""


@dataclass(frozen=True, slots=True)
class Deeds:
    """What is done to an environment as a whole, by whoever owns that."""

    delete: Callable[[str], Awaitable[None]]
    """Takes up a deletion."""
    expire: Callable[[str], Awaitable[None]]
    """Begins one, unless it is used after all."""
    ended: Callable[[str], Awaitable[None]]
    """Is told the id of each sandbox that ends."""


class Reconciler:
    """Watches the engine. `open` begins, `aclose` ends."""

    def __init__(
        self,
        store: Store,
        driver: SandboxDriver,
        lifecycle: Lifecycle,
        stages: Stages,
        roster: Roster,
        image: str,
        deeds: Deeds,
    ) -> None:
        self._store = store
        self._driver = driver
        self._lifecycle = lifecycle
        self._stages = stages
        self._roster = roster
        self._image = image
        self._deeds = deeds
        self._can_pause = False
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begins to watch; the first round comes as soon as the engine answers."""
        self._tasks = [
            asyncio.create_task(self._watch(), name="sandbox-watch"),
            asyncio.create_task(self._sweep(), name="sandbox-sweep"),
        ]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def look_again(self) -> None:
        """Something happened that a round finds out about: the next one comes at once."""
        self._wanted.set()

    async def _watch(self) -> None:
        while True:
            try:
                self._can_pause = (await self._driver.open()).can_pause
                if not await self._driver.has_image(self._image):
                    log.warning("image_missing", image=self._image)
                self.look_again()  # of what ended while nobody watched
                async for sandbox_id in self._driver.exits():
                    await self._deeds.ended(sandbox_id)
            except SandboxError as error:
                log.warning("engine_unavailable", reason=error.message)
            except Exception:
                # The reconcile boundary: whatever went wrong once must not end the watch.
                log.exception("watch_broken")
            await asyncio.sleep(_RETRY_ENGINE_S)

    async def _sweep(self) -> None:
        await self._wanted.wait()
        usual_s = self._stages.settings.sweep_interval_s
        for interval_s in chain([min(_SECOND_ROUND_S, usual_s)], repeat(usual_s)):
            self._wanted.clear()
            try:
                await self.round()
            except CorralError as error:
                log.warning("round_broken_off", reason=error.message)
            except Exception:
                # The same boundary: the next round may find everything well.
                log.exception("round_broken")
            await asyncio.sleep(min(_LEAST_INTERVAL_S, interval_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._wanted.wait()

    async def round(self) -> None:
        """One look at everything, and what follows from it. Raises what the store or the driver does."""
        found = [each async for each in self._driver.owned()]
        copies = await self._driver.snapshots()
        # Rows after that, and what is in hand before and after them: of what was found, what is in none of the three
        # is nobody's.
        in_hand = self._lifecycle.sandbox_ids
        known_copies = self._lifecycle.snapshots
        rows = await self._store.sandbox_rows()
        in_hand |= self._lifecycle.sandbox_ids
        moments.passed("adopt.listed")
        differences = compare(found, rows, in_hand)
        expired = {row.id for row in self._stages.expiry.look(rows)}
        work: list[Work] = [partial(self._reap, ref) for ref in differences.orphans]
        for row in rows:
            is_changed, is_expired = row.id in differences.changed, row.id in expired
            if not self._roster.is_busy(row.id) and (is_changed or is_expired or self._is_due(row)):
                work.append(partial(self._settle, row, is_changed=is_changed, is_expired=is_expired))
        work += [
            partial(self._store.update_environment, row.id, accessed=True) for row in self._stages.expiry.future(rows)
        ]
        await self._carry_out(work)
        await self._drop_copies(copies - known_copies)
        moments.passed("adopt.done")

    def _is_due(self, row: SandboxRow) -> bool:
        is_due = self._stages.next(row.id, row.status, can_pause=self._can_pause) is not None
        return is_due or row.status == "deleting" or row.target is not None

    async def _settle(self, row: SandboxRow, *, is_changed: bool, is_expired: bool) -> None:
        """Does what is to be done about one environment."""
        if row.status == "deleting":
            await self._deeds.delete(row.id)
        elif is_expired:
            await self._deeds.expire(row.id)
        elif is_changed:
            await self._stages.look_at(row.id)
        else:
            await self._stages.advance(row.id, can_pause=self._can_pause)

    async def _reap(self, ref: SandboxRef) -> None:
        """Destroys a sandbox of ours that no row knows: a crash came between engine and store."""
        async with self._lifecycle.queue.turn(Urgency.AHEAD):
            status = await self._driver.inspect(ref) if ref.token else None
            if status is not None and status.state is SandboxState.ABSENT and not status.has_files:
                return  # it was just being removed when the list was made
            log.warning("sandbox_reaped", sandbox_id=ref.sandbox_id)
            await self._driver.destroy(ref)
            moments.passed("reap.destroyed")

    async def _drop_copies(self, copies: set[str]) -> None:
        """Those that nobody needs, by a second look: a start that fails gives its snapshot back to its row."""
        if copies:
            # Before the rows: a new environment is stored while its agent is there.
            copies -= await self._store.agent_snapshots()
        if not copies:
            return
        await self._store.drop_unused_templates()
        copies -= self._lifecycle.snapshots
        for row in await self._store.sandbox_rows():
            copies.discard(row.snapshot or "")
            if row.status == "pending" and is_preserved(row.template):
                copies.discard(row.template or "")
        copies -= self._lifecycle.snapshots
        await self._carry_out([partial(self._drop_copy, name) for name in copies])

    async def _drop_copy(self, name: str) -> None:
        log.info("snapshot_reaped", name=name)
        await self._driver.drop_snapshot(name)

    async def _carry_out(self, work: list[Work]) -> None:
        """All of it, some at once. One piece that fails must not keep the others; the next round tries it again."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def carry_out(piece: Work) -> None:
            async with places:
                try:
                    await piece()
                except CorralError as error:
                    log.warning("not_settled", code=error.code, reason=error.message)

        async with asyncio.TaskGroup() as group:
            for piece in work:
                group.create_task(carry_out(piece))
