"""The way past the engine, with real containers: taken where it can be, nothing hostile in its place is followed."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from orchestrator.config import Settings
from orchestrator.errors import SandboxGone
from orchestrator.sandboxes.docker import DockerDriver, direct
from orchestrator.sandboxes.driver import SandboxRef, SandboxSpec
from orchestrator.sandboxes.engine_host import reason_to_stay_out
from orchestrator.sandboxes.link import Link

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def client(engine: Settings) -> Iterator[docker.DockerClient]:
    if reason := reason_to_stay_out(engine.engine_url, "pid"):
        pytest.skip(f"direct links are NOT tested: {reason}")
    client = docker.DockerClient(base_url=engine.engine_url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def container(client: docker.DockerClient, engine: Settings) -> Iterator[Any]:
    """Not a sandbox: its root may do what a guest would not."""
    made = client.containers.run(
        engine.image, ["sleep", "600"], detach=True, network_mode="none", user="0:0", tmpfs={"/run": ""}
    )
    yield made
    made.remove(force=True)


@pytest.fixture
async def driver(engine: Settings, client: docker.DockerClient) -> AsyncIterator[DockerDriver]:
    driver = DockerDriver(engine.engine_url, f"direct-{uuid.uuid4().hex[:8]}")
    yield driver
    async for found in driver.owned():
        await driver.destroy(found.ref)
    await driver.aclose()


async def made(driver: DockerDriver, image: str) -> SandboxRef:
    return [ref async for ref in driver.create(SandboxSpec(uuid.uuid4().hex, image))][-1]


async def test_the_engine_carries_no_stream(
    driver: DockerDriver, client: docker.DockerClient, engine: Settings
) -> None:
    assert (await driver.open()).details["links"] == "direct"
    ref = await made(driver, engine.image)
    for generation in (1, 2):
        link = await Link.open(await driver.connect(ref), generation)
        assert await link.ask({"service": "calls"}) == {"calls": {}}
        found = client.api.inspect_container(ref.token)
        assert (found["Config"]["OpenStdin"], found["ExecIDs"]) == (False, None)
        await link.aclose()


async def test_what_the_machine_forbids_goes_through_the_engine(
    driver: DockerDriver, client: docker.DockerClient, engine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, container_id: str) -> None:
        raise PermissionError(13, "forbidden by a security module")

    monkeypatch.setattr(direct, "connect", refuse)
    await driver.open()
    ref = await made(driver, engine.image)
    link = await Link.open(await driver.connect(ref), 1)
    assert await link.ask({"service": "calls"}) == {"calls": {}}
    assert client.api.inspect_container(ref.token)["ExecIDs"]
    await link.aclose()


async def test_a_stopped_sandbox_is_gone_at_once(driver: DockerDriver, engine: Settings) -> None:
    await driver.open()
    ref = await made(driver, engine.image)
    await driver.stop(ref)
    began = time.monotonic()
    with pytest.raises(SandboxGone, match="exited"):
        await driver.connect(ref)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("preparation", "reason"),
    [
        ("mkdir /run/there; ln -s there /run/corral", "Not a directory"),
        ("ln -s /proc/self/root/run /run/corral", "Not a directory"),
        ("mkdir /run/corral; ln -s /run/docker.sock /run/corral/guest.sock", "is none"),
        ("mkdir /run/corral; echo >/run/corral/guest.sock", "is none"),
        ("mkdir -p /run/corral/guest.sock", "is none"),
        ("mkdir /run/corral; mkfifo /run/corral/guest.sock", "is none"),
        (
            "mkdir /run/corral; python3 -c 'import socket, os; s = socket.socket(socket.AF_UNIX)\n"
            's.bind("/run/corral/guest.sock"); os.chown("/run/corral/guest.sock", 1000, 1000)\'',
            "is none",
        ),
        (
            "mkdir /run/corral; cd /run/corral; "
            "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"guest.sock\")'",
            "did not start in time",
        ),
        ("true", "did not start in time"),
    ],
)
def test_nothing_hostile_in_the_guests_place_is_followed(
    container: Any, monkeypatch: pytest.MonkeyPatch, preparation: str, reason: str
) -> None:
    monkeypatch.setattr(direct, "_WAIT_FOR_GUEST_S", 0.2)
    done = container.exec_run(["bash", "-c", f"rm -rf /run/corral /run/there; {preparation}"])
    assert done.exit_code == 0, done.output
    container.reload()
    with pytest.raises(SandboxGone, match=reason):
        direct.connect(container.attrs["State"]["Pid"], container.id)


def test_a_number_that_is_another_process_by_now_is_not_spoken_to(container: Any) -> None:
    with pytest.raises(SandboxGone, match="has ended"):
        direct.connect(os.getpid(), container.id)


def test_a_process_that_is_gone_is_gone(container: Any) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(SandboxGone, match="No such file"):
        direct.connect(pid, container.id)


def test_a_container_that_ends_while_its_guest_is_waited_for_is_gone(
    client: docker.DockerClient, engine: Settings
) -> None:
    brief = client.containers.run(engine.image, ["sleep", "1"], detach=True, network_mode="none")
    try:
        brief.reload()
        began = time.monotonic()
        with pytest.raises(SandboxGone):
            direct.connect(brief.attrs["State"]["Pid"], brief.id)
        assert time.monotonic() - began < 5
    finally:
        brief.remove(force=True)


def test_no_descriptor_is_left(container: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_WAIT_FOR_GUEST_S", 0.01)
    container.reload()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with contextlib.suppress(SandboxGone):
            direct.connect(container.attrs["State"]["Pid"], container.id)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
