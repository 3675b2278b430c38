from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from orchestrator.app import open_store
from orchestrator.config import Settings
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, ServerProcess, running


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def sandboxes(short_path: Path) -> Iterator[Path]:
    """The folder of sandboxes; nothing runs in it afterwards."""
    yield short_path
    LocalDriver(short_path).kill_all()


@pytest.fixture
def new_process(tmp_path: Path, sandboxes: Path) -> Iterator[ServerProcess]:
    """A server as a process, not started, without a pool; it must not log a traceback."""
    process = ServerProcess(tmp_path / "data", sandboxes, POOL__SIZE="0")
    yield process
    if process.is_running:
        process.end(signal.SIGTERM)
    assert "Traceback" not in process.log, process.log


@pytest.fixture
def process(new_process: ServerProcess) -> ServerProcess:
    """The same, started."""
    new_process.start()
    return new_process


@pytest.fixture
async def server(tmp_path: Path, sandboxes: Path, logged: list[Any]) -> AsyncGenerator[RunningServer, None]:
    """A server whose store is consistent at the end, and which complained of nothing."""
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as server:
        yield server
    async with open_store(Settings(data_dir=tmp_path / "data")) as store:
        await assert_store_consistent(store)
    assert [line for line in logged if line["log_level"] in ("error", "critical")] == []
