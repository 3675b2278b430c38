"""Streams: an interaction's public events as server-sent events, from any point, for any number of readers.

A stream holds no more than its place in the log. It ends after `interaction.completed`, when its reader leaves, or
at an event boundary when the server closes; the reader resumes with `last_event_id`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator

from orchestrator.errors import InvalidRequest
from orchestrator.store.port import Event, InteractionRow, Store
from orchestrator.wire.events import DONE_FRAME, HEARTBEAT_FRAME, PUBLIC_KINDS, seq_of, sse_frame
from orchestrator.wire.interactions import TERMINAL_STATUSES

HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
_HEARTBEAT_S = 15.0
_PAGE = 200
_PIECE_BYTES = 64 * 1024
_LAST_KIND = "interaction.completed"


async def starting_point(store: Store, row: InteractionRow, last_event_id: str | None) -> int:
    """The seq after which a stream begins.

    Raises:
        InvalidRequest: `last_event_id` is none of this interaction's.
    """
    if not last_event_id:
        return 0
    seq = seq_of(last_event_id)
    if not await store.read(row.id, after=seq - 1, limit=1):
        raise InvalidRequest(f"Invalid value at 'last_event_id': interaction {row.id} has no event {last_event_id!r}.")
    return seq


async def stream(
    store: Store, row: InteractionRow, *, after: int, closing: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    """Frames of all public events after `after`, then the end marker. What is asked for beyond the end gives the
    marker.
    """
    if row.status in TERMINAL_STATUSES:
        while events := await store.read(row.id, after=after, limit=_PAGE):
            after = events[-1].seq
            # A reader that stalls holds one page and one piece, not the log.
            for piece in _pieces(events):
                yield piece
        yield DONE_FRAME
        return
    shutdown = asyncio.ensure_future(closing.wait())
    try:
        async with contextlib.aclosing(store.tail(row.id, after=after)) as batches:
            waiting = asyncio.ensure_future(anext(batches, None))
            try:
                while True:
                    await asyncio.wait([waiting, shutdown], timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                    if not waiting.done():
                        if shutdown.done():
                            return
                        yield HEARTBEAT_FRAME
                        continue
                    batch = waiting.result()
                    if batch is None:
                        return  # deleted, or the store closes
                    frames = b"".join(_frames(batch))
                    if any(event.kind == _LAST_KIND for event in batch):
                        yield frames + DONE_FRAME
                        return
                    if frames:
                        yield frames
                    waiting = asyncio.ensure_future(anext(batches, None))
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
    finally:
        shutdown.cancel()


def _pieces(events: Iterable[Event]) -> Iterator[bytes]:
    piece = bytearray()
    for frame in _frames(events):
        piece += frame
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _frames(events: Iterable[Event]) -> Iterator[bytes]:
    return (sse_frame(event.kind, event.body) for event in events if event.kind in PUBLIC_KINDS)
