"""Checks of the platform itself: making, finding, stopping and removing sandboxes, and being told of their end.

That a sandbox runs is proved by greeting the guest in it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from orchestrator.conformance.bench import PATIENCE_S, entered, make, owned, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.errors import CorralError, EngineUnavailable, ImageMissing, SandboxGone
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.driver import SandboxDriver, SandboxRef, SandboxSpec, SandboxState

_NO_IMAGE = "corral/there-is-no-such-image:none"


class LifecycleChecks(Platform):
    async def test_open_says_what_it_found_and_may_be_called_again(self, opened: SandboxDriver) -> None:
        found = await opened.open()
        assert found.engine
        assert found.can_pause is not self.states(Difference.NO_PAUSE)

    async def test_close_may_be_called_twice_and_leaves_sandboxes(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        other = self.driver(self.instance("stranger"))
        await other.open()
        await other.aclose()
        await other.aclose()
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING

    async def test_knows_which_images_are_there(self, opened: SandboxDriver) -> None:
        assert await opened.has_image(self.image)
        assert not await opened.has_image(_NO_IMAGE)

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
        assert await owned(opened) == {first}

    async def test_a_sandbox_that_has_ended_is_adopted_and_started(self, opened: SandboxDriver) -> None:
        spec = self.spec()
        first = await make(opened, spec)
        await opened.stop(first)
        second = await make(opened, spec)
        assert second == first
        async with entered(opened, second) as sandbox:
            assert await says(sandbox, "echo ready") == b"ready\n"

    async def test_a_creation_that_broke_off_is_taken_up(self, opened: SandboxDriver) -> None:
        """As a crash between the first ref and the next step leaves it."""
        spec = self.spec(name=new_sandbox_id())
        async with aclosing(opened.create(spec)) as stages:
            first = await anext(stages)
        ref = await make(opened, spec)
        assert ref == first
        async with entered(opened, ref) as sandbox:
            assert await says(sandbox, "echo ready") == b"ready\n"

    async def test_a_creation_that_broke_off_is_taken_up_by_the_next_process(self) -> None:
        instance, spec = self.instance("check"), self.spec()
        before, after = self.driver(instance), self.driver(instance)
        await before.open()
        async with aclosing(before.create(spec)) as stages:
            first = await anext(stages)
        await before.aclose()
        await after.open()
        try:
            ref = await make(after, spec)
            assert ref == first
            async with entered(after, ref) as sandbox:
                assert await says(sandbox, "echo ready") == b"ready\n"
        finally:
            await after.destroy(first)
            await after.aclose()

    async def test_a_creation_that_is_cancelled_leaves_nothing_unknown(self, opened: SandboxDriver) -> None:
        spec = self.spec()
        for delay_s in (0.0, 0.02, 0.1):
            creating = asyncio.create_task(make(opened, spec))
            await asyncio.sleep(delay_s)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
        ref = await make(opened, spec)
        assert await owned(opened) == {ref}
        async with entered(opened, ref) as sandbox:
            assert await says(sandbox, "echo ready") == b"ready\n"

    async def test_what_was_begun_can_be_destroyed(self, opened: SandboxDriver) -> None:
        async with aclosing(opened.create(self.spec())) as stages:
            ref = await anext(stages)
        await opened.destroy(ref)
        assert (await opened.inspect(ref)).state is SandboxState.ABSENT

    async def test_a_missing_image_is_said(self, opened: SandboxDriver) -> None:
        spec = SandboxSpec(new_sandbox_id(), _NO_IMAGE)
        with pytest.raises(ImageMissing):
            await make(opened, spec)
        assert await owned(opened) == set()

    async def test_several_are_made_at_once(self, opened: SandboxDriver) -> None:
        refs = await asyncio.gather(*(make(opened, self.spec()) for _ in range(4)))
        assert await owned(opened) == set(refs)

    async def test_a_new_name_changes_nothing_else(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec(name=new_sandbox_id()))
        await opened.rename(ref, new_sandbox_id())
        assert await owned(opened) == {ref}
        async with entered(opened, ref) as sandbox:
            assert await says(sandbox, "echo ready") == b"ready\n"

    # inspect, stop, start

    async def test_gone_is_a_state(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await opened.destroy(ref)
        assert (await opened.inspect(ref)).state is SandboxState.ABSENT

    async def test_stopping_keeps_the_files_and_starting_brings_them_back(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as sandbox:
            await says(sandbox, "echo kept > marker; echo kept > ~/marker")
        await opened.stop(ref)
        stopped = await opened.inspect(ref)
        assert stopped.state is SandboxState.EXITED
        assert stopped.reason
        await opened.start(ref)
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING
        async with entered(opened, ref) as sandbox:
            assert await says(sandbox, "cat marker ~/marker") == b"kept\nkept\n"

    async def test_stopping_and_starting_may_be_repeated(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await opened.start(ref)
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING
        await opened.stop(ref)
        await opened.stop(ref)
        assert (await opened.inspect(ref)).state is SandboxState.EXITED

    async def test_what_ran_does_not_run_after_a_restart(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as sandbox:
            await says(sandbox, "(while sleep 0.05; do echo on >> ticks; done) >/dev/null 2>&1 &")
        await opened.stop(ref)
        await opened.start(ref)
        async with entered(opened, ref) as sandbox:
            await says(sandbox, "rm -f ticks; sleep 0.3; ! test -e ticks")

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

    async def test_two_who_destroy_at_once_both_succeed(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await asyncio.gather(opened.destroy(ref), opened.destroy(ref), opened.destroy(ref))
        assert (await opened.inspect(ref)).state is SandboxState.ABSENT

    async def test_owns_what_carries_its_label_whether_it_runs_or_not(self, opened: SandboxDriver) -> None:
        stranger = self.driver(self.instance("stranger"))
        await stranger.open()
        foreign = await make(stranger, self.spec())
        running, stopped = await make(opened, self.spec()), await make(opened, self.spec())
        await opened.stop(stopped)
        try:
            assert await owned(opened) == {running, stopped}
            assert await owned(stranger) == {foreign}
        finally:
            await stranger.destroy(foreign)
            await stranger.aclose()

    async def test_another_driver_object_of_the_same_owner_finds_everything(self) -> None:
        instance = self.instance("check")
        before = self.driver(instance)
        await before.open()
        ref = await make(before, self.spec())
        await before.aclose()
        after = self.driver(instance)
        await after.open()
        try:
            assert await owned(after) == {ref}
            async with entered(after, ref) as sandbox:
                assert await says(sandbox, "echo hello") == b"hello\n"
        finally:
            await after.destroy(ref)
            await after.aclose()

    async def test_whatever_state_they_are_in_owned_says_what_inspect_says(self, opened: SandboxDriver) -> None:
        running, stopped, paused = [await make(opened, self.spec()) for _ in range(3)]
        await opened.stop(stopped)
        if not self.states(Difference.NO_PAUSE):
            await opened.pause(paused)
        async with aclosing(opened.create(self.spec())) as stages:
            created = await anext(stages)
        for found in [each async for each in opened.owned()]:
            status = await opened.inspect(found.ref)
            assert (found.state, found.has_files) == (status.state, True)
            assert status.has_files
        assert await owned(opened) == {running, stopped, paused, created}
        await opened.destroy(stopped)
        assert not (await opened.inspect(stopped)).has_files

    # exits

    async def test_ends_of_owned_sandboxes_are_reported(self, opened: SandboxDriver) -> None:
        stranger = self.driver(self.instance("stranger"))
        await stranger.open()
        foreign = await make(stranger, self.spec())
        ref, other = await make(opened, self.spec()), await make(opened, self.spec())
        exits = opened.exits()
        waiting = asyncio.ensure_future(anext(exits))
        await asyncio.sleep(0.3)
        try:
            await stranger.stop(foreign)
            await opened.stop(ref)
            async with asyncio.timeout(PATIENCE_S):
                assert await waiting == ref.sandbox_id
            await opened.destroy(other)
            async with asyncio.timeout(PATIENCE_S):
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
            await owned(driver)
        with pytest.raises(EngineUnavailable):
            await anext(driver.exits())
        await driver.aclose()

    async def test_nothing_is_paused_or_kept_on_a_silent_platform(self) -> None:
        driver = self.driver_of_silent_platform()
        ref = SandboxRef(new_sandbox_id(), "token")
        for attempt in (
            driver.pause(ref),
            driver.resume(ref),
            driver.snapshot(ref, "kept"),
            driver.drop_snapshot("kept"),
            driver.snapshots(),
        ):
            with pytest.raises((EngineUnavailable, NotImplementedError)):
                await attempt
        await driver.aclose()

    async def test_errors_are_corrals_own(self, opened: SandboxDriver) -> None:
        """A ref that the platform never gave is gone, not an error of somebody else's making."""
        ref = SandboxRef(new_sandbox_id(), "never-given")
        assert (await opened.inspect(ref)).state is SandboxState.ABSENT
        for attempt in (opened.start(ref), opened.connect(ref)):
            with pytest.raises(CorralError):
                await attempt
        await opened.stop(ref)
        await opened.destroy(ref)
