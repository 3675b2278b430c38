"""A limit on what sandboxes write, where the platform has none: a look from time to time, and the calls of one that has
written more are stopped.

Softer than a disk of its own: between two looks a sandbox may write past its limit, and what it wrote stays until the
agent deletes it.
"""

from __future__ import annotations

import asyncio

import structlog

from orchestrator.errors import SandboxError
from orchestrator.sandboxes.driver import SandboxDriver
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict

log = structlog.get_logger(__name__)

_INTERVAL_S = 5.0


class DiskWatch:
    """Watches sandboxes that calls run in. `open` begins, `aclose` ends."""

    def __init__(self, driver: SandboxDriver) -> None:
        self._driver = driver
        self._watched: dict[str, tuple[Sandbox, int]] = {}
        self._written_bytes: dict[str, int] = {}
        """At the last look, of those that were over their limit."""
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="disk-watch")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, sandbox: Sandbox, limit_bytes: int) -> None:
        """Watches a sandbox for as long as it is connected."""
        self._watched[sandbox.ref.sandbox_id] = (sandbox, limit_bytes)

    async def look(self) -> None:
        """One look at all of them."""
        for sandbox_id, (sandbox, limit_bytes) in list(self._watched.items()):
            if not sandbox.is_connected:
                del self._watched[sandbox_id]
                self._written_bytes.pop(sandbox_id, None)
            elif sandbox.link.has_calls:
                written_bytes = await self._driver.written_bytes(sandbox.ref)
                if written_bytes is not None:
                    self._judge(sandbox, written_bytes, limit_bytes)

    def _judge(self, sandbox: Sandbox, written_bytes: int, limit_bytes: int) -> None:
        before = self._written_bytes.pop(sandbox.ref.sandbox_id, 0)
        if written_bytes <= limit_bytes:
            return
        self._written_bytes[sandbox.ref.sandbox_id] = written_bytes
        if written_bytes > before:  # a call that only deletes must be able to
            log.warning("disk_full", sandbox_id=sandbox.ref.sandbox_id, written_bytes=written_bytes)
            sandbox.link.stop_calls(Verdict.DISK_FULL)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                await self.look()
            except SandboxError as error:
                log.warning("disk_not_watched", reason=error.message)
            except Exception:
                # A reconcile boundary: whatever went wrong in one look must not end the watch.
                log.exception("disk_watch_broken")
