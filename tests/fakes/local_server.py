"""The whole server on loopback, with sandboxes that are plain processes: within a test, or as a process of its own.

As a process: `python -m tests.fakes.local_server SANDBOXES`, with settings as variables; in all else `corral serve`. As
long as there is a folder `SANDBOXES/hangs`, its engine does not answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from orchestrator import app
from orchestrator.api.application import create_application
from orchestrator.api.server import Server, bind
from orchestrator.api.services import Services
from orchestrator.config import PoolSettings, Settings
from orchestrator.sandboxes.driver import (
    DriverInfo,
    Found,
    GuestStream,
    SandboxDriver,
    SandboxRef,
    SandboxSpec,
    SandboxStatus,
)
from tests.fakes.local_driver import IMAGE, LocalDriver

_REPOSITORY = Path(__file__).resolve().parents[2]


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
    # All guests are on this machine's loopback, where the port of the way out can be had once.
    settings = {"pool": PoolSettings(size=0), "sandbox_network": "none", **settings}
    chosen = Settings(data_dir=data_dir, image=IMAGE, port=0, **settings)
    async with app.open_services(chosen, driver) as services:
        listening = bind(chosen.host, 0)
        server = Server(create_application(services), services.closing.set)
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


class ServerProcess:
    """The server as a process of its own; `settings` are upper case, without the prefix."""

    def __init__(self, data_dir: Path, sandboxes: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = data_dir.with_name("server.log")
        self._sandboxes = sandboxes
        self._env = {
            "PATH": os.environ["PATH"],
            "CORRAL_DATA_DIR": str(data_dir),
            "CORRAL_PORT": str(self.port),
            "CORRAL_CONFIG": os.devnull,
            "CORRAL_SANDBOX_NETWORK": "none",
            **{f"CORRAL_{name}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Starts it and returns at once."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.local_server", str(self._sandboxes)],
                cwd=_REPOSITORY,
                env=self._env,
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Starts it and returns when it answers."""
        self.launch()
        assert self.process is not None
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx2.get(f"{self.url}/healthz")
                return
            except httpx2.TransportError:
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def end(self, number: int) -> float:
        """Sends a signal and waits; how long the process took to end."""
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(15)
        return time.monotonic() - started

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def returncode(self) -> int | None:
        return self.process.poll() if self.process is not None else None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def create(self, text: str, **fields: Any) -> dict[str, Any]:
        request = {"agent": "general", "input": text, "environment": "remote", "background": True, **fields}
        created: dict[str, Any] = httpx2.post(f"{self.url}/v1beta/interactions", json=request, timeout=30).json()
        return created

    def ended(self, interaction_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            found: dict[str, Any] = httpx2.get(f"{self.url}/v1beta/interactions/{interaction_id}").json()
            if found["status"] != "in_progress":
                return found
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)


class EngineHangs(LocalDriver):
    """As long as a folder `hangs` is among the sandboxes no call returns, and each holds a thread, as an SDK's does."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._sign = root / "hangs"

    async def open(self) -> DriverInfo:
        await self._answer()
        return await super().open()

    async def has_image(self, image: str) -> bool:
        await self._answer()
        return await super().has_image(image)

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        await self._answer()
        async for ref in super().create(spec):
            yield ref

    async def start(self, ref: SandboxRef) -> None:
        await self._answer()
        await super().start(ref)

    async def stop(self, ref: SandboxRef) -> None:
        await self._answer()
        await super().stop(ref)

    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        await self._answer()
        return await super().inspect(ref)

    async def destroy(self, ref: SandboxRef) -> None:
        await self._answer()
        await super().destroy(ref)

    async def owned(self) -> AsyncIterator[Found]:
        await self._answer()
        async for found in super().owned():
            yield found

    async def connect(self, ref: SandboxRef) -> GuestStream:
        await self._answer()
        return await super().connect(ref)

    async def _answer(self) -> None:
        def wait() -> None:
            while self._sign.exists():
                time.sleep(0.05)

        await asyncio.to_thread(wait)


def main() -> None:
    root = Path(sys.argv[1])
    app._docker = lambda _settings: EngineHangs(root)  # type: ignore[assignment]
    app.serve(Settings.load(image=IMAGE))


if __name__ == "__main__":
    main()
