"""Readers of streams as bare connections, light enough for a thousand of them, and the runs that they read.

A reader takes head and transfer coding off what arrives, and counts, digests or keeps the frames that came whole. It
can be told to stall, and to cut its connection in the middle of anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes.runs import bash, scripted

HOST = "127.0.0.1"
WAIT_S = 90.0
_SMALL_BUFFER_BYTES = 4096
_AT_ONCE = 100
_DONE = b"event: done\n"
_EVENT_ID = re.compile(rb'"event_id":"([^"]+)"}\n\n\Z')

_GATE = "touch here; until [ -e go ]; do sleep 0.05; done"


def held_back(*turns: dict[str, Any], says_bytes: int = 0) -> str:
    """A run that waits in its sandbox until `let_go`, then plays the turns; `{{last}}` is so many bytes."""
    return scripted({"calls": [bash(f"{_GATE}; head -c {says_bytes} /dev/zero | tr '\\0' x")]}, *turns)


async def let_go(sandboxes: Path, runs: int = 1) -> None:
    """Lets so many runs go on, as soon as all of them wait."""
    await eventually(lambda: len(list(sandboxes.glob("*/workspace/here"))) == runs)
    for found in sandboxes.glob("*/workspace/here"):
        found.with_name("go").touch()
        found.unlink()


async def eventually(is_so: Callable[[], bool], within_s: float = WAIT_S) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.02)


def stream_path(interaction_id: str, after: str = "") -> str:
    return f"/v1beta/interactions/{interaction_id}?stream=true&last_event_id={after}"


class Frames:
    """Whole frames out of an answer as it arrives."""

    def __init__(self, *, keeps: bool) -> None:
        self.status = 0
        self.count = 0
        self.heartbeats = 0
        self.last_id = ""
        """Of the last whole event; empty if there was none."""
        self.has_end = False
        """The end marker came."""
        self.is_complete = False
        """The transfer coding came to its end."""
        self.kept = bytearray()
        self.partial = b""
        """Of a frame that is not whole yet."""
        self._keeps = keeps
        self._digest = hashlib.sha256()
        self._coded = b""
        self._wanted = 0
        """How many bytes of the current chunk are missing, its line end included."""

    @property
    def digest(self) -> str:
        """Of all whole frames."""
        return self._digest.hexdigest()

    def feed(self, data: bytes) -> None:
        self._coded += data
        if not self.status:
            head, found, rest = self._coded.partition(b"\r\n\r\n")
            if not found:
                return
            self.status = int(head.split()[1])
            assert b"transfer-encoding: chunked" in head, head
            self._coded = rest
        if payload := b"".join(self._payloads()):
            self._take(payload)

    def _payloads(self) -> list[bytes]:
        payloads = []
        at = 0
        coded = self._coded
        while at < len(coded):
            if not self._wanted:
                end = coded.find(b"\r\n", at)
                if end < 0:
                    break
                size_bytes = int(coded[at:end], 16)
                at = end + 2
                self.is_complete = not size_bytes
                self._wanted = size_bytes + 2
            piece = coded[at : at + self._wanted]
            at += len(piece)
            self._wanted -= len(piece)
            # Of the line end after the chunk nothing belongs to the payload, however it is cut.
            payloads.append(piece[: len(piece) - max(0, 2 - self._wanted)])
        self._coded = coded[at:]
        return payloads

    def _take(self, payload: bytes) -> None:
        whole, found, self.partial = (self.partial + payload).rpartition(b"\n\n")
        if not found:
            return
        whole += found
        if b": keep-alive\n\n" in whole:
            frames = [frame + b"\n\n" for frame in whole.split(b"\n\n")[:-1]]
            events = [frame for frame in frames if not frame.startswith(b":")]
            self.heartbeats += len(frames) - len(events)
            whole = b"".join(events)
        if not whole:
            return
        self.count += whole.count(b"\n\n")
        self._digest.update(whole)
        if self._keeps:
            self.kept += whole
        if whole.find(_DONE, max(0, len(whole) - 200)) >= 0:
            self.has_end = True
            whole = whole[: whole.rfind(_DONE)]
        if match := _EVENT_ID.search(whole, max(0, len(whole) - 200)):
            self.last_id = match[1].decode()


class Reader(asyncio.Protocol):
    """One connection with one request."""

    def __init__(self, request: bytes, *, keeps: bool, stalls: bool, cut_after_bytes: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.frames = Frames(keeps=keeps)
        self.has_begun: asyncio.Future[None] = loop.create_future()
        """The first frame is there, or the connection is over."""
        self.is_over: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._stalls = stalls
        self._left_bytes = cut_after_bytes
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._left_bytes is not None:
            data = data[: self._left_bytes]
            self._left_bytes -= len(data)
        self.frames.feed(data)
        if self.frames.count and not self.has_begun.done():
            self.has_begun.set_result(None)
            if self._stalls:
                self._transport.pause_reading()
        if self._left_bytes == 0:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        for waiting in (self.has_begun, self.is_over):
            if not waiting.done():
                waiting.set_result(None)

    def go_on(self) -> None:
        """Reads again after a stall."""
        assert self._transport is not None
        self._transport.resume_reading()

    def leave(self) -> None:
        """Cuts the connection."""
        assert self._transport is not None
        self._transport.abort()

    async def read_all(self) -> Frames:
        """What came, when the connection is over."""
        async with asyncio.timeout(WAIT_S):
            await self.is_over
        return self.frames


async def connect(
    port: int,
    path: str,
    *,
    body: Any = None,
    keeps: bool = False,
    stalls: bool = False,
    cut_after_bytes: int | None = None,
) -> Reader:
    """A reader of `path`; with a `body` the request is a POST. Who stalls has little room in the kernel on its side."""
    content = b"" if body is None else json.dumps(body).encode()
    request = (
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: {HOST}:{port}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    ).encode() + content
    loop = asyncio.get_running_loop()
    link = socket.socket()
    try:
        link.setblocking(False)
        if stalls:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER_BYTES)
        await loop.sock_connect(link, (HOST, port))
        _, reader = await loop.create_connection(
            lambda: Reader(request, keeps=keeps, stalls=stalls, cut_after_bytes=cut_after_bytes), sock=link
        )
    except BaseException:
        link.close()
        raise
    return reader


@asynccontextmanager
async def crowd(port: int, paths: Sequence[str], **options: Any) -> AsyncGenerator[list[Reader], None]:
    """A reader of each path, all of them with their first frame; none is left afterwards."""
    readers: list[Reader] = []
    try:
        for at in range(0, len(paths), _AT_ONCE):
            some = await asyncio.gather(*(connect(port, path, **options) for path in paths[at : at + _AT_ONCE]))
            readers += some
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*(reader.has_begun for reader in some))
        assert {reader.frames.status for reader in readers} == {200}
        yield readers
    finally:
        for reader in readers:
            reader.leave()
        await asyncio.gather(*(reader.is_over for reader in readers))


async def whole_stream(port: int, interaction_id: str) -> Frames:
    """The stored stream from its start, kept."""
    frames = await (await connect(port, stream_path(interaction_id), keeps=True)).read_all()
    assert frames.has_end
    return frames
