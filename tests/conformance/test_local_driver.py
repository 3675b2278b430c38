"""The fake that the unit tests use: the real guest as plain processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.conformance import Difference, DriverSuite
from orchestrator.conformance.bench import entered, make, owned, says
from orchestrator.sandboxes.driver import Found, SandboxDriver, SandboxRef, SandboxState, SandboxStatus
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

    async def test_what_is_pruned_begins_again_with_its_files(self, opened: LocalDriver) -> None:
        spec = self.spec()
        ref = await make(opened, spec)
        async with entered(opened, ref) as box:
            await says(box, "echo kept > marker; (while sleep 0.05; do touch runs; done) >/dev/null 2>&1 &")
        await opened.prune(ref)
        assert await opened.inspect(ref) == SandboxStatus(SandboxState.ABSENT, has_files=True)
        (found,) = [each async for each in opened.owned()]
        assert found == Found(SandboxRef(ref.sandbox_id, ""), SandboxState.ABSENT, has_files=True)
        again = await make(opened, spec)
        async with entered(opened, again) as box:
            assert await says(box, "rm -f runs; sleep 0.3; cat marker; ls") == b"kept\nmarker\n"
        await opened.prune(again)
        await opened.destroy(found.ref)
        assert await owned(opened) == set()
