"""The Docker driver on an engine that is far away, behind SSH and behind TLS: what goes through the way to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator.config import Settings
from orchestrator.conformance import Difference
from orchestrator.conformance.archives import ArchiveChecks
from orchestrator.conformance.calls import CallChecks
from orchestrator.conformance.lifecycle import LifecycleChecks
from orchestrator.conformance.output import OutputChecks
from orchestrator.conformance.pausing import PausingChecks
from orchestrator.conformance.snapshots import SnapshotChecks
from orchestrator.conformance.streams import StreamChecks
from orchestrator.sandboxes.docker import DockerDriver, Tls
from orchestrator.sandboxes.driver import SandboxDriver
from tests.fakes.far_engine import SSHD, SshServer, TlsServer

pytestmark = pytest.mark.e2e


class _FarAway(SnapshotChecks, PausingChecks, ArchiveChecks, OutputChecks, CallChecks, StreamChecks, LifecycleChecks):
    runtime = "runc"
    differs = frozenset({Difference.NO_DISK_LIMIT, Difference.WRITABLE_ROOT})
    url: ClassVar[str]
    tls: ClassVar[Tls | None] = None

    @classmethod
    def driver(cls, instance: str) -> SandboxDriver:
        return DockerDriver(cls.url, instance, tls=cls.tls)

    @classmethod
    def driver_of_silent_platform(cls) -> SandboxDriver:
        nowhere = cls.url.rpartition(":")[0]
        return DockerDriver(f"{nowhere}:1", "test", tls=cls.tls)


class TestOverSsh(_FarAway):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _server(cls, engine: Settings, short_folder: Path) -> Iterator[None]:
        if not SSHD.exists():
            pytest.skip("engines behind SSH are NOT checked: there is no sshd (scripts/sshd.sh installs it)")
        server = SshServer(short_folder, engine.engine_url)
        server.start()
        cls.url, cls.image = server.url, engine.image
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(server.home))
            yield
        server.stop()


class TestOverTls(_FarAway):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _server(cls, engine: Settings, short_folder: Path) -> Iterator[None]:
        server = TlsServer(short_folder, engine.engine_url)
        server.start()
        cls.url, cls.tls, cls.image = server.url, server.tls, engine.image
        yield
        server.stop()
