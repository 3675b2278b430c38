"""A thousand readers that do not read: they cost little memory, and nobody beside them waits for them.

Memory is the server's, counted by the kernel: what its process has grown by, and its ends of the connections.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from benchmarks.memory_use import connection_bytes, resident_bytes
from tests.stress.conftest import UsualServer
from tests.stress.reading import connect, crowd, held_back, let_go, stream_path, whole_stream

READERS = 1000
LIMIT_BYTES = 150_000_000
STORY = "Read this. " * 100_000 + "\n" + held_back({"text": "{{last}}" * 100, "chunk": 2000}, says_bytes=100_000)
"""Asked for in a megabyte; ten million bytes of text in 5,000 events, after an event of a hundred thousand."""


async def _timed(process: UsualServer, sandboxes: Path, interaction_id: str) -> tuple[float, str]:
    """Lets the run go on beside a reader that reads: how long that takes, and the digest of what it got."""
    reader = await connect(process.port, stream_path(interaction_id))
    await reader.has_begun
    await let_go(sandboxes)
    started = time.monotonic()
    frames = await reader.read_all()
    assert frames.has_end
    return time.monotonic() - started, frames.digest


async def _settled_bytes(process: UsualServer) -> int:
    """What the server takes, once it takes no more."""
    seen: list[int] = []
    async with asyncio.timeout(30):
        while len(seen) < 3 or max(seen[-3:]) - min(seen[-3:]) > 500_000:
            seen.append(resident_bytes(process.pid) + connection_bytes(process.port))
            await asyncio.sleep(0.5)
    return seen[-1]


@pytest.mark.anyio
async def test_stalled_readers_of_a_live_run_cost_little_and_slow_nobody(process: UsualServer, sandboxes: Path) -> None:
    alone_s, _ = await _timed(process, sandboxes, process.create(STORY)["id"])
    before_bytes = await _settled_bytes(process)
    begun = process.create(STORY)
    async with crowd(process.port, [stream_path(begun["id"])] * READERS, stalls=True) as stalled:
        beside_s, digest = await _timed(process, sandboxes, begun["id"])
        grown_bytes = await _settled_bytes(process) - before_bytes
        assert not any(reader.frames.has_end for reader in stalled)
    whole = await whole_stream(process.port, begun["id"])
    assert len(whole.kept) > 10_000_000
    assert digest == whole.digest
    assert grown_bytes <= LIMIT_BYTES
    assert beside_s < 3 * alone_s + 3, f"{beside_s:.1f} s beside stalled readers, {alone_s:.1f} s without"


@pytest.mark.anyio
async def test_stalled_readers_of_a_stored_run_cost_little_and_may_go_on(process: UsualServer, sandboxes: Path) -> None:
    """What is stored is read in pieces, too: also when single events are large."""
    begun = process.create(held_back({"text": "{{last}}" * 10, "chunk": 50_000}, says_bytes=1_000_000))
    await _timed(process, sandboxes, begun["id"])
    whole = await whole_stream(process.port, begun["id"])
    assert len(whole.kept) > 10_000_000
    before_bytes = await _settled_bytes(process)
    async with crowd(process.port, [stream_path(begun["id"])] * 100, stalls=True) as stalled:
        grown_bytes = await _settled_bytes(process) - before_bytes
        assert grown_bytes <= LIMIT_BYTES
        for reader in stalled[:20]:
            reader.go_on()
        assert {(await reader.read_all()).digest for reader in stalled[:20]} == {whole.digest}
