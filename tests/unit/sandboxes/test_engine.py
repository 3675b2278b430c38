from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.docker import DockerDriver


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
