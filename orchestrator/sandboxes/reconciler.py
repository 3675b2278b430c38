"""Keeps rows and engine in agreement: notices sandboxes that end, finishes deletions, removes what no row knows.

One task for as long as the server lives. What it finds is a fact about the engine; what should be is in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from orchestrator.errors import EngineUnavailable, SandboxError
from orchestrator.sandboxes.driver import SandboxDriver
from orchestrator.sandboxes.lifecycle import Lifecycle
from orchestrator.store.port import EnvironmentRow, Store

log = structlog.get_logger(__name__)

_RETRY_ENGINE_S = 2.0
_PAGE = 500


class Reconciler:
    """Watches the engine. `open` begins, `aclose` ends."""

    def __init__(
        self,
        store: Store,
        driver: SandboxDriver,
        lifecycle: Lifecycle,
        image: str,
        delete: Callable[[EnvironmentRow], Awaitable[None]],
        ended: Callable[[str], Awaitable[None]],
        notice: Callable[[], Awaitable[None]],
    ) -> None:
        """`delete` takes up a deletion; `ended` is told the id of each sandbox that ends; `notice` looks for those that
        ended while nobody watched.
        """
        self._store = store
        self._driver = driver
        self._lifecycle = lifecycle
        self._image = image
        self._delete = delete
        self._ended = ended
        self._notice = notice
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="sandbox-reconciler")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                await self._driver.open()
                if not await self._driver.has_image(self._image):
                    log.warning("image_missing", image=self._image)
                await self._finish_deletions()
                await self.reap()
                await self._notice()
                async for sandbox_id in self._driver.exits():
                    await self._ended(sandbox_id)
            except SandboxError as error:
                log.warning("engine_unavailable", reason=error.message)
            except Exception:
                # The reconcile boundary: whatever went wrong in one round must not end the watch.
                log.exception("watch_broken")
            await asyncio.sleep(_RETRY_ENGINE_S)

    async def reap(self) -> None:
        """Destroys sandboxes and snapshots of ours that no row knows: a crash came between engine and store."""
        found = [each.ref async for each in self._driver.owned()]
        copies = await self._driver.snapshots()
        if not found and not copies:
            return
        # Rows last: of what was found, what is not in hand now is either in its row already or nobody's.
        sandbox_ids, snapshots = self._lifecycle.sandbox_ids, self._lifecycle.snapshots
        await self._store.drop_unused_templates()
        async for row in self._rows():
            sandbox_ids.add(row.sandbox_id or "")
            snapshots.add(row.snapshot or "")
        for ref in found:
            if ref.sandbox_id not in sandbox_ids:
                log.warning("sandbox_reaped", sandbox_id=ref.sandbox_id)
                await _try(self._driver.destroy(ref))
        for name in copies - snapshots:
            log.info("snapshot_reaped", name=name)
            await _try(self._driver.drop_snapshot(name))

    async def _finish_deletions(self) -> None:
        """Takes up deletions that the engine's or the server's end came in between."""
        async for row in self._rows():
            if row.status == "deleting":
                await _try(self._delete(row))

    async def _rows(self) -> AsyncIterator[EnvironmentRow]:
        """Every environment of every project."""
        after: str | None = None
        while rows := await self._store.environments(None, after=after, limit=_PAGE):
            for row in rows:
                yield row
            after = rows[-1].id


async def _try(work: Awaitable[None]) -> None:
    """One that cannot be removed now must not keep the others; the next round tries again."""
    try:
        await work
    except EngineUnavailable:
        raise
    except SandboxError as error:
        log.warning("not_removed", reason=error.message)
