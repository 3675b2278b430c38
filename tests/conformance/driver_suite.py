"""What every sandbox driver must do. A driver's test module subclasses `DriverSuite` and says how to make one.

Everything is asked for through the port alone; that a sandbox runs is proved by greeting the guest in it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from orchestrator.errors import EngineUnavailable, ImageMissing, SandboxGone
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.driver import (
    Resources,
    SandboxDriver,
    SandboxRef,
    SandboxSpec,
    SandboxState,
)
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.outcome import Verdict


async def make(driver: SandboxDriver, spec: SandboxSpec) -> SandboxRef:
    """The ref of a started sandbox."""
    refs = [ref async for ref in driver.create(spec)]
    return refs[-1]


@asynccontextmanager
async def entered(driver: SandboxDriver, ref: SandboxRef, generation: int = 1) -> AsyncGenerator[Sandbox, None]:
    link = await Link.open(await driver.connect(ref), generation)
    try:
        yield Sandbox(ref, link, {})
    finally:
        await link.aclose()


async def says(sandbox: Sandbox, code: str) -> bytes:
    outcome = await sandbox.bash(f"call-{new_sandbox_id()}", code, timeout_s=20, output_limit_bytes=4096)
    assert outcome.verdict is Verdict.EXITED
    return outcome.head + outcome.tail


@pytest.mark.anyio
class DriverSuite(ABC):
    @abstractmethod
    def driver(self, instance: str) -> SandboxDriver:
        """A driver on the one platform of this test, not yet open; equal `instance` means the same owner."""

    @abstractmethod
    def driver_of_silent_platform(self) -> SandboxDriver:
        """A driver whose platform does not answer."""

    @property
    @abstractmethod
    def image(self) -> str: ...

    def spec(self, **fields: object) -> SandboxSpec:
        resources = Resources(memory_bytes=256 << 20, cpus=1.0, pids=128)
        return SandboxSpec(new_sandbox_id(), self.image, resources, **fields)  # type: ignore[arg-type]

    @pytest.fixture
    async def opened(self) -> AsyncGenerator[SandboxDriver, None]:
        """An open driver; every sandbox that it owns is gone afterwards."""
        driver = self.driver(f"test-{new_sandbox_id()}")
        await driver.open()
        yield driver
        async for ref in driver.owned():
            await driver.destroy(ref)
        await driver.aclose()

    # platform

    async def test_open_says_what_it_found_and_may_be_called_again(self, opened: SandboxDriver) -> None:
        assert (await opened.open()).engine

    async def test_close_may_be_called_twice_and_leaves_sandboxes(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        other = self.driver("another-owner")
        await other.open()
        await other.aclose()
        await other.aclose()
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING

    async def test_knows_which_images_are_there(self, opened: SandboxDriver) -> None:
        assert await opened.has_image(self.image)
        assert not await opened.has_image("corral/there-is-no-such-image:none")

    # create

    async def test_the_first_ref_comes_before_the_sandbox_runs(self, opened: SandboxDriver) -> None:
        async with aclosing(opened.create(self.spec())) as stages:
            first = await anext(stages)
            assert (await opened.inspect(first)).state is SandboxState.CREATED
            refs = [first, *[ref async for ref in stages]]
        assert {ref.sandbox_id for ref in refs} == {first.sandbox_id}
        assert (await opened.inspect(refs[-1])).state is SandboxState.RUNNING

    async def test_a_sandbox_that_exists_is_adopted(self, opened: SandboxDriver) -> None:
        spec = self.spec(name=new_sandbox_id())
        first = await make(opened, spec)
        async with entered(opened, first) as sandbox:
            await says(sandbox, "echo kept > marker")
        second = await make(opened, spec)
        assert second == first
        async with entered(opened, second) as sandbox:
            assert await says(sandbox, "cat marker") == b"kept\n"
        assert [ref async for ref in opened.owned()] == [first]

    async def test_a_creation_that_broke_off_is_taken_up(self, opened: SandboxDriver) -> None:
        """As a crash between the first ref and the next step leaves it."""
        spec = self.spec(name=new_sandbox_id())
        async with aclosing(opened.create(spec)) as stages:
            first = await anext(stages)
        ref = await make(opened, spec)
        assert ref == first
        async with entered(opened, ref) as sandbox:
            assert await says(sandbox, "echo ready") == b"ready\n"

    async def test_what_was_begun_can_be_destroyed(self, opened: SandboxDriver) -> None:
        async with aclosing(opened.create(self.spec())) as stages:
            ref = await anext(stages)
        await opened.destroy(ref)
        assert (await opened.inspect(ref)).state is SandboxState.ABSENT

    async def test_a_missing_image_is_said(self, opened: SandboxDriver) -> None:
        spec = SandboxSpec(new_sandbox_id(), "corral/there-is-no-such-image:none")
        with pytest.raises(ImageMissing):
            await make(opened, spec)
        assert [ref async for ref in opened.owned()] == []

    async def test_several_are_made_at_once(self, opened: SandboxDriver) -> None:
        refs = await asyncio.gather(*(make(opened, self.spec()) for _ in range(3)))
        assert {ref async for ref in opened.owned()} == set(refs)

    # inspect, stop, start

    async def test_gone_is_a_state(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await opened.destroy(ref)
        assert (await opened.inspect(ref)).state is SandboxState.ABSENT

    async def test_stopping_keeps_the_files_and_starting_brings_them_back(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as sandbox:
            await says(sandbox, "echo kept > marker")
        await opened.stop(ref)
        stopped = await opened.inspect(ref)
        assert stopped.state is SandboxState.EXITED
        assert stopped.reason
        await opened.start(ref)
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING
        async with entered(opened, ref) as sandbox:
            assert await says(sandbox, "cat marker") == b"kept\n"

    async def test_stopping_and_starting_may_be_repeated(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await opened.start(ref)
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING
        await opened.stop(ref)
        await opened.stop(ref)
        assert (await opened.inspect(ref)).state is SandboxState.EXITED

    async def test_what_is_gone_cannot_be_started_but_counts_as_stopped(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await opened.destroy(ref)
        await opened.stop(ref)
        with pytest.raises(SandboxGone):
            await opened.start(ref)

    # destroy, owned

    async def test_destroying_may_be_repeated_and_frees_the_name(self, opened: SandboxDriver) -> None:
        name = new_sandbox_id()
        ref = await make(opened, self.spec(name=name))
        await opened.destroy(ref)
        await opened.destroy(ref)
        again = await make(opened, self.spec(name=name))
        assert (await opened.inspect(again)).state is SandboxState.RUNNING

    async def test_owns_what_carries_its_label_whether_it_runs_or_not(self, opened: SandboxDriver) -> None:
        stranger = self.driver(f"test-{new_sandbox_id()}")
        await stranger.open()
        foreign = await make(stranger, self.spec())
        running, stopped = await make(opened, self.spec()), await make(opened, self.spec())
        await opened.stop(stopped)
        try:
            assert {ref async for ref in opened.owned()} == {running, stopped}
            assert [ref async for ref in stranger.owned()] == [foreign]
        finally:
            await stranger.destroy(foreign)
            await stranger.aclose()

    async def test_another_driver_object_of_the_same_owner_finds_everything(self) -> None:
        instance = f"test-{new_sandbox_id()}"
        before = self.driver(instance)
        await before.open()
        ref = await make(before, self.spec())
        await before.aclose()
        after = self.driver(instance)
        await after.open()
        try:
            assert [found async for found in after.owned()] == [ref]
            async with entered(after, ref) as sandbox:
                assert await says(sandbox, "echo hello") == b"hello\n"
        finally:
            await after.destroy(ref)
            await after.aclose()

    # connect

    async def test_the_stream_carries_bytes_both_ways(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        content = bytes(range(256)) * 12_000
        async with entered(opened, ref) as sandbox:
            outcome = await sandbox.execute("c", ["cat"], content, timeout_s=20, output_limit_bytes=2 * len(content))
        assert outcome.head + outcome.tail == content

    async def test_a_second_stream_replaces_the_first_and_calls_go_on(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as first:
            running = asyncio.create_task(
                first.bash("long", "sleep 0.3; echo done", timeout_s=20, output_limit_bytes=99)
            )
            await asyncio.sleep(0.1)
            async with entered(opened, ref) as second:
                with pytest.raises(SandboxGone):
                    await running
                assert second.link.calls == {"long": "running"}
                outcome = await second.bash("long", "sleep 0.3; echo done", timeout_s=20, output_limit_bytes=99)
                assert outcome.head == b"done\n"

    async def test_an_older_generation_is_refused(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref, generation=7) as current:
            with pytest.raises(SandboxGone):
                await Link.open(await opened.connect(ref), 6)
            assert await says(current, "echo still here") == b"still here\n"

    async def test_no_stream_to_what_does_not_run(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await opened.stop(ref)
        with pytest.raises(SandboxGone):
            await Link.open(await opened.connect(ref), 1)
        await opened.destroy(ref)
        with pytest.raises(SandboxGone):
            await Link.open(await opened.connect(ref), 1)

    async def test_the_stream_ends_with_the_sandbox(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as sandbox:
            await opened.destroy(ref)
            async with asyncio.timeout(10):
                await sandbox.link.ended.wait()
            with pytest.raises(SandboxGone):
                await says(sandbox, "true")

    # exits

    async def test_ends_of_owned_sandboxes_are_reported(self, opened: SandboxDriver) -> None:
        stranger = self.driver(f"test-{new_sandbox_id()}")
        await stranger.open()
        foreign = await make(stranger, self.spec())
        ref, other = await make(opened, self.spec()), await make(opened, self.spec())
        exits = opened.exits()
        waiting = asyncio.ensure_future(anext(exits))
        await asyncio.sleep(0.3)
        try:
            await stranger.stop(foreign)
            await opened.stop(ref)
            async with asyncio.timeout(10):
                assert await waiting == ref.sandbox_id
            await opened.destroy(other)
            async with asyncio.timeout(10):
                assert await anext(exits) == other.sandbox_id
        finally:
            waiting.cancel()
            await exits.aclose()  # type: ignore[attr-defined]
            await stranger.destroy(foreign)
            await stranger.aclose()

    # a platform that does not answer

    async def test_a_silent_platform_is_unknown_and_nothing_more(self) -> None:
        driver = self.driver_of_silent_platform()
        ref = SandboxRef(new_sandbox_id(), "token")
        with pytest.raises(EngineUnavailable):
            await driver.open()
        assert (await driver.inspect(ref)).state is SandboxState.UNKNOWN
        for attempt in (
            driver.has_image(self.image),
            make(driver, self.spec()),
            driver.start(ref),
            driver.stop(ref),
            driver.destroy(ref),
            driver.connect(ref),
        ):
            with pytest.raises(EngineUnavailable):
                await attempt
        with pytest.raises(EngineUnavailable):
            _ = [found async for found in driver.owned()]
        with pytest.raises(EngineUnavailable):
            await anext(driver.exits())
        await driver.aclose()
