"""A stream of the link that stays open both ways, as its user reads and writes it. Knows no service.

What the guest sends is held until it is read; its credit, hence what is held, is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from orchestrator.guest import frames

if TYPE_CHECKING:
    from orchestrator.sandboxes.link import Link, Stream

_MESSAGES_LIMIT = 4
"""No service has more to say besides its bytes."""


class Channel:
    """Made by `Link.channel`; whoever has it closes it. One task at a time waits for bytes or messages.

    All methods that wait raise `SandboxGone` if the link ended, and `InvalidRequest` or `LimitExceeded` if the guest
    refused the request or broke the stream off; what came before that can still be read.
    """

    def __init__(self, link: Link, stream: Stream) -> None:
        self._link = link
        self._stream = stream
        self._data = bytearray()
        self._messages: deque[dict[str, Any]] = deque()
        self._arrived = asyncio.Event()
        self._has_ended = False
        self._has_heard_end = False
        stream.messages_left = _MESSAGES_LIMIT
        stream.on_data = self._take_data
        stream.on_message = self._take_message
        stream.on_end = self._take_end
        stream.ended.add_done_callback(lambda _ended: self._arrived.set())

    @property
    def is_over(self) -> bool:
        """Nothing goes in any more."""
        return self._stream.ended.done()

    async def read(self) -> bytes:
        """What has come, as soon as there is something; empty at the end of what the guest sends."""
        await self._until_some(self._data)
        data = bytes(self._data)
        self._data.clear()
        self._stream.take(len(data))
        return data

    async def message(self) -> dict[str, Any] | None:
        """The guest's next message; None if there comes none."""
        await self._until_some(self._messages)
        return self._messages.popleft() if self._messages else None

    async def write(self, data: bytes) -> None:
        """Sends bytes as fast as the guest takes them; once the channel is closed they are dropped."""
        await self._link.send_data(self._stream, data)
        if self.is_over:
            await self._stream.end()

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a message."""
        if not self.is_over:
            self._link.send(frames.encode_json(frames.MESSAGE, self._stream.number, message))

    def end(self) -> None:
        """Says that nothing more will be written; the guest may go on. May be called twice."""
        if not self._has_ended and not self.is_over:
            self._has_ended = True
            self._link.send(frames.encode(frames.END, self._stream.number))
            self._let_go_if_both_ended()

    def close(self) -> None:
        """Ends both directions at once. May be called twice, and after the link's end."""
        self._link.cancel(self._stream)

    async def _until_some(self, store: Sized) -> None:
        """Returns when `store` holds something, or never will."""
        while not store and not self._has_heard_end and not self.is_over:
            self._arrived.clear()
            await self._arrived.wait()
        if not store and self.is_over:
            await self._stream.end()

    def _take_data(self, data: bytes) -> None:
        self._data += data
        self._arrived.set()

    def _take_message(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        self._arrived.set()

    def _take_end(self) -> None:
        self._has_heard_end = True
        self._arrived.set()
        self._let_go_if_both_ended()

    def _let_go_if_both_ended(self) -> None:
        # The guest may still have to pass on what it took: it is told nothing.
        if self._has_ended and self._has_heard_end:
            self._link.forget(self._stream)
