"""What is not kept for ever: ended interactions after their project's time, and those that nobody wanted kept.

Owns one task. A deletion is for good, and the wall clock may be set to anything: nothing is deleted for its age before
the clock has run for some minutes without a jump.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from orchestrator.clock import Clock, JumpWatch
from orchestrator.errors import StoreError
from orchestrator.runs.supervisor import Supervisor
from orchestrator.store.port import Store
from orchestrator.wire.interactions import TERMINAL_STATUSES

log = structlog.get_logger(__name__)

_INTERVAL_S = 60.0
_STEADY_S = 300.0
_CLOCK_JUMP_S = 5.0
_BATCH = 200
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_DAYS = 365_000
"""Longer ones would lie before the calendar's first day."""
_KEEP_KEYS = timedelta(days=1)
"""So long an idempotency key is remembered at least."""


class Retention:
    """Deletes what is due, a batch at a time."""

    def __init__(
        self,
        store: Store,
        supervisor: Supervisor,
        clock: Clock,
        *,
        retention_days: int,
        retry_window_s: float,
        interval_s: float = _INTERVAL_S,
        steady_s: float = _STEADY_S,
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._clock = clock
        self._retention_days = retention_days
        self._retry_window = timedelta(seconds=retry_window_s)
        self._interval_s = interval_s
        self._steady_s = steady_s
        self._steady_since = clock.monotonic()
        self._jumps = JumpWatch(clock, _CLOCK_JUMP_S)
        self._sweeping: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._sweeping = asyncio.create_task(self._sweep(), name="retention")

    async def aclose(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def look(self) -> int:
        """Deletes what is due now; how many interactions that were."""
        if not self._is_steady():
            return await self._drop_unstored(_NEVER)
        now = self._clock.now()
        deleted = await self._drop_unstored(now - self._retry_window) + await self._drop_expired(now)
        await self._store.forget_calls(lost_before=now - self._retry_window, keys_before=now - _KEEP_KEYS)
        return deleted

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                if deleted := await self.look():
                    log.info("interactions_expired", count=deleted)
            except StoreError as error:
                log.warning("retention_not_swept", reason=error.message)

    async def _drop_unstored(self, lost_before: datetime) -> int:
        """Nobody can ask for them; a run among them was left by its caller, and nobody else can end it."""
        due = await self._store.unstored(lost_before)
        for interaction_id in due:
            row = await self._store.interaction(None, interaction_id)
            if row is not None and row.status not in TERMINAL_STATUSES:
                await self._supervisor.cancel(interaction_id)
            await self._store.delete_interaction(interaction_id)
        return len(due)

    async def _drop_expired(self, now: datetime) -> int:
        deleted = 0
        for project in await self._store.projects():
            days = self._retention_days if project.retention_days is None else project.retention_days
            if not days:
                continue
            before = now - timedelta(days=min(days, _LONGEST_DAYS))
            for interaction_id in await self._store.expired(project.id, before, _BATCH):
                await self._store.delete_interaction(interaction_id)
                deleted += 1
        return deleted

    def _is_steady(self) -> bool:
        monotonic = self._clock.monotonic()
        if jump_s := self._jumps.look():
            log.warning("clock_jumped", by_s=round(jump_s))
            self._steady_since = monotonic
        return monotonic - self._steady_since >= self._steady_s
