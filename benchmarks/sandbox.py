"""Sandboxes of our own, made by the Docker driver without a server around it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import docker

from orchestrator.config import Settings
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.docker import INSTANCE_LABEL, DockerDriver
from orchestrator.sandboxes.driver import SandboxRef, SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link


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
        for container in client.containers.list(all=True, filters={"label": f"{INSTANCE_LABEL}={instance}"}):
            container.remove(force=True, v=True)
    finally:
        client.close()
