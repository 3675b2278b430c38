"""Channels: how readers of a log learn of new events without asking the database. No I/O; imports `port` only.

A channel exists while somebody tails its log. It holds a wake-up and a ring of the newest events, each encoded once
and shared by all readers. A reader holds nothing but its position: whoever is too far behind for the ring reads the
database. Everything here runs on the event loop, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from orchestrator.store.port import Event

RING_EVENTS = 256
RING_BYTES = 64 * 1024
"""Per log that is being read, so a thousand of them hold 64 MiB at most."""


class Channel:
    """What the readers of one log share."""

    def __init__(self) -> None:
        self.readers = 0
        self.has_ended = False
        """The log is deleted or the store closes: nothing more will come."""
        self._news = asyncio.Event()
        self._ring: deque[Event] = deque()
        self._ring_bytes = 0
        self._last: int | None = None

    @property
    def news(self) -> asyncio.Event:
        """Set at the next `publish` or `end`. To miss nothing, take it first, then look with `after`, then wait."""
        return self._news

    def publish(self, events: Sequence[Event]) -> None:
        """Adds committed events, in the log's order, and wakes all readers."""
        for event in events:
            self._ring.append(event)
            self._ring_bytes += len(event.body)
            self._last = event.seq
        while self._ring and (len(self._ring) > RING_EVENTS or self._ring_bytes > RING_BYTES):
            self._ring_bytes -= len(self._ring.popleft().body)
        self._wake()

    def end(self) -> None:
        """Ends every reader."""
        self.has_ended = True
        self._ring.clear()
        self._wake()

    def after(self, position: int) -> list[Event] | None:
        """Events with `seq` > `position`; empty if there are none yet; None if only the database knows."""
        if self._last is None:
            return None
        if position >= self._last:
            return []
        if not self._ring or position < self._ring[0].seq - 1:
            return None
        newest_first = list(islice(reversed(self._ring), self._last - position))  # most readers lack but the last
        newest_first.reverse()
        return newest_first

    def _wake(self) -> None:
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
