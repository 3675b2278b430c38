"""A data folder that is full, and a database that somebody else holds: new work is refused with a clear answer, what
runs waits, nothing is lost, and all goes on by itself. The full disk is a small file system, which needs root.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import DATABASE_NAME, open_store
from orchestrator.config import Settings
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, running
from tests.fakes.runs import bash, scripted

pytestmark = pytest.mark.anyio

DISK_BYTES = 24 << 20
RESERVE_BYTES = 8 << 20
WAITS = scripted(
    {"calls": [bash("echo begun >> count; while [ ! -e go ]; do sleep 0.05; done; cat count")]}, {"text": "."}
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
async def server(disk: Path, sandboxes: Path) -> AsyncGenerator[RunningServer, None]:
    async with running(disk / "data", LocalDriver(sandboxes), disk_reserve_bytes=RESERVE_BYTES) as server:
        yield server
    async with open_store(Settings(data_dir=disk / "data")) as store:
        await assert_store_consistent(store)


async def test_a_disk_that_fills_up_loses_nothing(server: RunningServer, disk: Path, sandboxes: Path) -> None:
    begun = await server.create(WAITS, environment="remote", background=True)
    workspace = await workspace_of(sandboxes)
    fill(disk, leave_bytes=RESERVE_BYTES // 2)
    for path, body in (
        ("/v1beta/interactions", {"agent": "general", "input": "x", "environment": "remote"}),
        ("/v1beta/environments", {}),
    ):
        refused = await server.client.post(path, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_full"), refused.text
        assert refused.headers["retry-after"]
    assert (await server.client.get("/readyz")).status_code == 503

    (workspace / "go").touch()  # what runs has room for its end
    assert (await server.ended(begun["id"]))["status"] == "completed"
    (disk / "ballast").unlink()
    assert (await server.client.get("/readyz")).status_code == 200
    assert (await server.create("Hello."))["status"] == "completed"


async def test_a_run_waits_for_room_and_goes_on_by_itself(
    server: RunningServer, disk: Path, sandboxes: Path, logged: list[Any]
) -> None:
    begun = await server.create(WAITS, environment="remote", background=True)
    workspace = await workspace_of(sandboxes)
    fill(disk, leave_bytes=0)
    (workspace / "go").touch()
    async with asyncio.timeout(10):
        while not any(line["event"] == "run_not_stored" and "no space" in line["reason"] for line in logged):
            await asyncio.sleep(0.02)
    assert (await server.read(begun["id"]))["status"] == "in_progress"
    (disk / "ballast").unlink()
    ended = await server.ended(begun["id"])
    assert (ended["status"], results(ended)) == ("completed", ["begun\n"])


async def test_a_busy_database_is_waited_for(tmp_path: Path, sandboxes: Path) -> None:
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as server:
        begun = await server.create(WAITS, environment="remote", background=True)
        workspace = await workspace_of(sandboxes)
        held = sqlite3.connect(tmp_path / "data" / DATABASE_NAME, isolation_level=None)
        try:
            held.execute("BEGIN IMMEDIATE")
            (workspace / "go").touch()
            request = {"agent": "general", "input": "x", "environment": "remote"}
            refused = await server.client.post("/v1beta/interactions", json=request)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_busy"), refused.text
            assert (await server.read(begun["id"]))["status"] == "in_progress"
        finally:
            held.close()
        ended = await server.ended(begun["id"])
        assert (ended["status"], results(ended)) == ("completed", ["begun\n"])
        assert len(await server.services.store.interactions(None)) == 1
        assert len(await server.services.store.environments(None)) == 1, "a refused request left an environment"
        await assert_store_consistent(server.services.store)


async def workspace_of(sandboxes: Path) -> Path:
    """Of the one sandbox, once its command runs."""
    async with asyncio.timeout(10):
        while not (found := list(sandboxes.glob("*/workspace/count"))):
            await asyncio.sleep(0.02)
    return found[0].parent


def fill(disk: Path, leave_bytes: int) -> None:
    found = os.statvfs(disk)
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, found.f_bavail * found.f_frsize - leave_bytes)


def results(interaction: dict[str, Any]) -> list[str]:
    return [step["result"] for step in interaction["steps"] if step["type"] == "code_execution_result"]
