from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.sandboxes.driver import SandboxDriver
from tests.conformance.driver_suite import DriverSuite
from tests.fakes.local_driver import IMAGE, EngineAway, LocalDriver


class TestLocalDriver(DriverSuite):
    image = IMAGE

    @pytest.fixture(autouse=True)
    def _here(self, short_path: Path) -> Iterator[None]:
        self.root = short_path
        yield
        LocalDriver(short_path).kill_all()

    def driver(self, instance: str) -> SandboxDriver:
        return LocalDriver(self.root, instance)

    def driver_of_silent_platform(self) -> SandboxDriver:
        return EngineAway(self.root)
