"""One connection from a sandbox to outside, or one request of plain HTTP: its two ends and what is told of it later.

Imports `policy` and `errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from orchestrator.errors import NetworkError

_PIECE_BYTES = 64 << 10
_RENEWED_AFTER_S = 1.0

Kind = Literal["http", "https", "connect", "socks"]
Verdict = Literal["allowed", "denied", "failed", "cut"]
"""Let through; refused by rules or limits; could not be made or broke; let through and ended by us."""


class Channel(Protocol):
    """Bytes from and to a program in a sandbox, each direction ending on its own. Raises `CorralError` if it broke."""

    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def close(self) -> None: ...


class Client:
    """The program's end. What was read too early can be put back."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._rest = b""

    async def read(self) -> bytes:
        """The next bytes, empty at the end."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return await self._channel.read()

    async def read_exactly(self, count: int) -> bytes:
        """So many bytes. Raises `NetworkError` if it ends before."""
        data = b""
        while len(data) < count:
            piece = await self.read()
            if not piece:
                raise NetworkError("the connection ended before its request did")
            data += piece
        self.unread(data[count:])
        return data[:count]

    def unread(self, data: bytes) -> None:
        """What the next `read` begins with."""
        self._rest = data + self._rest

    async def write(self, data: bytes) -> None:
        await self._channel.write(data)

    def end(self) -> None:
        self._channel.end()

    def close(self) -> None:
        self._channel.close()


@dataclass(slots=True)
class Outside:
    """The other end: an open connection. Close it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    address: str

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def finish(self) -> None:
        """Closes it when what was written is out."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def close(self) -> None:
        """At once; what was not sent is dropped. May be called twice."""
        self.writer.transport.abort()


@dataclass(slots=True, eq=False)
class Crossing:
    """What is told of one connection or request. Holds neither header values nor queries."""

    kind: Kind
    host: str
    port: int
    method: str = ""
    path: str = ""
    rule: str = ""
    """The pattern that let it through."""
    address: str = ""
    """That was dialled."""
    sent_bytes: int = 0
    received_bytes: int = 0
    verdict: Verdict = "allowed"
    reason: str = ""
    started_s: float = 0.0
    """By the gate's clock."""
    interactions: tuple[str, ...] = ()
    """Ids of those that ran in the environment when it began: usually one, none for what a program does by itself."""
    credentials: tuple[str, ...] = ()
    """Ids of those that were put into it."""
    is_read: bool = False
    """A tunnel that is opened: each request in it is a crossing of its own."""
    cut: Callable[[], None] | None = field(default=None, repr=False)
    """Ends it; None while there is nothing to end."""

    def end(self, verdict: Verdict, reason: str) -> None:
        """Says how it ended, unless that was said before."""
        if self.verdict == "allowed":
            self.verdict, self.reason = verdict, reason


class Patience:
    """A time limit that begins anew with each `renew`."""

    def __init__(self, timeout: asyncio.Timeout, idle_s: float) -> None:
        self._timeout = timeout
        self._idle_s = idle_s
        self._renewed_s = 0.0

    def renew(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._renewed_s > min(_RENEWED_AFTER_S, self._idle_s / 10) and not self._timeout.expired():
            self._renewed_s = now
            self._timeout.reschedule(now + self._idle_s)


@contextlib.asynccontextmanager
async def patient(idle_s: float) -> AsyncGenerator[Patience, None]:
    """Raises `NetworkError` in place of the block once `idle_s` have passed without a `renew`."""
    try:
        async with asyncio.timeout(idle_s) as timeout:
            yield Patience(timeout, idle_s)
    except TimeoutError:
        raise NetworkError(f"nothing went either way for {idle_s:.0f} s", code="network_idle") from None


Count = Callable[[int, int], None]
"""Told of bytes that went out and of bytes that came in. Raises `NetworkError` if they were too many."""


async def relay(
    client: Client, outside: Outside, count: Count, idle_s: float, read: Callable[[], Awaitable[bytes]] | None = None
) -> None:
    """Carries bytes both ways until both directions have ended. `read`, in place of the client's own, gives what goes
    out.

    Raises:
        NetworkError, CorralError, OSError: one end broke, or was stopped. Close both.
    """
    read_out = read or client.read

    async with patient(idle_s) as patience:

        async def outwards() -> None:
            while data := await read_out():
                count(len(data), 0)
                await outside.write(data)
                patience.renew()
            if not outside.writer.can_write_eof():
                raise _HungUpError  # TLS ends both ways at once
            outside.writer.write_eof()

        async def inwards() -> None:
            while data := await outside.reader.read(_PIECE_BYTES):
                count(0, len(data))
                await client.write(data)
                patience.renew()
            client.end()

        with contextlib.suppress(_HungUpError):
            await both(outwards(), inwards())


class _HungUpError(Exception):
    """The client has ended its connection, and the other end cannot be told in part."""


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Carries out both at once. What one of them raises ends the other."""
    tasks = [asyncio.create_task(one), asyncio.create_task(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
