"""Pools on a driver without processes: how many wait, who gets them, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from orchestrator.clock import SystemClock
from orchestrator.errors import EngineUnavailable, ImageMissing, SandboxGone
from orchestrator.guest import frames
from orchestrator.sandboxes import pool as module
from orchestrator.sandboxes.driver import (
    DriverInfo,
    Found,
    GuestStream,
    Profile,
    Resources,
    SandboxDriver,
    SandboxRef,
    SandboxSpec,
    SandboxState,
    SandboxStatus,
)
from orchestrator.sandboxes.pool import FOOTPRINT_BYTES, Pools, PoolSettings
from orchestrator.sandboxes.work_queue import Urgency, WorkQueue
from tests.fakes.scripted_guest import ScriptedGuest

pytestmark = pytest.mark.anyio

DEFAULT = Profile("image")
OTHER = Profile("image", Resources(memory_bytes=4 << 30))
THIRD = Profile("image", runtime="runsc")


class QuickDriver(SandboxDriver):
    """Sandboxes whose guests only greet and answer, made in an instant unless `gate` is closed."""

    def __init__(self) -> None:
        self.specs: dict[str, SandboxSpec] = {}
        """Of the sandboxes that are there."""
        self.made = 0
        self.most = 0
        """The largest number that were there at once."""
        self.failures: dict[Profile, list[Exception]] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.silent: set[str] = set()
        """Sandboxes whose guest hangs."""
        self._guests: dict[str, tuple[ScriptedGuest, asyncio.Task[None]]] = {}

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        if errors := self.failures.get(profile_of(spec)):
            raise errors.pop(0)
        self.specs[spec.sandbox_id] = spec
        self.made += 1
        self.most = max(self.most, len(self.specs))
        yield SandboxRef(spec.sandbox_id, "token")
        await self.gate.wait()
        yield SandboxRef(spec.sandbox_id, "token")

    async def connect(self, ref: SandboxRef) -> GuestStream:
        opening = asyncio.ensure_future(ScriptedGuest.open())
        try:
            guest, stream = await asyncio.shield(opening)
        except asyncio.CancelledError:
            guest, stream = await opening
            guest.close()
            stream.writer.close()
            raise
        guest.hello()
        self._guests[ref.sandbox_id] = guest, asyncio.create_task(self._serve(ref.sandbox_id, guest))
        return stream

    async def _serve(self, sandbox_id: str, guest: ScriptedGuest) -> None:
        await guest.hear(frames.HELLO)
        while True:
            number, request = await guest.hear_open()
            assert request == {"service": "calls"}
            if sandbox_id not in self.silent:
                guest.message(number, {"calls": {}})
                guest.end(number)

    async def die(self, sandbox_id: str) -> None:
        """Its main process ends; nobody has been told."""
        if sandbox_id in self._guests:
            guest, task = self._guests.pop(sandbox_id)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            guest.close()

    async def destroy(self, ref: SandboxRef) -> None:
        await self.die(ref.sandbox_id)
        self.specs.pop(ref.sandbox_id, None)

    async def open(self) -> DriverInfo:
        return DriverInfo("nothing")

    async def aclose(self) -> None:
        for sandbox_id in list(self._guests):
            await self.die(sandbox_id)

    async def has_image(self, image: str) -> bool:
        return True

    async def start(self, ref: SandboxRef) -> None:
        raise SandboxGone("not here")

    async def stop(self, ref: SandboxRef) -> None:
        await self.die(ref.sandbox_id)

    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        return SandboxStatus(SandboxState.RUNNING if ref.sandbox_id in self.specs else SandboxState.ABSENT)

    async def owned(self) -> AsyncIterator[Found]:
        for sandbox_id in list(self.specs):
            yield Found(SandboxRef(sandbox_id, "token"), SandboxState.RUNNING, has_files=True)

    async def exits(self) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""


def profile_of(spec: SandboxSpec) -> Profile:
    return Profile(spec.image, spec.resources, spec.runtime)


class World:
    """Pools on a `QuickDriver`."""

    def __init__(self) -> None:
        self.driver = QuickDriver()
        self.queue = WorkQueue(SystemClock(), at_once=2, patience_s=0)
        self.pools: Pools
        self._claimed: list[Any] = []

    def open(
        self, *, size: int = 2, max_size: int = 4, delay_s: float = 0.0, room: int = 100, is_filled: bool = True
    ) -> Pools:
        """Pools with room for `room` sandboxes."""
        settings = PoolSettings(size, max_size, delay_s, room * FOOTPRINT_BYTES + 1)
        self.pools = Pools(self.driver, SystemClock(), settings, self.queue, generation=1)
        if is_filled:
            self.pools.open(DEFAULT)
        return self.pools

    async def claim(self, profile: Profile = DEFAULT) -> str | None:
        """The id of a sandbox, or None. The end of the world destroys it."""
        waiting = await self.pools.claim(profile)
        if waiting is None:
            return None
        self._claimed.append(waiting)
        assert profile_of(self.driver.specs[waiting.ref.sandbox_id]) == profile
        return str(waiting.ref.sandbox_id)

    async def until(self, **counts: int) -> None:
        """Until so many wait, by `default`, `other` and `third`, and everything has come to rest."""
        wanted = {DEFAULT: counts.get("default", 0), OTHER: counts.get("other", 0), THIRD: counts.get("third", 0)}

        async def is_so() -> bool:
            return {**dict.fromkeys(wanted, 0), **self.pools.counts} == wanted

        await eventually(is_so)
        await asyncio.sleep(0.03)
        assert await is_so(), self.pools.counts

    async def aclose(self) -> None:
        for waiting in self._claimed:
            await self.pools.discard(waiting)
        await self.pools.aclose()
        await self.queue.aclose()
        left = set(self.driver.specs)
        await self.driver.aclose()
        assert left == set(), "what waits is gone with the server"


async def eventually(is_true: Callable[[], Awaitable[bool]], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not await is_true():
            await asyncio.sleep(0.005)


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    world = World()
    yield world
    await world.aclose()
    await asyncio.sleep(0)  # the loop closes sockets one step later


# how many wait


async def test_the_default_profile_is_kept_at_its_size(world: World) -> None:
    world.open(size=3)
    await world.until(default=3)
    assert world.driver.made == 3
    assert all(spec.name == f"pool-{spec.sandbox_id[:12]}" for spec in world.driver.specs.values())


async def test_a_burst_raises_the_pool_to_its_maximum_and_its_end_lowers_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEMAND_WINDOW_S", 0.4)
    world.open(size=2, max_size=5)
    await world.until(default=2)
    claims = await asyncio.gather(*(world.claim() for _ in range(9)))
    assert sum(each is not None for each in claims) == 2, "the others are made as ever"
    await world.until(default=5)
    await world.until(default=2)


async def test_another_profile_waits_only_while_it_is_in_demand(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEMAND_WINDOW_S", 0.4)
    world.open(size=1)
    await world.until(default=1)
    assert await world.claim(OTHER) is None
    await world.until(default=1, other=1)
    assert await world.claim(OTHER) is not None
    await world.until(default=1, other=2)
    await world.until(default=1)
    assert world.pools.counts == {DEFAULT: 1}, "a pool that is not needed is no more"
    assert await world.claim(OTHER) is None, "and begins afresh"
    await world.until(default=1, other=1)


async def test_all_pools_stay_within_the_memory_and_the_default_has_its_share(world: World) -> None:
    world.driver.gate.clear()
    world.open(size=2, max_size=10, room=5)
    for profile in (OTHER, THIRD) * 6:
        assert await world.claim(profile) is None
    world.driver.gate.set()

    async def is_full() -> bool:
        return sum(world.pools.counts.values()) == 5

    await eventually(is_full)
    await asyncio.sleep(0.05)
    assert world.driver.most == 5
    assert world.pools.counts[DEFAULT] == 2
    # Room that one profile gives up is taken by another.
    taken = OTHER if world.pools.counts[OTHER] else THIRD
    assert await world.claim(taken) is not None
    await eventually(is_full)


async def test_without_a_size_nothing_waits(world: World) -> None:
    world.open(size=0, max_size=0)
    assert await world.claim() is None
    assert await world.claim(OTHER) is None
    await asyncio.sleep(0.02)
    assert world.driver.made == 0


# who gets them


async def test_everybody_gets_a_sandbox_of_their_own(world: World) -> None:
    world.open(size=4)
    await world.until(default=4)
    claimed = await asyncio.gather(*(world.claim() for _ in range(4)))
    assert len(set(claimed)) == 4
    assert None not in claimed


async def test_an_empty_pool_is_no_error(world: World) -> None:
    world.open(is_filled=False)
    assert await world.claim() is None


async def test_one_that_died_a_moment_ago_is_passed_over(world: World) -> None:
    world.open(size=3)
    await world.until(default=3)
    first, second, third = world.driver.specs
    dying = [asyncio.ensure_future(world.driver.die(each)) for each in (first, second)]
    assert await world.claim() == third
    await asyncio.gather(*dying)

    async def are_gone() -> bool:
        return not {first, second} & set(world.driver.specs)

    await eventually(are_gone)


async def test_one_that_does_not_answer_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.05)
    world.open(size=2)
    await world.until(default=2)
    first, second = world.driver.specs
    world.driver.silent.add(first)
    assert await world.claim() == second


async def test_a_claim_that_is_given_up_leaves_the_sandbox(world: World) -> None:
    world.open(size=1, max_size=1)
    await world.until(default=1)
    (only,) = world.driver.specs
    world.driver.silent.add(only)
    claiming = asyncio.ensure_future(world.claim())
    await asyncio.sleep(0.02)
    assert world.pools.sandbox_ids == {only}, "it is not to be reaped meanwhile"
    claiming.cancel()
    await asyncio.gather(claiming, return_exceptions=True)
    world.driver.silent.clear()
    assert await world.claim() == only


# when they are made


async def test_what_is_being_made_is_known(world: World) -> None:
    world.driver.gate.clear()
    world.open(size=2)

    async def is_begun() -> bool:
        return world.driver.made == 1

    await eventually(is_begun)
    assert world.pools.sandbox_ids == set(world.driver.specs), "it is not to be reaped"
    world.driver.gate.set()
    await world.until(default=2)


async def test_a_refill_waits_for_quiet(world: World) -> None:
    world.open(size=2, max_size=2, delay_s=0.2)
    await world.until(default=2)
    for _ in range(3):
        await world.claim()
        await asyncio.sleep(0.1)
    assert world.driver.made == 2
    await world.until(default=2)


async def test_launches_that_never_pause_do_not_keep_the_pool_empty(world: World) -> None:
    world.open(size=1, max_size=1, delay_s=0.03)
    await world.until(default=1)
    async with asyncio.timeout(5):
        while world.driver.made < 3:
            await world.claim()
            await asyncio.sleep(0.01)


async def test_launches_go_before_refills(world: World) -> None:
    world.open(size=2)
    await world.until(default=2)
    order: list[str] = []

    async def launch(hold: asyncio.Event) -> None:
        async with world.queue.turn(Urgency.AWAITED):
            order.append("launch")
            await hold.wait()

    holds = [asyncio.Event() for _ in range(4)]
    launches = [asyncio.ensure_future(launch(hold)) for hold in holds[:2]]
    await asyncio.sleep(0)
    await world.claim()
    await asyncio.sleep(0.02)
    launches += [asyncio.ensure_future(launch(hold)) for hold in holds[2:]]
    await asyncio.sleep(0.02)
    for hold in holds[:2]:
        hold.set()
    await asyncio.sleep(0.02)
    assert (order, world.driver.made) == (["launch"] * 4, 2)
    for hold in holds[2:]:
        hold.set()
    await world.until(default=2)
    await asyncio.gather(*launches)


async def test_a_profile_that_cannot_be_made_does_not_hinder_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_RETRY_S", 0.05)
    world.driver.failures[OTHER] = [ImageMissing("no image"), EngineUnavailable("away")]
    world.driver.failures[DEFAULT] = [RuntimeError("a mistake of ours")]
    with capture_logs() as logged:
        world.open(size=1)
        for profile in (OTHER, THIRD):
            assert await world.claim(profile) is None
        await world.until(third=1)
        await world.until(default=1, other=1, third=1)
    assert sorted(line["event"] for line in logged) == ["pool_broken", "pool_not_filled", "pool_not_filled"]


async def test_one_that_ended_is_replaced(world: World) -> None:
    world.open(size=2)
    await world.until(default=2)
    first, second = world.driver.specs
    await world.driver.die(first)
    assert await world.pools.forget(first)
    assert not await world.pools.forget(first)
    assert not await world.pools.forget("another's")
    await world.until(default=2)
    assert second in world.driver.specs
    assert first not in world.driver.specs


async def test_closing_while_one_is_made_leaves_nothing(world: World) -> None:
    world.driver.gate.clear()
    world.open(size=2)

    async def is_begun() -> bool:
        return world.driver.made == 1

    await eventually(is_begun)
    await world.pools.aclose()
    assert world.driver.specs == {}
