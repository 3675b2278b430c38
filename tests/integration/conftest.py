from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from orchestrator.app import open_store
from orchestrator.config import Settings
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, running


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
async def server(tmp_path: Path, sandboxes: Path, logged: list[Any]) -> AsyncGenerator[RunningServer, None]:
    """A server whose store is consistent at the end, and which complained of nothing."""
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as server:
        yield server
    async with open_store(Settings(data_dir=tmp_path / "data")) as store:
        await assert_store_consistent(store)
    assert [line for line in logged if line["log_level"] in ("error", "critical")] == []
