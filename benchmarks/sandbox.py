"""Sandboxes of our own, made by the Docker driver as a server makes them, without the server."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import docker

from benchmarks.plan import Plan
from orchestrator.config import Settings
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.disks import Disks, can_use_disks
from orchestrator.sandboxes.docker import INSTANCE_LABEL, DockerDriver
from orchestrator.sandboxes.driver import SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link

_REMOVED_AT_ONCE = 6
_UNMOUNT_TIMEOUT_S = 10.0


@asynccontextmanager
async def open_driver(plan: Plan) -> AsyncIterator[DockerDriver]:
    """A driver with an identity and, where that is possible, disks of its own. All that it made is gone at the end.

    It has made a sandbox before: the first one of a driver's life builds what all others are copies of.
    """
    settings, instance = plan.settings, f"bench-{secrets.token_hex(6)}"
    with tempfile.TemporaryDirectory(prefix="driver-", dir=plan.output) as folder:
        disks = None if can_use_disks(settings.engine_url) else Disks(Path(folder) / "disks")
        driver = DockerDriver(settings.engine_url, instance, disks)
        try:
            await driver.open()
            await destroy(driver, await start(driver, settings.image))
            yield driver
        finally:
            remove_all(settings, instance)
            await driver.aclose()
            unmount_below(Path(folder))


@asynccontextmanager
async def open_sandboxes(plan: Plan, count: int) -> AsyncIterator[list[Sandbox]]:
    """Running sandboxes with open links; destroyed at the end."""
    async with open_driver(plan) as driver, AsyncExitStack() as stack:
        sandboxes = []
        for _ in range(count):
            sandboxes.append(await start(driver, plan.settings.image))
            stack.push_async_callback(sandboxes[-1].link.aclose)
        yield sandboxes


async def start(driver: DockerDriver, image: str, snapshot: str = "") -> Sandbox:
    """A new sandbox with an open link."""
    async with aclosing(driver.create(SandboxSpec(new_sandbox_id(), image, snapshot=snapshot))) as stages:
        async for stage in stages:
            ref = stage
    return Sandbox(ref, await Link.open(await driver.connect(ref), generation=1), {})


async def destroy(driver: DockerDriver, sandbox: Sandbox) -> None:
    """Closes the link and removes the sandbox."""
    await sandbox.link.aclose()
    await driver.destroy(sandbox.ref)


def remove_all(settings: Settings, instance: str) -> None:
    """Removes every container that a server with this identity left."""
    client = docker.DockerClient(base_url=settings.engine_url)
    try:
        found = client.api.containers(all=True, filters={"label": f"{INSTANCE_LABEL}={instance}"})
        with ThreadPoolExecutor(_REMOVED_AT_ONCE) as threads:
            list(threads.map(lambda each: client.api.remove_container(each["Id"], force=True, v=True), found))
    finally:
        client.close()


def unmount_below(folder: Path) -> None:
    """Unmounts what a server mounted below its data folder: the disks of sandboxes, and their pool."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in reversed([each for each in mounted if Path(each).is_relative_to(folder)]):
        deadline = time.monotonic() + _UNMOUNT_TIMEOUT_S
        # The kernel lets go of a disk a moment after its container has gone.
        while subprocess.run(["umount", path], check=False, capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{path} cannot be unmounted")
            time.sleep(0.1)
