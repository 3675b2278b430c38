"""What the author of a driver says about their platform, and the fixtures that all checks share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestrator.conformance.bench import Bench, says
from orchestrator.conformance.differences import Difference
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.driver import Resources, SandboxDriver, SandboxSpec
from orchestrator.sandboxes.handle import Sandbox

_PROCESS = new_sandbox_id()[-8:].lower()
"""Two runs at once on one platform own different sandboxes."""


@pytest.mark.anyio
class Platform(ABC):
    """One platform. The class that `DriverSuite`'s user writes fills in the first part."""

    image: ClassVar[str]
    """What sandboxes are made from. It has bash, python3 and the usual small programs."""
    runtime: ClassVar[str] = ""
    """See `SandboxSpec.runtime`."""
    differs: ClassVar[frozenset[Difference]] = frozenset()
    """In what this platform is not as the others."""
    resources: ClassVar[Resources] = Resources(
        memory_bytes=512 << 20, cpus=2.0, pids=256, open_files=1024, disk_bytes=512 << 20
    )
    """Of sandboxes whose limits no check is about."""

    @classmethod
    @abstractmethod
    def driver(cls, instance: str) -> SandboxDriver:
        """A driver on this platform, not yet open; equal `instance` means the same owner."""

    @classmethod
    @abstractmethod
    def driver_of_silent_platform(cls) -> SandboxDriver:
        """A driver whose platform does not answer."""

    # what checks use

    @classmethod
    def spec(cls, **fields: Any) -> SandboxSpec:
        """A new sandbox of this platform."""
        spec = SandboxSpec(new_sandbox_id(), cls.image, cls.resources, runtime=cls.runtime)
        return replace(spec, **fields)

    @classmethod
    def instance(cls, role: str) -> str:
        """An owner of sandboxes; the same for the same class and role, and nobody else's."""
        return f"test-{_PROCESS}-{cls.__name__.lower()}-{role}"

    def states(self, difference: Difference) -> bool:
        """Whether this platform is otherwise in this."""
        return difference in self.differs

    async def shares_this_machine(self, box: Sandbox, namespace: str) -> bool:
        """Whether a sandbox is in the same namespace (`mnt`, `net`, `pid` …) as the checks: the other of isolation."""
        theirs = await says(box, f"readlink /proc/self/ns/{namespace}")
        ours = await asyncio.to_thread(Path(f"/proc/self/ns/{namespace}").readlink)
        return theirs.decode().strip() == str(ours)

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls) -> str:
        return "asyncio"

    @pytest.fixture(scope="class")
    @classmethod
    async def bench_of_class(cls, anyio_backend: str) -> AsyncGenerator[Bench, None]:
        """An open driver for the whole class; everything on it is gone afterwards."""
        bench = Bench(cls.driver(cls.instance("bench")), cls.spec)
        await bench.driver.open()
        yield bench
        await bench.aclose()

    @pytest.fixture
    async def bench(self, bench_of_class: Bench) -> AsyncGenerator[Bench, None]:
        """What the checks of the class share. Sandboxes that one has for itself go with it."""
        yield bench_of_class
        bench_of_class.leave()

    @pytest.fixture
    async def opened(self) -> AsyncGenerator[SandboxDriver, None]:
        """An open driver for one check; everything that it owns is gone afterwards."""
        bench = Bench(self.driver(self.instance("check")), self.spec)
        await bench.driver.open()
        yield bench.driver
        await bench.aclose()

    @pytest.fixture
    async def box(self, bench: Bench) -> Sandbox:
        """The sandbox that the checks of this class share. They leave it as it was, but for files in `folder`."""
        return await bench.shared()

    @pytest.fixture
    async def folder(self, box: Sandbox) -> str:
        """The absolute path of a new empty folder of the agent, in the shared sandbox."""
        name = f"check-{new_sandbox_id()}"
        return (await says(box, f"mkdir {name}; printf '%s' \"$PWD/{name}\"")).decode()
