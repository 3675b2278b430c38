"""Work for a platform that must not be flooded: the same work once for all who ask, again after a failure that may
pass, and only so much at once.

Knows nothing of engines and sandboxes; imports `clock` and `errors` only. Two verbs that are used together:

    do(key, work)      carries out `work`; who asks for the same key meanwhile waits for the same result
    turn(urgency)      inside `work`, around the part that burdens the platform: at most `at_once` are in it
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from enum import IntEnum
from itertools import count
from typing import Any, TypeVar, cast

from orchestrator.clock import Clock
from orchestrator.errors import CorralError

T = TypeVar("T")

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0


class Urgency(IntEnum):
    """Who goes first; among equals, who came first."""

    AWAITED = 0
    """Somebody waits for it."""
    AHEAD = 1
    """It is done ahead of need, and begins only while nothing that is awaited has a turn."""


class _Item:
    """What is being done under one key."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiters = 0
        self.is_given_up = False


class WorkQueue:
    """Carries out work in tasks of its own. `aclose` ends them."""

    def __init__(self, clock: Clock, *, at_once: int, patience_s: float) -> None:
        """`patience_s`: how long work is begun again after failures that are `retryable`; 0 is not at all."""
        self._clock = clock
        self._patience_s = patience_s
        self._items: dict[Hashable, _Item] = {}
        self._at_once = at_once
        self._inside: Counter[Urgency] = Counter()
        """Who has a turn."""
        self._line: list[tuple[Urgency, int, asyncio.Future[None]]] = []
        self._numbers = count()

    async def aclose(self) -> None:
        """Cancels what is being done, and those who wait for it with it. May be called twice."""
        while self._items:
            tasks = [item.task for item in self._items.values()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def do(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, or of the work that is being done under `key` already; its failure comes to all.

        A failure that is `retryable` is waited out and the work begun again, as long as patience lasts: `work` must
        allow that. Cancelling one who waits leaves the work to the others; cancelling the last one cancels it, and
        returns when it has ended.
        """
        while (item := self._items.get(key)) is not None and item.is_given_up:
            await asyncio.wait([item.task])
        if item is None:
            item = self._items[key] = _Item(asyncio.create_task(self._persist(work), name=f"work-{key}"))
            item.task.add_done_callback(lambda task: self._forget(key, task))
        item.waiters += 1
        try:
            return cast("T", await asyncio.shield(item.task))
        finally:
            item.waiters -= 1
            if item.waiters == 0 and not item.task.done():
                item.is_given_up = True
                item.task.cancel()
                await asyncio.wait([item.task])

    @asynccontextmanager
    async def turn(self, urgency: Urgency) -> AsyncGenerator[None, None]:
        """Waits until fewer than `at_once` have a turn and nobody more urgent waits; has one while the block lasts."""
        await self._take(urgency)
        try:
            yield
        finally:
            self._give(urgency)

    async def _take(self, urgency: Urgency) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (urgency, next(self._numbers), mine))
        self._hand_out()
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # it was given to us in this very moment
                self._give(urgency)
            raise

    def _give(self, urgency: Urgency) -> None:
        self._inside[urgency] -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._line and self._may_enter(self._line[0][0]):
            urgency, _, first = heapq.heappop(self._line)
            if not first.done():  # else who stood there has gone
                self._inside[urgency] += 1
                first.set_result(None)

    def _may_enter(self, urgency: Urgency) -> bool:
        has_room = self._inside.total() < self._at_once
        return has_room and (urgency is Urgency.AWAITED or not self._inside[Urgency.AWAITED])

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        give_up_at = self._clock.monotonic() + self._patience_s
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return await work()
            except CorralError as error:
                if not error.retryable or self._clock.monotonic() + wait_s > give_up_at:
                    raise
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _forget(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._items[key]
        if not task.cancelled():
            task.exception()  # whoever waits gets it; nobody waiting is fine
