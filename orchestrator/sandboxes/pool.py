"""Sandboxes that wait: started and linked before anybody asks, generic, bound to an environment when one is claimed.

    make ─► wait ─► claim (milliseconds) ─► the environment's own
                └─► destroyed at shutdown, when fewer are wanted, or because it ended while it waited

A pool per profile. How many wait in one follows demand, the claims of the last minute; the default profile's never
falls below the settings' size, every other's is gone a minute after its last claim. A waiting sandbox has no row in the
store: after a crash it is nobody's, and the next server reaps it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass

import structlog

from orchestrator import ids, moments
from orchestrator.clock import Clock
from orchestrator.errors import CorralError, InvalidRequest, SandboxError, SandboxGone
from orchestrator.sandboxes.driver import Profile, SandboxDriver, SandboxRef, SandboxSpec
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.work_queue import Urgency, WorkQueue

log = structlog.get_logger(__name__)

FOOTPRINT_BYTES = 25 << 20
"""Host memory of an idle sandbox, as the design's section 6 bounds it."""
_DEMAND_WINDOW_S = 60.0
_FIRST_RETRY_S = 5.0
_LONGEST_RETRY_S = 60.0
_ANSWER_S = 1.0
"""A guest that waits answers within a millisecond; one that does not within this is not given to anybody."""
_LONGEST_QUIET_FACTOR = 10
"""Launches that never pause must not keep the pool empty: so many times the quiet time is waited for it, no more."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many sandboxes wait."""

    size: int
    """Of the default profile wait at least; 0 switches all pools off."""
    max_size: int
    """Of one profile wait at most, when many are claimed."""
    refill_delay_s: float
    """Quiet time after a claim before the next is made: a start takes CPU from the calls of those that run."""
    memory_limit_bytes: int
    """What all that wait may take together."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A sandbox nobody has yet, with its open link."""

    ref: SandboxRef
    link: Link


