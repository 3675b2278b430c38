"""Readers that lose their connection over and over: together the pieces are the stream, and nothing is left of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import running
from tests.fakes.runs import bash, scripted
from tests.stress.conftest import UsualServer
from tests.stress.reading import connect, eventually, stream_path, whole_stream

READERS = 20
CYCLES = 100
_LARGEST_CUT_BYTES = 4000
_TURN = {"text": "All work and no play makes Jack a dull boy. " * 400, "chunk": 50, "calls": [bash("sleep 0.3")]}
STORY = scripted(*[_TURN] * 10)
"""Over half a megabyte: nobody is through it after so many pieces of that size. It takes a few seconds."""


async def _storm(port: int, interaction_id: str) -> tuple[set[bytes], int]:
    """What all readers put together, and how many connections were cut within a frame."""

    async def read(seed: int) -> tuple[bytes, int]:
        random = Random(seed)
        pieces = b""
        last_id = ""
        within = 0
        for _ in range(CYCLES):
            path, cut = stream_path(interaction_id, last_id), random.randrange(1, _LARGEST_CUT_BYTES)
            frames = await (await connect(port, path, keeps=True, cut_after_bytes=cut)).read_all()
            assert not frames.has_end
            pieces += frames.kept
            last_id = frames.last_id or last_id
            within += frames.partial != b""
        rest = await (await connect(port, stream_path(interaction_id, last_id), keeps=True)).read_all()
        return pieces + rest.kept, within

    read_by_all = await asyncio.gather(*(read(seed) for seed in range(READERS)))
    return {pieces for pieces, _ in read_by_all}, sum(within for _, within in read_by_all)


@pytest.mark.anyio
async def test_a_storm_of_reconnects_reads_the_stream_and_leaves_nothing_open(process: UsualServer) -> None:
    first = process.ended(process.create("```bash\ntrue\n```")["id"])
    before = process.open_connections
    begun = process.create(STORY, environment=first["environment_id"])
    read, within = await _storm(process.port, begun["id"])
    assert within > READERS * CYCLES / 2
    assert process.ended(begun["id"])["status"] == "completed"
    whole = await whole_stream(process.port, begun["id"])
    assert read == {bytes(whole.kept)}
    await eventually(lambda: process.open_connections <= before, within_s=10)


@pytest.mark.anyio
async def test_a_storm_of_reconnects_leaves_no_task(tmp_path: Path, sandboxes: Path) -> None:
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as server:
        port = int(server.url.rpartition(":")[2])
        begun = await server.create(STORY, environment="remote", background=True)
        names = {task.get_name() for task in asyncio.all_tasks()}
        read, _ = await _storm(port, begun["id"])
        await server.ended(begun["id"])
        assert read == {bytes((await whole_stream(port, begun["id"])).kept)}

        def new_tasks() -> set[str]:
            return {task.get_name() for task in asyncio.all_tasks()} - names

        await eventually(lambda: len(new_tasks()) <= 1, within_s=10)  # the timer of the environment
