"""The readers' end, while somebody who has left still reads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.readers import Readers

pytestmark = pytest.mark.anyio


@pytest.fixture
async def readers(tmp_path: Path) -> Readers:
    path = tmp_path / "a.db"
    sqlite3.connect(path).close()
    made = Readers(path)
    await made.start()
    return made


async def test_their_end_waits_for_a_read_whose_caller_has_left(readers: Readers) -> None:
    reads, goes_on, has_read = threading.Event(), threading.Event(), threading.Event()

    def read(connection: sqlite3.Connection) -> None:
        reads.set()
        goes_on.wait(10)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        has_read.set()

    reading = asyncio.create_task(readers.run(read))
    assert await asyncio.to_thread(reads.wait, 10)
    reading.cancel()
    await asyncio.wait([reading])
    closing = asyncio.create_task(readers.aclose())
    # All threads that are free have had their turn by now.
    await asyncio.wait([closing], timeout=0.2)
    goes_on.set()
    await closing
    assert has_read.is_set()
    await readers.aclose()
    with pytest.raises(StoreError, match="closed"):
        await readers.run(lambda connection: connection.execute("SELECT 1"))