class Pools:
    """The waiting sandboxes of a server. `open` begins to fill, `aclose` destroys what waits."""

    def __init__(
        self, driver: SandboxDriver, clock: Clock, settings: PoolSettings, queue: WorkQueue, generation: int
    ) -> None:
        self.driver = driver
        self.clock = clock
        self.settings = settings
        self.queue = queue
        self.generation = generation
        self._pools: dict[Profile, Pool] = {}
        self._last_claim = -settings.refill_delay_s
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, profile: Profile) -> None:
        """Begins to fill the pool of the default profile in the background."""
        if self.settings.size > 0:
            self._add(profile, self.settings.size)

    async def aclose(self) -> None:
        """Destroys what waits."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(pool.aclose() for pool in self._pools.values()))
        self._pools.clear()

    @property
    def sandbox_ids(self) -> set[str]:
        """The sandboxes that wait, are being made or being claimed: not to be reaped."""
        return {sandbox_id for pool in self._pools.values() for sandbox_id in pool.sandbox_ids}

    @property
    def counts(self) -> dict[Profile, int]:
        """How many wait, by profile."""
        return {profile: pool.count for profile, pool in self._pools.items()}

    async def claim(self, profile: Profile) -> Waiting | None:
        """A sandbox that waited and answers, now the caller's; None if there is none: then one is made as ever."""
        if self.settings.size == 0:
            return None
        self._last_claim = self.clock.monotonic()
        pool = self._pools.get(profile) or self._add(profile, 0)
        try:
            return await pool.claim()
        finally:
            self.look_again()

    async def forget(self, sandbox_id: str) -> bool:
        """Called when a sandbox ended: removes it if it waited here, and says whether it did."""
        for pool in self._pools.values():
            if (waiting := pool.take(sandbox_id)) is not None:
                await self.discard(waiting)
                return True
        return False

    def has_room(self, pool: Pool) -> bool:
        """Whether one more may wait in `pool`; what the default profile is to have at least is kept free for it."""
        affordable = self.settings.memory_limit_bytes // FOOTPRINT_BYTES
        others = sum(max(each.taken, each.least) for each in self._pools.values() if each is not pool)
        return pool.taken + others < affordable

    async def wait_for_quiet(self) -> None:
        """Waits out the quiet time after the last claim, and after those that come meanwhile, but not for ever."""
        delay_s = self.settings.refill_delay_s
        give_up_at = self.clock.monotonic() + _LONGEST_QUIET_FACTOR * delay_s
        while True:
            rest_s = min(self._last_claim + delay_s, give_up_at) - self.clock.monotonic()
            if rest_s <= 0:
                return
            await asyncio.sleep(rest_s)

    def remove(self, pool: Pool) -> None:
        """Called by a pool in which nothing waits and nothing will."""
        del self._pools[pool.profile]

    async def discard(self, waiting: Waiting) -> None:
        """Destroys a sandbox that nobody has."""
        await waiting.link.aclose()
        try:
            await self.driver.destroy(waiting.ref)
        except SandboxError as error:
            log.warning("pool_leftover", sandbox_id=waiting.ref.sandbox_id, reason=error.message)
        self.look_again()

    def look_again(self) -> None:
        """Something changed: every pool counts anew."""
        for pool in self._pools.values():
            pool.wanted.set()

    def own(self, work: Coroutine[None, None, None], name: str) -> None:
        """Carries out `work` in a task that ends with the pools."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _add(self, profile: Profile, least: int) -> Pool:
        pool = self._pools[profile] = Pool(self, profile, least)
        self.own(pool.keep(), name=f"sandbox-pool-{profile.image}")
        return pool


class Pool:
    """The waiting sandboxes of one profile."""

    def __init__(self, pools: Pools, profile: Profile, least: int) -> None:
        self.profile = profile
        self.least = least
        """So many wait even if nobody claims any."""
        self.wanted = asyncio.Event()
        """Set when there may be something to do."""
        self._pools = pools
        self._waiting: deque[Waiting] = deque()
        self._claims: deque[float] = deque()
        self._in_hand: set[str] = set()
        """Sandboxes that are being made or being claimed."""

    async def aclose(self) -> None:
        """Destroys what waits."""
        await asyncio.gather(*(self._pools.discard(each) for each in self._waiting))
        self._waiting.clear()

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def taken(self) -> int:
        """How many wait, are being made or being claimed."""
        return len(self._waiting) + len(self._in_hand)

    @property
    def sandbox_ids(self) -> set[str]:
        """The sandboxes that wait, are being made or being claimed."""
        return {each.ref.sandbox_id for each in self._waiting} | self._in_hand

    @property
    def target(self) -> int:
        """How many should wait now, if there is room."""
        now = self._pools.clock.monotonic()
        while self._claims and self._claims[0] <= now - _DEMAND_WINDOW_S:
            self._claims.popleft()
        return min(max(self.least, len(self._claims)), self._pools.settings.max_size)

    async def claim(self) -> Waiting | None:
        """See `Pools.claim`. The first in line that proves to be alive: one may have died a moment ago."""
        self._claims.append(self._pools.clock.monotonic())
        while self._waiting:
            waiting = self._waiting.popleft()
            self._in_hand.add(waiting.ref.sandbox_id)
            try:
                is_alive = await _answers(waiting.link)
            except asyncio.CancelledError:
                self._waiting.appendleft(waiting)
                raise
            finally:
                self._in_hand.discard(waiting.ref.sandbox_id)
            if is_alive:
                return waiting
            self._pools.own(self._pools.discard(waiting), name=f"discard-{waiting.ref.sandbox_id}")
        return None

    def take(self, sandbox_id: str) -> Waiting | None:
        """Takes a sandbox out, if it waits here."""
        for waiting in self._waiting:
            if waiting.ref.sandbox_id == sandbox_id:
                self._waiting.remove(waiting)
                return waiting
        return None

    async def keep(self) -> None:
        """Keeps as many as should wait, until none should any more."""
        retry_s = _FIRST_RETRY_S
        while self.target > 0 or self._waiting:
            self.wanted.clear()
            try:
                await self._approach_target()
            except SandboxError as error:
                log.warning("pool_not_filled", image=self.profile.image, reason=error.message, again_in_s=retry_s)
            except Exception:
                # A reconcile boundary: whatever went wrong with one must not end the pool.
                log.exception("pool_broken", again_in_s=retry_s)
            else:
                retry_s = _FIRST_RETRY_S
                await self._wait_for_change()
                continue
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
        self._pools.remove(self)

    async def _approach_target(self) -> None:
        while len(self._waiting) > self.target:
            await self._pools.discard(self._waiting.pop())
        while self._is_short:
            await self._pools.wait_for_quiet()
            await self._pools.queue.do(("pool", self.profile), self._make)

    @property
    def _is_short(self) -> bool:
        return len(self._waiting) < self.target and self._pools.has_room(self)

    async def _wait_for_change(self) -> None:
        """Until somebody says so, or demand falls."""
        until_s = None
        if self._claims:
            until_s = max(0.0, self._claims[0] + _DEMAND_WINDOW_S - self._pools.clock.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until_s):
                await self.wanted.wait()

    async def _make(self) -> None:
        async with self._pools.queue.turn(Urgency.AHEAD):
            if not self._is_short:
                return  # while this stood in line demand fell, or another profile took the room
            sandbox_id = ids.new_sandbox_id()
            self._in_hand.add(sandbox_id)
            try:
                self._waiting.append(await self._start(sandbox_id))
            finally:
                self._in_hand.discard(sandbox_id)

    async def _start(self, sandbox_id: str) -> Waiting:
        profile, driver = self.profile, self._pools.driver
        name = f"pool-{sandbox_id[:12]}"
        spec = SandboxSpec(sandbox_id, profile.image, profile.resources, name, runtime=profile.runtime)
        ref = SandboxRef(sandbox_id, "")
        try:
            async with contextlib.aclosing(driver.create(spec)) as stages:
                async for stage in stages:
                    ref = stage
            moments.passed("pool.made")
            return Waiting(ref, await Link.open(await driver.connect(ref), self._pools.generation))
        except BaseException:
            if ref.token:
                with contextlib.suppress(CorralError):
                    await asyncio.shield(driver.destroy(ref))
            raise


async def _answers(link: Link) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_S):
            await link.ask({"service": "calls"})
    except (SandboxGone, InvalidRequest, TimeoutError):
        return False
    return True
