"""Sandboxes of our own, made by the Docker driver without a server around it."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import docker

from orchestrator.config import Settings
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.docker import INSTANCE_LABEL, DockerDriver
from orchestrator.sandboxes.driver import SandboxRef, SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link

_REMOVED_AT_ONCE = 6
_UNMOUNT_TIMEOUT_S = 10.0


@asynccontextmanager
async def open_sandboxes(settings: Settings, count: int) -> AsyncIterator[list[Sandbox]]:
    """Running sandboxes with open links; destroyed at the end."""
    driver = DockerDriver(settings.engine_url, f"bench-{secrets.token_hex(6)}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(driver.aclose)
        await driver.open()
        sandboxes = []
        for _ in range(count):
            ref = await _create(driver, settings.image, stack)
            link = await Link.open(await driver.connect(ref), generation=1)
            stack.push_async_callback(link.aclose)
            sandboxes.append(Sandbox(ref, link, {}))
        yield sandboxes


async def _create(driver: DockerDriver, image: str, stack: AsyncExitStack) -> SandboxRef:
    latest: SandboxRef | None = None
    async with aclosing(driver.create(SandboxSpec(new_sandbox_id(), image))) as stages:
        async for ref in stages:
            if latest is None:
                stack.push_async_callback(driver.destroy, ref)
            latest = ref
    assert latest is not None
    return latest


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
