"""Streams: an interaction's public events as server-sent events, from any point, for any number of readers.

A stream holds its place in the log and what it was about to send: some 64 KiB unless one event alone has more, and once
for all readers that are at the same place. It ends after `interaction.completed`, when its reader leaves, or at an
event boundary when the server closes; the reader resumes with `last_event_id`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Self
from weakref import WeakValueDictionary

from orchestrator.errors import InvalidRequest
from orchestrator.store.port import Store
from orchestrator.store.records import Event, InteractionRow
from orchestrator.wire.events import DONE_FRAME, HEARTBEAT_FRAME, PUBLIC_KINDS, seq_of, sse_frame
from orchestrator.wire.interactions import TERMINAL_STATUSES

HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
_HEARTBEAT_S = 15.0
_PIECE_BYTES = 16 * 1024
"""What a connection gets at a time: one that does not take it holds two of them, one queued and one that waits."""
_LAST_KIND = "interaction.completed"
_FRAME_END = b"\n\n"


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


def stream(store: Store, row: InteractionRow, *, after: int, closing: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """Frames of all public events after `after`, then the end marker. What is asked for beyond the end gives the
    marker.
    """
    # Not the row: it has the request, which may have megabytes, and a stream may last for hours.
    return _stream(store, row.id, row.status in TERMINAL_STATUSES, after, closing)


async def _stream(
    store: Store, log_id: str, has_ended: bool, after: int, closing: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    if has_ended and not await store.read(log_id, after=after, limit=1):
        yield DONE_FRAME
        return
    now = asyncio.get_running_loop().time
    heard_at = now()
    async with _Tail(store, log_id, after, closing) as tail:
        while (batch := await tail.next(heard_at + _HEARTBEAT_S)) is not None:
            if not batch:
                yield HEARTBEAT_FRAME
                heard_at = now()
                continue
            frames = _shared(log_id, batch)
            for piece in frames.pieces:
                yield piece
                heard_at = now()
                if closing.is_set() and piece is not frames.pieces[-1] and piece.endswith(_FRAME_END):
                    return
            if frames.is_last:
                yield DONE_FRAME
                return
            del frames  # who waits holds nothing


class _Tail:
    """A log's batches, with patience for each; it ends when the server closes."""

    def __init__(self, store: Store, log_id: str, after: int, closing: asyncio.Event) -> None:
        self._store = store
        self._log_id = log_id
        self._after = after
        self._closing = closing
        self._batches = store.tail(log_id, after=after)
        self._waiting: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        self._shutdown = asyncio.ensure_future(self._closing.wait())
        self._shutdown.add_done_callback(self._wake)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._shutdown.cancel()
        await self._batches.aclose()

    async def next(self, until: float) -> list[Event] | None:
        """The next batch, the caller's own; empty if there is none until then. None if there will be none: the log is
        deleted, or the server or the store closes.
        """
        if self._closing.is_set():
            return None
        try:
            # A task for each wait would cost more than all the rest of it.
            async with asyncio.timeout_at(until) as self._waiting:
                batch = await anext(self._batches, None)
        except TimeoutError:
            # Whatever is broken off in the middle ends; another one goes on from the same place.
            self._batches = self._store.tail(self._log_id, after=self._after)
            return None if self._closing.is_set() else []
        finally:
            self._waiting = None
        if batch:
            self._after = batch[-1].seq
        return batch

    def _wake(self, _: object) -> None:
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())


class _Frames:
    """The frames of a batch as they are sent, small ones together and large ones in parts."""

    __slots__ = ("__weakref__", "is_last", "pieces")

    def __init__(self, batch: Sequence[Event]) -> None:
        self.pieces: list[bytes] = []
        self.is_last = any(event.kind == _LAST_KIND for event in batch)
        """Nothing comes after it but the end marker."""
        together: list[bytes] = []
        size_bytes = 0
        for event in batch:
            if event.kind not in PUBLIC_KINDS:
                continue
            frame = sse_frame(event.kind, event.body)
            if together and size_bytes + len(frame) > _PIECE_BYTES:
                self.pieces.append(b"".join(together))
                together.clear()
                size_bytes = 0
            if len(frame) > _PIECE_BYTES:
                self.pieces += (frame[at : at + _PIECE_BYTES] for at in range(0, len(frame), _PIECE_BYTES))
            else:
                together.append(frame)
                size_bytes += len(frame)
        if together:
            self.pieces.append(b"".join(together))


_held: WeakValueDictionary[tuple[str, int, int], _Frames] = WeakValueDictionary()
"""What is being sent to anybody. A log's events never change, so its place says what it is."""
_newest: deque[_Frames] = deque(maxlen=16)
"""Kept for those who come to the same place a moment later."""


def _shared(log_id: str, batch: list[Event]) -> _Frames:
    """The frames of a batch; readers at the same place get the same, and stalled ones take the memory once.

    Empties the batch, which lives in the tail as long as its reader stalls.
    """
    place = (log_id, batch[0].seq, batch[-1].seq)
    frames = _held.get(place)
    if frames is None:
        frames = _held[place] = _Frames(batch)
        _newest.append(frames)
    batch.clear()
    return frames
