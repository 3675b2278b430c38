"""The Docker driver on a real engine: with disks and with writable layers, with gVisor's runtime."""

from __future__ import annotations

import asyncio
import gc
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import docker
import pytest
from requests.exceptions import ReadTimeout

from orchestrator.config import Settings
from orchestrator.conformance import Difference, DriverSuite
from orchestrator.conformance.bench import entered, make, says
from orchestrator.conformance.integrity import Manifest
from orchestrator.errors import EngineUnavailable, SandboxStartFailed
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.disks import Disks, can_use_disks
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.docker import driver as driver_module
from orchestrator.sandboxes.docker.storage import Image
from orchestrator.sandboxes.driver import Found, SandboxDriver, SandboxRef, SandboxSpec, SandboxState

pytestmark = pytest.mark.e2e

_PODMAN = Path(__file__).parents[2] / "scripts" / "podman.sh"


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


class _Survives(_OnDocker):
    """What comes between the engine and the one who asked it for a sandbox."""

    async def test_a_creation_that_the_engine_finishes_late_is_adopted(
        self, opened: DockerDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that was killed had asked for it; the engine does not notice who has ended."""
        spec = self.spec(name=new_sandbox_id())
        ref = await make(opened, spec)
        async with entered(opened, ref) as box:
            await says(box, "echo kept > marker")
        answers = iter([None, None])
        find = opened._find
        monkeypatch.setattr(opened, "_find", lambda sandbox_id: next(answers, find(sandbox_id)))
        assert await make(opened, spec) == ref
        async with entered(opened, ref, 2) as box:
            assert await says(box, "cat marker") == b"kept\n"

    async def test_the_name_of_another_sandbox_is_not_taken_from_it(
        self, opened: DockerDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver_module, "_APPEARS_WITHIN_S", 0.2)
        name = new_sandbox_id()
        ref = await make(opened, self.spec(name=name))
        with pytest.raises(SandboxStartFailed, match="name"):
            await make(opened, self.spec(name=name))
        assert (await opened.inspect(ref)).state is SandboxState.RUNNING

    async def test_a_creation_without_an_answer_may_have_come_true(
        self, opened: DockerDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = self.spec()
        create = opened._create

        def unanswered(spec: SandboxSpec, image: Image) -> str:
            create(spec, image)
            raise ReadTimeout("nothing came")

        monkeypatch.setattr(opened, "_create", unanswered)
        with pytest.raises(EngineUnavailable):
            await make(opened, spec)
        monkeypatch.undo()
        (found,) = [each async for each in opened.owned()]
        assert (found.state, found.has_files) == (SandboxState.CREATED, True)
        ref = await make(opened, spec)
        assert ref == found.ref
        async with entered(opened, ref) as box:
            assert await says(box, "echo ready") == b"ready\n"

    async def test_files_outlive_a_container_that_somebody_removes(
        self, opened: DockerDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = self.spec(name=new_sandbox_id())
        ref = await make(opened, spec)
        async with entered(opened, ref) as box:
            await says(box, "echo kept > marker; sync")
        await asyncio.to_thread(opened._engine.api.remove_container, ref.token, force=True)
        status = await opened.inspect(ref)
        assert (status.state, status.has_files) == (SandboxState.ABSENT, self.uses_disks)
        if not self.uses_disks:
            return

        def refused(spec: SandboxSpec, image: Image) -> str:
            raise SandboxStartFailed("the engine is out of sorts", stage="create")

        monkeypatch.setattr(opened, "_create", refused)
        with pytest.raises(SandboxStartFailed):
            await make(opened, spec)
        monkeypatch.undo()
        (found,) = [each async for each in opened.owned()]
        assert found == Found(SandboxRef(ref.sandbox_id, ""), SandboxState.ABSENT, has_files=True)
        again = await make(opened, spec)
        async with entered(opened, again) as box:
            assert await says(box, "cat marker") == b"kept\n"

    async def test_changes_of_an_image_that_is_gone_are_not_put_above_another(self, opened: DockerDriver) -> None:
        if not self.uses_disks:
            return
        spec = self.spec()
        ref = await make(opened, spec)
        await opened.stop(ref)
        file = Path(opened._storage._disks._sandbox(ref.sandbox_id))  # type: ignore[attr-defined]
        await asyncio.to_thread(subprocess.run, ["e2label", str(file), "sys-0123456789ab"], check=True)
        with pytest.raises(SandboxStartFailed, match="0123456789ab") as started:
            await opened.start(ref)
        await asyncio.to_thread(opened._engine.api.remove_container, ref.token, force=True)
        with pytest.raises(SandboxStartFailed, match="0123456789ab") as made:
            await make(opened, spec)
        assert started.value.stage == made.value.stage == "setup"

    async def test_the_next_server_lets_go_of_disks_that_nothing_runs_on(self) -> None:
        if not self.uses_disks:
            return
        before, after = self.driver(self.instance("check")), self.driver(self.instance("check"))
        assert isinstance(before, DockerDriver)
        await before.open()
        runs, ended = await make(before, self.spec()), await make(before, self.spec())
        await asyncio.to_thread(before._engine.api.kill, ended.token)
        await before.aclose()
        await after.open()
        try:
            mounted = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
            assert {ref.sandbox_id for ref in (runs, ended) if any(ref.sandbox_id in at for at in mounted)} == {
                runs.sandbox_id
            }
            await after.start(ended)
            async with entered(after, ended) as box:
                assert await says(box, "echo ready") == b"ready\n"
        finally:
            for ref in (runs, ended):
                await after.destroy(ref)
            await after.aclose()


class TestRunc(_Survives):
    runtime = "runc"


class TestRuncWithLayers(_Survives):
    """As where the server is not root on the engine's machine."""

    runtime = "runc"
    uses_disks = False
    is_direct = False
    differs = frozenset({Difference.NO_DISK_LIMIT, Difference.WRITABLE_ROOT, Difference.COARSE_SNAPSHOTS})


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


@pytest.mark.timeout(300)  # the image is brought over first
class TestPodman(_Survives):
    """Podman's compatible socket, of a service of the test's own."""

    uses_disks = False
    differs = TestRuncWithLayers.differs

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _podman(cls, engine: Settings, short_folder: Path, _here: None) -> Iterator[None]:
        started = subprocess.run([_PODMAN, "ensure", short_folder], stdout=subprocess.PIPE, check=False, text=True)
        if started.returncode != 0:
            pytest.skip("Podman is NOT checked: it is not there, or its service does not start")
        with (
            closing(docker.DockerClient(engine.engine_url)) as source,
            closing(docker.DockerClient(cls.url())) as target,
        ):
            for image in target.images.load(source.images.get(engine.image).save(named=engine.image)):
                assert any(tag.endswith(engine.image) for tag in image.tags)
        yield
        subprocess.run([_PODMAN, "stop", short_folder], check=True)

    @classmethod
    def url(cls) -> str:
        return f"unix://{cls.root}/podman.sock"

    @classmethod
    def driver(cls, instance: str) -> SandboxDriver:
        return DockerDriver(cls.url(), instance, folder=cls.root / "profiles")

    def _in_snapshot(self, manifest: Manifest) -> Manifest:
        """Its archives keep attributes."""
        coarse = super()._in_snapshot(manifest)
        return {
            name: coarse[name] | {key: seen[key] for key in seen.keys() & {"attributes"}}
            for name, seen in manifest.items()
        }

    async def test_without_a_place_for_its_profile_it_is_refused(self) -> None:
        driver = DockerDriver(self.url(), self.instance("check"))
        with pytest.raises(EngineUnavailable, match="seccomp"):
            await driver.open()
        await driver.aclose()
