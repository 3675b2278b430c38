"""The Docker driver on a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import Settings
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.driver import SandboxDriver
from tests.conformance.driver_suite import DriverSuite

pytestmark = pytest.mark.e2e


class TestDockerDriver(DriverSuite):
    @pytest.fixture(autouse=True)
    def _here(self, engine: Settings, tmp_path: Path) -> None:
        self.settings = engine
        self.nowhere = f"unix://{tmp_path}/no-engine.sock"

    @property
    def image(self) -> str:
        return self.settings.image

    def driver(self, instance: str) -> SandboxDriver:
        return DockerDriver(self.settings.engine_url, instance)

    def driver_of_silent_platform(self) -> SandboxDriver:
        return DockerDriver(self.nowhere, "test")
