"""A thousand readers at once: all of them get every byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stress.conftest import UsualServer
from tests.stress.reading import crowd, held_back, let_go, stream_path, whole_stream

READERS = 1000
STORY = held_back({"text": "All work and no play makes Jack a dull boy. " * 250, "chunk": 20})
SHORT_STORY = held_back({"thought": "Look first.", "text": "All work and no play. " * 100, "chunk": 20})
RUNS = 20


@pytest.mark.anyio
async def test_a_thousand_readers_of_one_live_run_get_the_same_bytes(process: UsualServer, sandboxes: Path) -> None:
    begun = process.create(STORY)
    async with crowd(process.port, [stream_path(begun["id"])] * READERS) as readers:
        await let_go(sandboxes)
        seen = [await reader.read_all() for reader in readers]
    whole = await whole_stream(process.port, begun["id"])
    assert whole.count > 500
    assert {frames.digest for frames in seen} == {whole.digest}
    assert all(frames.is_complete and frames.partial == b"" for frames in seen)


@pytest.mark.anyio
async def test_a_thousand_readers_of_many_live_runs_get_each_its_own(process: UsualServer, sandboxes: Path) -> None:
    begun = [process.create(SHORT_STORY)["id"] for _ in range(RUNS)]
    async with crowd(process.port, [stream_path(each) for each in begun * (READERS // RUNS)]) as readers:
        await let_go(sandboxes, RUNS)
        seen = [(await reader.read_all()).digest for reader in readers]
    whole = [(await whole_stream(process.port, each)).digest for each in begun]
    assert len(set(whole)) == RUNS
    assert seen == whole * (READERS // RUNS)


@pytest.mark.anyio
async def test_a_thousand_readers_of_a_stored_run_get_the_same_bytes(process: UsualServer, sandboxes: Path) -> None:
    begun = process.create(STORY)
    await let_go(sandboxes)
    process.ended(begun["id"])
    whole = await whole_stream(process.port, begun["id"])
    async with crowd(process.port, [stream_path(begun["id"])] * READERS) as readers:
        assert {(await reader.read_all()).digest for reader in readers} == {whole.digest}
