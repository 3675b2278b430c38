"""The fake that the unit tests use: the real guest as plain processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.conformance import Difference, DriverSuite
from orchestrator.sandboxes.driver import SandboxDriver
from tests.fakes.local_driver import IMAGE, EngineAway, LocalDriver


class TestLocalDriver(DriverSuite):
    image = IMAGE
    differs = frozenset({Difference.NO_ISOLATION, Difference.NO_LIMITS})
    root: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _here(cls, short_folder: Path) -> Iterator[None]:
        cls.root = short_folder
        yield
        LocalDriver(short_folder).kill_all()

    @classmethod
    def driver(cls, instance: str) -> SandboxDriver:
        return LocalDriver(cls.root, instance)

    @classmethod
    def driver_of_silent_platform(cls) -> SandboxDriver:
        return EngineAway(cls.root)
