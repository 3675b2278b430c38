"""Channels: how readers of a log learn of new events without asking the database. No I/O; imports `records` only.

A channel exists while somebody tails its log. It holds a wake-up and a ring of the newest events, each encoded once
and shared by all readers. A reader holds nothing but its position: whoever is too far behind for the ring reads the
database. Where there are many readers, events are gathered for a moment before all are woken: a wake-up costs as much
for one event as for a hundred. Everything here runs on the event loop, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from orchestrator.store.records import Event

FEW_READERS = 16
"""So many are woken at every event."""
BATCH_EVENTS = 256
BATCH_BYTES = 64 * 1024
"""What a reader gets at a time, and what the ring of a log with few readers holds: a thousand such logs hold 64 MiB."""
_PACE_S = 1e-4
"""Per reader, between two wake-ups: about what one costs, so that the run that they read goes on meanwhile."""


class Channel:
    """What the readers of one log share."""

    def __init__(self) -> None:
        self.readers = 0
        self.has_ended = False
        """The log is deleted or the store closes: nothing more will come."""
        self._news = asyncio.Event()
        self._ring: list[Event] = []
        self._ring_bytes = 0
        self._last: int | None = None
        self._gathered: list[Event] = []
        self._gathered_bytes = 0
        self._woken_at_s = 0.0
        self._waking: asyncio.TimerHandle | None = None

    @property
    def news(self) -> asyncio.Event:
        """Set at the next `publish` or `end`. To miss nothing, take it first, then look with `after`, then wait."""
        return self._news

    def publish(self, events: Sequence[Event]) -> None:
        """Takes committed events, in the log's order. Shows them to all readers, at once or in a moment."""
        self._gathered += events
        self._gathered_bytes += sum(len(event.body) for event in events)
        delay_s = self._woken_at_s + self.readers * _PACE_S - time.monotonic()
        # Half a ring at most: who keeps up finds all of it there.
        is_enough = (
            len(self._gathered) * 2 >= BATCH_EVENTS * self._batches
            or self._gathered_bytes * 2 >= BATCH_BYTES * self._batches
        )
        if self.readers <= FEW_READERS or delay_s <= 0 or is_enough:
            self._show()
        elif self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(delay_s, self._show)

    def end(self) -> None:
        """Ends every reader."""
        self.has_ended = True
        self._ring.clear()
        self._gathered.clear()
        self._wake()

    def after(self, position: int) -> list[Event] | None:
        """The next events with `seq` > `position`; empty if there are none yet; None if only the database knows."""
        if self._last is None:
            return None
        if position >= self._last:
            return []
        if not self._ring or position < self._ring[0].seq - 1:
            return None
        first = position + 1 - self._ring[0].seq
        batch = self._ring[first : first + BATCH_EVENTS]
        if self._ring_bytes > BATCH_BYTES:
            size_bytes = 0
            for at, event in enumerate(batch):
                size_bytes += len(event.body)
                if at and size_bytes > BATCH_BYTES:
                    del batch[at:]
                    break
        return batch

    @property
    def _batches(self) -> int:
        """How many batches the ring has room for: the more readers, the later the last of them has its turn."""
        return 1 + self.readers // FEW_READERS

    def _show(self) -> None:
        if self._gathered:
            self._ring += self._gathered
            self._ring_bytes += self._gathered_bytes
            self._last = self._gathered[-1].seq
            self._gathered.clear()
            self._gathered_bytes = 0
        old = 0
        limit_events, limit_bytes = BATCH_EVENTS * self._batches, BATCH_BYTES * self._batches
        while len(self._ring) - old > limit_events or self._ring_bytes > limit_bytes:
            self._ring_bytes -= len(self._ring[old].body)
            old += 1
        del self._ring[:old]
        self._wake()

    def _wake(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        self._woken_at_s = time.monotonic()
        self._news.set()
        self._news = asyncio.Event()


class Channels:
    """The channels of one store, by log."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._have_ended = False

    @contextmanager
    def join(self, log_id: str) -> Iterator[Channel]:
        """The log's channel for one reader, made for the first and dropped with the last."""
        channel = self._channels.get(log_id)
        if channel is None:
            channel = Channel()
            channel.has_ended = self._have_ended
            self._channels[log_id] = channel
        channel.readers += 1
        try:
            yield channel
        finally:
            channel.readers -= 1
            if not channel.readers and self._channels.get(log_id) is channel:
                del self._channels[log_id]

    def publish(self, log_id: str, events: Sequence[Event]) -> None:
        """Hands committed events to the log's readers; without readers it does nothing."""
        channel = self._channels.get(log_id)
        if channel is not None and events:
            channel.publish(events)

    def end(self, log_id: str) -> None:
        """Ends the log's readers; who joins later gets a new channel and finds the log gone."""
        channel = self._channels.pop(log_id, None)
        if channel is not None:
            channel.end()

    def end_all(self) -> None:
        """Ends all readers, and those who join later at once."""
        self._have_ended = True
        for channel in self._channels.values():
            channel.end()
        self._channels.clear()

    def __len__(self) -> int:
        return len(self._channels)
