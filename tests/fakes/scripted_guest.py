"""The other end of a link, as a test plays it: bytes over a socket pair, honest or not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.guest import frames
from orchestrator.sandboxes.driver import GuestStream
from orchestrator.sandboxes.link import Link

HELLO = {"protocol": frames.PROTOCOL, "generation": 1, "calls": {}, "pid": 1}


class ScriptedGuest:
    """Says what it is told to say, and shows what it hears. It answers nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = frames.Decoder()
        self._heard: list[frames.Frame] = []

    @classmethod
    async def open(cls) -> tuple[ScriptedGuest, GuestStream]:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        return cls(*await asyncio.open_connection(sock=ours)), GuestStream(reader, writer)

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    def hello(self, **changes: Any) -> None:
        self.say(frames.encode_json(frames.HELLO, 0, {**HELLO, **changes}))

    def data(self, stream: int, content: bytes) -> None:
        for start in range(0, len(content), frames.MAX_PAYLOAD_BYTES):
            self.say(frames.encode(frames.DATA, stream, content[start : start + frames.MAX_PAYLOAD_BYTES]))

    def message(self, stream: int, message: Any) -> None:
        self.say(frames.encode_json(frames.MESSAGE, stream, message))

    def outcome(self, stream: int, tail: bytes = b"", attachments: tuple[bytes, ...] = (), **fields: Any) -> None:
        """An honest end of a call, changed by `fields`."""
        sizes = [len(each) for each in attachments]
        honest = {"verdict": "exited", "exit_code": 0, "signal": None, "dropped_bytes": 0, "tail_bytes": len(tail)}
        self.message(stream, {**honest, "attachment_bytes": sizes, **fields})
        self.data(stream, tail + b"".join(attachments))
        self.end(stream)

    def end(self, stream: int) -> None:
        self.say(frames.encode(frames.END, stream))

    def reset(self, stream: int, **reason: Any) -> None:
        self.say(frames.encode_json(frames.RESET, stream, reason))

    def credit(self, stream: int, count: int) -> None:
        self.say(frames.encode_credit(stream, count))

    async def hear(self, *kinds: int) -> frames.Frame:
        """The next frame, or the next of these kinds. Raises `EOFError` at the end."""
        while True:
            while not self._heard:
                data = await self._reader.read(1 << 16)
                if not data:
                    raise EOFError
                self._heard += self._decoder.feed(data)
            frame = self._heard.pop(0)
            if not kinds or frame[0] in kinds:
                return frame

    async def hear_open(self) -> tuple[int, dict[str, Any]]:
        """Stream number and request of the next stream that is opened."""
        _, stream, payload = await self.hear(frames.OPEN)
        return stream, frames.decode_json(payload)

    def stop_reading(self) -> None:
        """From now on only the kernel's buffers take what the other end sends."""
        self._reader._transport.pause_reading()  # type: ignore[attr-defined]

    async def flush(self) -> None:
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def linked(
    generation: int = 1, protocol: int = frames.PROTOCOL
) -> AsyncGenerator[tuple[ScriptedGuest, Link], None]:
    """A guest that has greeted, and the link to it."""
    guest, stream = await ScriptedGuest.open()
    guest.hello(generation=generation, protocol=protocol)
    link = await Link.open(stream, generation)
    await guest.hear(frames.HELLO)
    try:
        yield guest, link
    finally:
        await link.aclose()
        guest.close()
