"""The Docker driver on a real engine: with disks and with writable layers, and with gVisor's runtime."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator.config import Settings
from orchestrator.conformance import Difference, DriverSuite
from orchestrator.sandboxes.disks import Disks, can_use_disks
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.driver import SandboxDriver

pytestmark = pytest.mark.e2e


class _OnDocker(DriverSuite):
    settings: ClassVar[Settings]
    root: ClassVar[Path]
    disks: ClassVar[Path | None]
    """Where the sandboxes' disks are; None for layers."""
    uses_disks: ClassVar[bool] = True
    is_direct: ClassVar[bool | None] = None
    """Whether guests are reached past the engine; None: where that can be."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _here(cls, engine: Settings, short_folder: Path) -> Iterator[None]:
        cls.settings, cls.image, cls.root, cls.disks = engine, engine.image, short_folder, None
        if not cls.uses_disks:
            yield
            return
        if reason := can_use_disks(engine.engine_url):
            pytest.skip(f"sandboxes with disks are NOT checked: {reason}")
        pool = Disks(short_folder, 8 << 30)
        pool.open()
        cls.disks = short_folder / "files"
        yield
        pool.close()

    @classmethod
    def driver(cls, instance: str) -> SandboxDriver:
        disks = None if cls.disks is None else Disks(cls.disks / instance)
        return DockerDriver(cls.settings.engine_url, instance, disks, is_direct=cls.is_direct)

    @classmethod
    def driver_of_silent_platform(cls) -> SandboxDriver:
        return DockerDriver(f"unix://{cls.root}/no-engine.sock", "test")

    @pytest.fixture(autouse=True)
    def _collects(self) -> Iterator[None]:
        """The SDK leaves the socket open on which it could not connect."""
        yield
        gc.collect()


class TestRunc(_OnDocker):
    runtime = "runc"


class TestRuncWithLayers(_OnDocker):
    """As where the server is not root on the engine's machine."""

    runtime = "runc"
    uses_disks = False
    is_direct = False
    differs = frozenset({Difference.NO_DISK_LIMIT, Difference.WRITABLE_ROOT})


class TestRunsc(_OnDocker):
    runtime = "runsc"
    differs = frozenset(
        {
            Difference.OWN_KERNEL,
            Difference.NO_AUTOMOUNT_FLAG,
            Difference.OOM_ENDS_THE_SANDBOX,
            Difference.PIDS_END_THE_SANDBOX,
        }
    )

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _has_runtime(cls, runsc: Settings) -> None:
        """Fails, or skips loudly, without gVisor."""
