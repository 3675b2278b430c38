from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.api import Api


@pytest.fixture
async def api(tmp_path: Path, short_path: Path) -> AsyncGenerator[Api, None]:
    store = SqliteStore(tmp_path / "corral.db", SystemClock())
    await store.open()
    api = Api(store, short_path)
    yield api
    await api.client.aclose()
    await api.world.supervisor.aclose()
    await api.environments.aclose()
    await store.aclose()
