"""The order and the time of the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import structlog.testing

from orchestrator.app import _Deadline

pytestmark = pytest.mark.anyio


async def test_a_part_that_hangs_leaves_the_others_their_time() -> None:
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("hanging")

    async def end() -> None:
        ended.append("quick")

    deadline = _Deadline(0.2)
    loop = asyncio.get_running_loop()
    before = loop.time()
    with structlog.testing.capture_logs() as lines:
        await deadline.end("runs", hang, 0.5)
        assert 0.05 < loop.time() - before < 0.2
        await deadline.end("sandboxes", end, 0.75)
        await asyncio.sleep(0)
    assert sorted(ended) == ["hanging", "quick"]
    assert [(line["event"], line["part"]) for line in lines] == [("stop_cut_short", "runs")]


async def test_a_part_that_does_not_heed_its_cancel_is_not_waited_for() -> None:
    async def deaf() -> None:
        while True:
            try:
                await asyncio.sleep(0.3)
            except asyncio.CancelledError:
                await asyncio.sleep(0.3)
                return

    async with asyncio.timeout(0.25):
        await _Deadline(0.05).end("runs", deaf, 1.0)


async def test_a_part_that_fails_says_so() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await _Deadline(1.0).end("runs", fail, 0.5)


def test_a_server_beside_its_engine_imports_nothing_of_ssh() -> None:
    program = (
        "import sys\n"
        "import orchestrator.app\n"
        "from orchestrator.sandboxes.docker import DockerDriver\n"
        "DockerDriver('unix:///nowhere', 'test')\n"
        "print([name for name in ('paramiko', 'nacl', 'pydantic_ai') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
