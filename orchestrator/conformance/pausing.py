"""Checks of `pause` and `resume`: nothing runs meanwhile, and no clock that a call lives by goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from orchestrator.conformance.bench import PATIENCE_S, Bench, cell, make, owned, run, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.errors import SandboxGone
from orchestrator.sandboxes.driver import SandboxDriver, SandboxState
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict


class PausingChecks(Platform):
    @asynccontextmanager
    async def _paused(self, bench: Bench, box: Sandbox, pause_s: float) -> AsyncGenerator[None, None]:
        await bench.driver.pause(box.ref)
        try:
            yield
            await asyncio.sleep(pause_s)
        finally:
            await bench.driver.resume(box.ref)

    async def _cannot(self, driver: SandboxDriver) -> bool:
        """Whether this platform has no pause, as it states."""
        if not self.states(Difference.NO_PAUSE):
            return False
        ref = await make(driver, self.spec())
        for attempt in (driver.pause(ref), driver.resume(ref)):
            with pytest.raises(NotImplementedError):
                await attempt
        return True

    async def test_pausing_is_a_state_and_may_be_repeated(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        ref = await make(opened, self.spec())
        await opened.resume(ref)
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING
        for _ in range(2):
            await opened.pause(ref)
            assert (await opened.inspect(ref)).state is SandboxState.PAUSED
        assert await owned(opened) == {ref}
        for _ in range(2):
            await opened.resume(ref)
            assert (await opened.inspect(ref)).state is SandboxState.RUNNING

    async def test_nothing_runs_meanwhile(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        box = await bench.fresh()
        await says(box, "(while :; do echo on >> ticks; sleep 0.05; done) >/dev/null 2>&1 &")
        await asyncio.sleep(0.3)
        before = int(await says(box, "wc -l < ticks"))
        async with self._paused(bench, box, 1.5):
            pass
        after = int(await says(box, "wc -l < ticks"))
        assert after - before < 20
        await asyncio.sleep(0.5)
        assert int(await says(box, "wc -l < ticks")) > after

    async def test_the_link_and_the_guest_stay(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        box = await bench.fresh()
        await cell(box, "kept = 1")
        for _ in range(3):
            async with self._paused(bench, box, 0.1):
                pass
        assert box.is_connected
        assert (await cell(box, "kept")).head == b"1\n"

    async def test_a_call_that_comes_meanwhile_waits(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        box = await bench.fresh()
        async with self._paused(bench, box, 0.5):
            waiting = asyncio.create_task(says(box, "echo hello"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert await waiting == b"hello\n"

    async def test_the_clock_of_a_call_stands_still(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        box = await bench.fresh()
        # Work, not sleep: the kernel's own timers run out during a pause.
        code = "for n in {1..20}; do sleep 0.05; done; echo done"
        running = asyncio.create_task(run(box, code, timeout_s=3.0))
        spinning = asyncio.create_task(cell(box, "import time\nfor n in range(20): time.sleep(0.05)", timeout_s=3.0))
        await asyncio.sleep(0.4)
        async with self._paused(bench, box, 4.0):
            assert not running.done()
        for outcome in (await running, await spinning):
            assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 0)

    async def test_the_limit_holds_afterwards(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        box = await bench.fresh()
        running = asyncio.create_task(run(box, "while :; do sleep 0.05; done", timeout_s=2.0))
        begun = time.monotonic()
        await asyncio.sleep(0.3)
        async with self._paused(bench, box, 1.5):
            pass
        async with asyncio.timeout(PATIENCE_S):
            outcome = await running
        assert outcome.verdict is Verdict.TIMEOUT
        assert 2.8 < time.monotonic() - begun < 8

    async def test_what_is_paused_can_be_stopped_and_started(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        ref = await make(opened, self.spec())
        await opened.pause(ref)
        await opened.stop(ref)
        assert (await opened.inspect(ref)).state is SandboxState.EXITED
        await opened.start(ref)
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING

    async def test_what_is_paused_can_be_destroyed(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        ref = await make(opened, self.spec())
        await opened.pause(ref)
        await opened.destroy(ref)
        assert (await opened.inspect(ref)).state is SandboxState.ABSENT

    async def test_what_is_gone_cannot_be_paused(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        ref = await make(opened, self.spec())
        await opened.destroy(ref)
        for attempt in (opened.pause(ref), opened.resume(ref)):
            with pytest.raises(SandboxGone):
                await attempt

    async def test_others_go_on(self, bench: Bench, box: Sandbox) -> None:
        if await self._cannot(bench.driver):
            return
        other = await bench.fresh()
        async with self._paused(bench, other, 0.0):
            assert await says(box, "echo hello") == b"hello\n"
