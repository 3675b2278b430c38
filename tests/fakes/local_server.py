"""The whole server on loopback, with sandboxes that are plain processes: within a test, or as a process of its own.

As a process: `python -m tests.fakes.local_server SANDBOXES`, with settings as variables; in all else `corral serve`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from orchestrator import app
from orchestrator.api.application import create_application
from orchestrator.api.server import Server, bind
from orchestrator.api.services import Services
from orchestrator.config import PoolSettings, Settings
from orchestrator.sandboxes.driver import SandboxDriver
from tests.fakes.local_driver import IMAGE, LocalDriver


class RunningServer:
    """One server and a client of it."""

    def __init__(self, services: Services, url: str) -> None:
        self.services = services
        self.url = url
        self.client = httpx2.AsyncClient(base_url=url, timeout=30, limits=httpx2.Limits(max_connections=None))

    async def create(self, text: str, **fields: Any) -> dict[str, Any]:
        """An interaction that is run to its end, or begun (`background`)."""
        answer = await self.client.post("/v1beta/interactions", json={"agent": "general", "input": text, **fields})
        assert answer.status_code == 200, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def read(self, interaction_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/v1beta/interactions/{interaction_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def ended(self, interaction_id: str) -> dict[str, Any]:
        """The interaction once it has ended."""
        async with asyncio.timeout(20):
            while (found := await self.read(interaction_id))["status"] == "in_progress":
                await asyncio.sleep(0.02)
        return found

    async def stream(self, interaction_id: str, after: str = "") -> bytes:
        """All bytes of the interaction's stream."""
        params = {"stream": "true", "last_event_id": after}
        answer = await self.client.get(f"/v1beta/interactions/{interaction_id}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.content

    async def cancel(self, interaction_id: str) -> dict[str, Any]:
        answer = await self.client.post(f"/v1beta/interactions/{interaction_id}/cancel")
        assert answer.status_code == 200, answer.text
        cancelled: dict[str, Any] = answer.json()
        return cancelled


@asynccontextmanager
async def running(data_dir: Path, driver: SandboxDriver, **settings: Any) -> AsyncGenerator[RunningServer, None]:
    """A server in this process, from its start to its orderly end; without a pool, since tests count sandboxes."""
    settings = {"pool": PoolSettings(size=0), **settings}
    chosen = Settings(data_dir=data_dir, image=IMAGE, port=0, **settings)
    async with app.open_services(chosen, driver) as services:
        listening = bind(chosen.host, 0)
        server = Server(create_application(services), services.closing)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        running = RunningServer(services, f"http://127.0.0.1:{listening.getsockname()[1]}")
        try:
            yield running
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=False)
            await running.client.aclose()


def frames(stream: bytes) -> list[bytes]:
    """The frames of a whole stream, comments left out."""
    assert stream.endswith(b"\n\n"), "the stream ends within a frame"
    return [frame + b"\n\n" for frame in stream.split(b"\n\n")[:-1] if not frame.startswith(b":")]


def event_of(frame: bytes) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(frame.split(b"data: ", 1)[1])
    return event


def main() -> None:
    root = Path(sys.argv[1])
    app._docker = lambda _settings: LocalDriver(root)  # type: ignore[assignment]
    app.serve(Settings.load(image=IMAGE))


if __name__ == "__main__":
    main()
