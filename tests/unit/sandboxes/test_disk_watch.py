"""Watching what sandboxes write, on a driver that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator.sandboxes.disk_watch import DiskWatch
from orchestrator.sandboxes.driver import SandboxRef, SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
from tests.fakes.local_driver import IMAGE, LocalDriver

pytestmark = pytest.mark.anyio

LIMIT_BYTES = 1000


class Writes(LocalDriver):
    """Says that every sandbox has written so much."""

    has_written_bytes: int | None = 0

    async def written_bytes(self, ref: SandboxRef) -> int | None:
        return self.has_written_bytes


@pytest.fixture
async def driver(short_path: Path) -> AsyncGenerator[Writes, None]:
    driver = Writes(short_path)
    yield driver
    await asyncio.to_thread(driver.kill_all)


@pytest.fixture
async def sandbox(driver: Writes) -> AsyncGenerator[Sandbox, None]:
    async for ref in driver.create(SandboxSpec("a" * 32, IMAGE)):
        made = ref
    link = await Link.open(await driver.connect(made), 1)
    yield Sandbox(made, link, {})
    await link.aclose()


def running(sandbox: Sandbox, call: str, code: str) -> asyncio.Task[CallOutcome]:
    return asyncio.create_task(sandbox.bash(call, code, timeout_s=20, output_limit_bytes=1000))


async def begun(sandbox: Sandbox, call: str) -> None:
    while True:
        answer = await sandbox.link.ask({"service": "calls"})
        if answer["calls"].get(call) == "running":
            return
        await asyncio.sleep(0.01)


async def test_who_writes_too_much_is_stopped_and_told(driver: Writes, sandbox: Sandbox) -> None:
    watch = DiskWatch(driver)
    watch.add(sandbox, LIMIT_BYTES)
    call = running(sandbox, "c", "echo begun; sleep 20")
    await begun(sandbox, "c")
    driver.has_written_bytes = LIMIT_BYTES
    await watch.look()
    assert not call.done()
    driver.has_written_bytes = LIMIT_BYTES + 1
    await watch.look()
    outcome = await call
    assert (outcome.verdict, outcome.head) == (Verdict.DISK_FULL, b"begun\n")


async def test_a_call_that_deletes_may_go_on(driver: Writes, sandbox: Sandbox) -> None:
    watch = DiskWatch(driver)
    watch.add(sandbox, LIMIT_BYTES)
    first = running(sandbox, "c", "sleep 20")
    await begun(sandbox, "c")
    driver.has_written_bytes = 5 * LIMIT_BYTES
    await watch.look()
    assert (await first).verdict is Verdict.DISK_FULL
    second = running(sandbox, "d", "sleep 0.3")
    await begun(sandbox, "d")
    await watch.look()
    driver.has_written_bytes = 4 * LIMIT_BYTES
    await watch.look()
    assert (await second).is_ok


async def test_a_cell_keeps_its_interpreter(driver: Writes, sandbox: Sandbox) -> None:
    watch = DiskWatch(driver)
    watch.add(sandbox, LIMIT_BYTES)
    await sandbox.python("a", "x = 1", timeout_s=20, output_limit_bytes=1000)
    call = asyncio.create_task(
        sandbox.python("c", "import time; time.sleep(20)", timeout_s=20, output_limit_bytes=1000)
    )
    await begun(sandbox, "c")
    driver.has_written_bytes = 2 * LIMIT_BYTES
    await watch.look()
    outcome = await call
    assert (outcome.verdict, outcome.is_state_lost) == (Verdict.DISK_FULL, False)
    assert (await sandbox.python("b", "x", timeout_s=20, output_limit_bytes=1000)).head == b"1\n"


async def test_idle_ones_cost_no_look_and_those_that_are_gone_are_forgotten(driver: Writes, sandbox: Sandbox) -> None:
    asked: list[SandboxRef] = []

    class Counts(Writes):
        async def written_bytes(self, ref: SandboxRef) -> int | None:
            asked.append(ref)
            return None

    watch = DiskWatch(Counts(driver._root))
    watch.add(sandbox, LIMIT_BYTES)
    await watch.look()
    assert asked == []
    call = running(sandbox, "c", "sleep 20")
    await begun(sandbox, "c")
    await watch.look()
    assert asked == [sandbox.ref]
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await sandbox.link.aclose()
    await watch.look()
    assert watch._watched == {}
