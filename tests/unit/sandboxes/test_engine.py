from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.driver import SandboxRef


def open_sockets() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found += str(descriptor.readlink()).startswith("socket:")
        except FileNotFoundError:
            pass  # the one that the folder itself was read with
    return found


def test_an_engine_that_is_away_costs_no_sockets(tmp_path: Path) -> None:
    driver = DockerDriver(f"unix://{tmp_path}/none.sock", "test")

    async def try_to_open() -> EngineUnavailable:
        with pytest.raises(EngineUnavailable) as refused:
            await driver.open()
        return refused.value

    before = open_sockets()
    refusals = [asyncio.run(try_to_open()) for _ in range(3)]  # with their tracebacks, and whatever hangs on these
    assert open_sockets() == before
    assert all("none.sock" in refusal.message for refusal in refusals)
    asyncio.run(driver.aclose())


@pytest.mark.anyio
async def test_a_stream_that_opens_after_nobody_waits_for_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = await asyncio.to_thread(DockerDriver, "unix:///none.sock", "test")
    ours, theirs = socket.socketpair()
    is_asked, may_answer = threading.Event(), threading.Event()

    def bridge(_token: str) -> socket.socket:
        is_asked.set()
        may_answer.wait(10)
        return theirs

    monkeypatch.setattr(driver, "_bridge", bridge)
    connecting = asyncio.create_task(driver.connect(SandboxRef("a", "token")))
    await asyncio.to_thread(is_asked.wait, 10)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    may_answer.set()
    with ours:
        ours.settimeout(5)
        assert await asyncio.to_thread(ours.recv, 1) == b"", "it is not closed"
    await driver.aclose()
