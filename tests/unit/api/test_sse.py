"""Streams without HTTP: what is sent at a time, when a quiet one is kept alive, where one ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator.api import sse
from orchestrator.clock import SystemClock
from orchestrator.store.records import InteractionRow, NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.events import DONE_FRAME, HEARTBEAT_FRAME, sse_frame
from tests.fakes.rows import interaction_row

pytestmark = pytest.mark.anyio

LAST = NewEvent("interaction.completed", b'{"last":1}')
SMALL = NewEvent("step.delta", b"x" * 100)
LARGE = NewEvent("step.delta", b"y" * 100_000)
JOURNAL = NewEvent("tool.output", b'{"text":"more"}')


class Log:
    """One interaction and its streams."""

    def __init__(self, store: SqliteStore, row: InteractionRow) -> None:
        self.store = store
        self.row = row
        self.closing = asyncio.Event()
        self._next_seq = 1

    async def append(self, *events: NewEvent) -> None:
        await self.store.append(self.row.id, events, generation=1, expected_seq=self._next_seq)
        self._next_seq += len(events)

    def stream(self, after: int = 0, status: str = "in_progress") -> AsyncGenerator[bytes, None]:
        row = interaction_row(self.row.project_id, id=self.row.id, status=status)
        return sse.stream(self.store, row, after=after, closing=self.closing)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncGenerator[Log, None]:
    store = SqliteStore(tmp_path / "corral.db", SystemClock())
    await store.open()
    row = interaction_row((await store.default_project()).id, status="in_progress", generation=1)
    await store.create_interaction(row, [])
    yield Log(store, row)
    await store.aclose()


def framed(*events: NewEvent) -> bytes:
    return b"".join(sse_frame(event.kind, event.body) for event in events)


@pytest.mark.parametrize("status", ["in_progress", "completed"])
async def test_small_events_go_together_and_large_ones_in_parts(log: Log, status: str) -> None:
    events = [*[SMALL] * 300, LARGE, SMALL, LAST]
    await log.append(*events)
    pieces = [piece async for piece in log.stream(status=status)]
    assert b"".join(pieces) == framed(*events) + DONE_FRAME
    assert max(map(len, pieces)) <= 16 * 1024
    assert len(pieces) < 20


async def test_what_is_asked_for_beyond_the_end_gives_the_marker(log: Log) -> None:
    await log.append(SMALL, LAST)
    assert [piece async for piece in log.stream(after=2, status="completed")] == [DONE_FRAME]


async def test_a_quiet_stream_is_kept_alive_while_the_journal_grows(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_HEARTBEAT_S", 0.2)
    is_heard = asyncio.Event()

    async def keep_noting() -> None:
        while not is_heard.is_set():
            await log.append(JOURNAL)
            await asyncio.sleep(0.02)
        await log.append(SMALL, LAST)

    stream = log.stream()
    noting = asyncio.create_task(keep_noting())
    async with asyncio.timeout(10):
        assert [await anext(stream), await anext(stream)] == [HEARTBEAT_FRAME] * 2
        is_heard.set()
        rest = await _read(stream)
        await noting
    assert rest.replace(HEARTBEAT_FRAME, b"") == framed(SMALL, LAST) + DONE_FRAME


async def test_heartbeats_lose_and_repeat_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_HEARTBEAT_S", 0.002)
    pieces: list[bytes] = []

    async def collect() -> None:
        async for piece in log.stream():
            pieces.append(piece)

    reading = asyncio.create_task(collect())
    async with asyncio.timeout(10):
        for _ in range(20):
            for _ in range(10):
                await log.append(SMALL)
            beats = pieces.count(HEARTBEAT_FRAME)
            while pieces.count(HEARTBEAT_FRAME) == beats:
                await asyncio.sleep(0)
        await log.append(LAST)
        await reading
    read = b"".join(pieces)
    assert read.replace(HEARTBEAT_FRAME, b"") == framed(*[SMALL] * 200, LAST) + DONE_FRAME


async def test_a_stream_that_waits_ends_when_the_server_closes(log: Log) -> None:
    await log.append(SMALL)
    reading = asyncio.create_task(_read(log.stream()))
    await asyncio.sleep(0)
    log.closing.set()
    async with asyncio.timeout(5):
        assert await reading in (b"", framed(SMALL))


@pytest.mark.parametrize("status", ["in_progress", "completed"])
async def test_a_stream_that_sends_ends_after_the_event_when_the_server_closes(log: Log, status: str) -> None:
    await log.append(SMALL, LARGE, *[SMALL] * 1000, LAST)
    stream = log.stream(status=status)
    read = [await anext(stream), await anext(stream)]
    log.closing.set()
    read += [piece async for piece in stream]
    assert b"".join(read) == framed(SMALL, LARGE)


async def _read(stream: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([piece async for piece in stream])
