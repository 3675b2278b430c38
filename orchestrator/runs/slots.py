"""Whose run goes next: a number of slots overall and per project, handed out by tier. No I/O, no tasks of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

TIERS = ("priority", "standard", "flex", "deferred")
"""Whoever waits in an earlier one goes first, whatever comes later in the others."""


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """One that waits."""

    number: int
    """Who came earlier has a smaller one."""
    has_come: asyncio.Future[None]


class Slots:
    """Room for runs. Among those of one tier the project with the fewest runs goes first, then who came first."""

    def __init__(self, limit: int, limit_per_project: int) -> None:
        self._limit = limit
        self._limit_per_project = limit_per_project
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, dict[str, deque[_Turn]]] = {tier: {} for tier in TIERS}
        self._numbers = itertools.count()

    @property
    def taken(self) -> int:
        """How many runs have one."""
        return self._taken.total()

    @property
    def waiting(self) -> int:
        """How many runs wait for one."""
        return sum(len(queue) for tier in self._waiting.values() for queue in tier.values())

    @asynccontextmanager
    async def slot(self, project_id: str, tier: str) -> AsyncGenerator[None, None]:
        """Waits for a slot and holds it for the length of the block. A tier that is none counts as `standard`."""
        await self._take(project_id, tier if tier in TIERS else "standard")
        try:
            yield
        finally:
            self._give_back(project_id)

    async def _take(self, project_id: str, tier: str) -> None:
        turn = _Turn(next(self._numbers), asyncio.get_running_loop().create_future())
        queue = self._waiting[tier].setdefault(project_id, deque())
        queue.append(turn)
        self._hand_out()
        try:
            await turn.has_come
        except asyncio.CancelledError:
            if turn.has_come.done() and not turn.has_come.cancelled():
                self._give_back(project_id)  # it had come just then
            else:
                self._leave(project_id, tier, turn)
            raise

    def _leave(self, project_id: str, tier: str, turn: _Turn) -> None:
        queue = self._waiting[tier].get(project_id, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[tier][project_id]

    def _give_back(self, project_id: str) -> None:
        self._taken[project_id] -= 1
        if not self._taken[project_id]:
            del self._taken[project_id]
        self._hand_out()

    def _hand_out(self) -> None:
        while self.taken < self._limit and (found := self._next()) is not None:
            project_id, tier = found
            queue = self._waiting[tier][project_id]
            turn = queue.popleft()
            if not queue:
                del self._waiting[tier][project_id]
            if turn.has_come.cancelled():
                continue  # whoever waited is giving up, and has not had its step in which to leave
            self._taken[project_id] += 1
            turn.has_come.set_result(None)

    def _next(self) -> tuple[str, str] | None:
        for tier in TIERS:
            queues = self._waiting[tier]
            fitting = [name for name in queues if self._taken[name] < self._limit_per_project]
            if fitting:
                return min(fitting, key=lambda name: (self._taken[name], queues[name][0].number)), tier
        return None
