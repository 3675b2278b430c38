"""Sandboxes that wait: started and linked before anybody asks, generic, bound to an environment when one is claimed.

    make ─► wait ─► claim (milliseconds) ─► the environment's own
                └─► destroyed at shutdown, or because it ended while it waited

A waiting sandbox has no row in the store: after a crash it is nobody's, and the next server reaps it. How many wait
follows demand: the claims of the last minute, between the settings' size and maximum, within their memory bound.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

import structlog

from orchestrator import ids
from orchestrator.clock import Clock
from orchestrator.errors import CorralError, SandboxError, SandboxGone
from orchestrator.sandboxes.driver import Resources, SandboxDriver, SandboxRef, SandboxSpec
from orchestrator.sandboxes.link import Link

log = structlog.get_logger(__name__)

FOOTPRINT_BYTES = 25 << 20
"""Host memory of an idle sandbox, as the design's section 6 bounds it."""
_DEMAND_WINDOW_S = 60.0
_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many sandboxes wait."""

    size: int
    """Wait at least; 0 switches the pool off."""
    max_size: int
    """Wait at most, when many are claimed."""
    refill_delay_s: float
    """Quiet time after a claim before the next is made: a start takes CPU from the calls of those that run."""
    memory_limit_bytes: int
    """What all that wait may take together."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A sandbox nobody has yet, with its open link."""

    ref: SandboxRef
    link: Link


class Pool:
    """Waiting sandboxes of one image and one set of resources. `open` begins to fill it, `aclose` destroys what
    waits.
    """

    def __init__(
        self,
        driver: SandboxDriver,
        clock: Clock,
        image: str,
        resources: Resources,
        settings: PoolSettings,
        generation: int,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._image = image
        self._resources = resources
        self._settings = settings
        self._generation = generation
        self._waiting: deque[Waiting] = deque()
        self._making: SandboxRef | None = None
        self._claims: deque[float] = deque()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begins to fill the pool in the background."""
        if self._settings.size > 0:
            self._task = asyncio.create_task(self._keep_full(), name="sandbox-pool")

    async def aclose(self) -> None:
        """Destroys what waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(self._discard(each) for each in self._waiting))
        self._waiting.clear()

    @property
    def sandbox_ids(self) -> set[str]:
        """The sandboxes that wait or are being made: not to be reaped."""
        making = {self._making.sandbox_id} if self._making is not None else set()
        return {each.ref.sandbox_id for each in self._waiting} | making

    @property
    def target(self) -> int:
        """How many should wait now."""
        now = self._clock.monotonic()
        while self._claims and self._claims[0] < now - _DEMAND_WINDOW_S:
            self._claims.popleft()
        affordable = self._settings.memory_limit_bytes // FOOTPRINT_BYTES
        return min(max(self._settings.size, len(self._claims)), self._settings.max_size, affordable)

    def claim(self) -> Waiting | None:
        """A sandbox that waited, now the caller's; None if none does: then it is made in the ordinary way."""
        self._claims.append(self._clock.monotonic())
        self._wanted.set()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.link.ended.is_set():
                return waiting
        return None

    async def forget(self, sandbox_id: str) -> bool:
        """Called when a sandbox ended: removes it if it waited here, and says whether it did."""
        for waiting in list(self._waiting):
            if waiting.ref.sandbox_id == sandbox_id:
                self._waiting.remove(waiting)
                self._wanted.set()
                await self._discard(waiting)
                return True
        return False

    async def _keep_full(self) -> None:
        while True:
            self._wanted.clear()
            while len(self._waiting) < self.target:
                if not await self._is_quiet():
                    continue
                try:
                    self._waiting.append(await self._make())
                except SandboxError as error:
                    log.warning("pool_not_filled", reason=error.message)
                    await asyncio.sleep(_RETRY_S)
                except Exception:
                    # A reconcile boundary: whatever went wrong with one must not end the pool.
                    log.exception("pool_broken")
                    await asyncio.sleep(_RETRY_S)
            await self._wait_for_change()

    async def _is_quiet(self) -> bool:
        """Waits out the rest of the quiet time after the last claim; false if another claim came meanwhile."""
        last = self._claims[-1] if self._claims else None
        rest_s = 0.0 if last is None else last + self._settings.refill_delay_s - self._clock.monotonic()
        if rest_s > 0:
            await asyncio.sleep(rest_s)
        return (self._claims[-1] if self._claims else None) == last

    async def _wait_for_change(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEMAND_WINDOW_S):
                await self._wanted.wait()
        while len(self._waiting) > max(self.target, self._settings.size):
            await self._discard(self._waiting.pop())

    async def _make(self) -> Waiting:
        sandbox_id = ids.new_sandbox_id()
        self._making = ref = SandboxRef(sandbox_id, "")
        try:
            spec = SandboxSpec(sandbox_id, self._image, self._resources, f"pool-{sandbox_id[:12]}")
            async with contextlib.aclosing(self._driver.create(spec)) as stages:
                async for ref in stages:
                    self._making = ref
            link = await Link.open(await self._driver.connect(ref), self._generation)
        except BaseException:
            if ref.token:
                with contextlib.suppress(CorralError):
                    await asyncio.shield(self._driver.destroy(ref))
            raise
        finally:
            self._making = None
        return Waiting(ref, link)

    async def _discard(self, waiting: Waiting) -> None:
        await waiting.link.aclose()
        try:
            await self._driver.destroy(waiting.ref)
        except (SandboxGone, SandboxError) as error:
            log.warning("pool_leftover", sandbox_id=waiting.ref.sandbox_id, reason=error.message)
