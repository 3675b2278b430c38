"""A clock that is set while the server works: nothing ends early, nothing is deleted, and the order of events stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import app
from orchestrator.clock import SystemClock
from orchestrator.config import LifecycleSettings
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, running

pytestmark = pytest.mark.anyio


class JumpingClock(SystemClock):
    """The machine's own clock, until somebody sets it."""

    def __init__(self) -> None:
        self._set_by = timedelta()

    def now(self) -> datetime:
        return super().now() + self._set_by

    def jump(self, by: timedelta) -> None:
        self._set_by += by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> JumpingClock:
    """Of a server that is started from now on."""
    clock = JumpingClock()
    monkeypatch.setattr(app, "SystemClock", lambda: clock)
    return clock


@pytest.fixture
async def server(clock: JumpingClock, tmp_path: Path, sandboxes: Path) -> AsyncGenerator[RunningServer, None]:
    """It looks for what is due ten times a second."""
    lifecycle = LifecycleSettings(sweep_interval_s=0.1)
    async with running(tmp_path / "data", LocalDriver(sandboxes), lifecycle=lifecycle) as server:
        yield server
        await assert_store_consistent(server.services.store)


@pytest.mark.parametrize(
    "by", [timedelta(days=-400), timedelta(hours=-1), timedelta(hours=2), timedelta(days=400)], ids=str
)
async def test_a_clock_that_is_set_ends_and_deletes_nothing(
    server: RunningServer, clock: JumpingClock, by: timedelta
) -> None:
    idle = (await server.create("```python\nkept = 41\n```", environment="remote"))["environment_id"]
    begun = await server.create("```bash\necho a; sleep 1; echo b\n```", environment="remote", background=True)
    await asyncio.sleep(0.5)
    clock.jump(by)
    await asyncio.sleep(0.5)
    ended = await server.ended(begun["id"])
    assert ended["status"] == "completed", ended
    again = await server.create("```python\nkept + 1\n```", environment=idle)
    assert [step["result"] for step in again["steps"] if step["type"] == "code_execution_result"] == ["42\n"]
    logs = (await server.client.get(f"/ops/logs/{begun['id']}")).text.splitlines()
    assert len(logs) == len(await server.services.store.read(begun["id"]))


async def test_a_clock_that_is_set_while_no_server_runs_deletes_nothing(
    clock: JumpingClock, tmp_path: Path, sandboxes: Path
) -> None:
    lifecycle = LifecycleSettings(sweep_interval_s=0.1)
    async with running(tmp_path / "data", LocalDriver(sandboxes), lifecycle=lifecycle) as server:
        idle = (await server.create("```bash\necho kept > file\n```", environment="remote"))["environment_id"]
    clock.jump(timedelta(days=400))
    async with running(tmp_path / "data", LocalDriver(sandboxes), lifecycle=lifecycle) as server:
        await asyncio.sleep(0.5)
        again = await server.create("```bash\ncat file\n```", environment=idle)
        assert again["status"] == "completed", again
        await assert_store_consistent(server.services.store)
