from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from orchestrator.clock import SystemClock
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.consistency import assert_store_consistent


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore, None]:
    """A store that must be consistent whatever the test did."""
    store = SqliteStore(tmp_path / "corral.db", SystemClock())
    await store.open()
    yield store
    await assert_store_consistent(store)
    await store.aclose()


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What is logged, as data: rendering a traceback for people reads files."""
    with structlog.testing.capture_logs() as lines:
        yield lines
