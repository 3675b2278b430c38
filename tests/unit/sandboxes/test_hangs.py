"""Guests and links that hang: what is waited for, what is tried again, what is started anew."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from orchestrator.errors import SandboxGone
from orchestrator.sandboxes.driver import GuestStream, SandboxRef
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.store.records import EnvironmentRow
from tests.fakes.lives import World, says, spec_of, used
from tests.fakes.local_driver import Hangs, LocalDriver

pytestmark = pytest.mark.anyio


def guest_of(sandbox: Sandbox) -> int:
    return int((Path(sandbox.ref.token) / "pid").read_text())


async def begin(sandbox: Sandbox, timeout_s: float) -> asyncio.Task[object]:
    """A call that runs, in a sandbox whose guest hangs from then on."""
    call = asyncio.ensure_future(
        sandbox.bash("hangs", "echo kept > f; sleep 30", timeout_s=timeout_s, output_limit_bytes=1000)
    )
    while not (Path(sandbox.ref.token) / "workspace" / "f").exists():
        await asyncio.sleep(0.01)
    os.kill(guest_of(sandbox), signal.SIGSTOP)
    return call


async def assert_started_anew(world: World, environments: Environments, row: EnvironmentRow, old: Sandbox) -> None:
    again = await environments.sandbox(row.id)
    assert again.guest_id != old.guest_id
    assert await says(again, "cat f") == "kept\n"
    assert "sandbox.unresponsive" in await world.kinds(row.id)


@pytest.mark.usefixtures("impatient")
async def test_a_guest_that_does_not_keep_a_limit_and_does_not_answer_is_started_anew(world: World) -> None:
    environments = await world.server(Hangs(world.root))
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    call = await begin(sandbox, timeout_s=0.5)
    with pytest.raises(SandboxGone, match="does not answer"):
        await call
    await assert_started_anew(world, environments, row, sandbox)


@pytest.mark.usefixtures("impatient")
async def test_a_guest_that_cannot_be_cancelled_is_started_anew(world: World) -> None:
    environments = await world.server(Hangs(world.root))
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    call = await begin(sandbox, timeout_s=60)
    call.cancel()
    await asyncio.wait([call])
    await sandbox.link.ended.wait()
    await assert_started_anew(world, environments, row, sandbox)


@pytest.mark.usefixtures("impatient")
async def test_a_call_over_its_limit_is_waited_for_while_the_guest_answers(world: World) -> None:
    """Cells that wait for others begin late."""
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    code = "import time; time.sleep(2)"
    first, second = [
        asyncio.ensure_future(sandbox.python(name, code, timeout_s=3, output_limit_bytes=1000)) for name in "ab"
    ]
    assert (await first).is_ok
    assert (await second).is_ok
    assert sandbox.is_connected


@pytest.mark.usefixtures("impatient")
async def test_a_guest_that_hangs_is_started_anew_by_the_next_server(world: World) -> None:
    first = await world.server()
    row, sandbox = await used(world, first)
    await says(sandbox, "echo kept > f")
    await first.aclose()
    os.kill(guest_of(sandbox), signal.SIGSTOP)
    second = await world.server(Hangs(world.root))
    again = await second.sandbox(row.id)
    assert again.guest_id != sandbox.guest_id
    assert await says(again, "cat f") == "kept\n"
    assert "sandbox.unresponsive" in await world.kinds(row.id)


@pytest.mark.usefixtures("impatient")
async def test_a_link_that_hangs_does_not_cost_the_sandbox(world: World) -> None:
    class Stalls(LocalDriver):
        """The first stream goes silent when the test says so."""

        gate: asyncio.StreamReader | None = None

        async def connect(self, ref: SandboxRef) -> GuestStream:
            stream = await super().connect(ref)
            if self.gate is None:
                self.gate = stream.reader
            return stream

        def stall(self) -> None:
            assert self.gate is not None
            self.gate.feed_data = lambda data: None  # type: ignore[method-assign]

    driver = Stalls(world.root)
    environments = await world.server(driver)
    row, sandbox = await used(world, environments)
    driver.stall()
    with pytest.raises(SandboxGone, match="does not answer"):
        await sandbox.bash("c", "echo once >> f", timeout_s=0.2, output_limit_bytes=100)
    again = await environments.sandbox(row.id)
    assert again.guest_id == sandbox.guest_id
    assert await says(again, "cat f") == "once\n"
    assert "sandbox.unresponsive" not in await world.kinds(row.id)
