from __future__ import annotations

from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.store.port import Store
from orchestrator.store.sqlite import SqliteStore
from tests.conformance.store_suite import StoreSuite


class TestSqliteStore(StoreSuite):
    def make(self, folder: Path, clock: Clock) -> Store:
        return SqliteStore(folder / "corral.db", clock)
