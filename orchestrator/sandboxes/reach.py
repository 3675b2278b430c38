"""How people reach into a running sandbox: terminals, connections to its ports, file watches, usage figures.

Written on the link alone. Whatever the guest says is checked here; what makes no sense is `SandboxGone`, as is the end
of the link for everything that is open. None of this outlives its link.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import structlog

from orchestrator.errors import Conflict, CorralError, InvalidRequest, SandboxGone
from orchestrator.sandboxes.channel import Channel
from orchestrator.sandboxes.link import Link

log = structlog.get_logger(__name__)

_LINE_LIMIT_BYTES = 64 * 1024
"""An event names at most two paths, which the kernel holds below 4 KiB; as JSON a byte may take six."""
_PIECE_BYTES = 64 * 1024
_SHOWN_CHARS = 500
_AT_ONCE = struct.pack("ii", 1, 0)


# terminals


@dataclass(frozen=True, slots=True)
class TerminalExit:
    """How a terminal's program ended: one of both."""

    exit_code: int | None
    signal: int | None


class Terminal:
    """A program with a pseudo-terminal. `close` it: that hangs up, and what goes on all the same is killed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def read(self) -> bytes:
        """What the screen shows next, raw; empty at the end. Output waits in the sandbox until it is read.

        Raises:
            InvalidRequest: the program or its folder is not there. LimitExceeded: too many terminals. SandboxGone.
        """
        return await self._channel.read()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def write(self, keys: bytes) -> None:
        """Types. Waits while the program does not read. Raises as `read` does."""
        await self._channel.write(keys)

    def resize(self, rows: int, cols: int) -> None:
        """Changes the size of the screen, in characters."""
        self._channel.tell({"resize": {"rows": rows, "cols": cols}})

    def hang_up(self) -> None:
        """Cuts the line; the exit can still be waited for."""
        self._channel.end()

    async def wait(self) -> TerminalExit:
        """How the program ended. Output that was not read by then is dropped. Raises as `read` does."""
        while await self.read():
            pass
        match await self._channel.message():
            case {"exit": {"exit_code": int(code), "signal": None}}:
                return TerminalExit(code, None)
            case {"exit": {"exit_code": None, "signal": int(number)}}:
                return TerminalExit(None, number)
        raise SandboxGone("the guest ended a terminal without saying how")

    def close(self) -> None:
        """Hangs up and forgets. May be called twice."""
        self._channel.close()


def open_terminal(
    link: Link, argv: Sequence[str], *, rows: int, cols: int, env: Mapping[str, str], cwd: str | None
) -> Terminal:
    """Starts a program with a terminal; an empty `argv` is a login shell. What is wrong with it shows as one reads."""
    request = {"service": "terminal", "argv": list(argv), "rows": rows, "cols": cols, "env": dict(env), "cwd": cwd}
    return Terminal(link.channel(request))


# connections


class Connection:
    """A TCP connection to a port inside. Each direction ends on its own. `close` it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def read(self) -> bytes:
        """The next bytes, empty at the end. Raises `Conflict` (`connection_broken`), `SandboxGone`."""
        with _broken():
            return await self._channel.read()

    async def write(self, data: bytes) -> None:
        """Sends, as fast as the other side takes it. Raises as `read` does."""
        with _broken():
            await self._channel.write(data)

    def end(self) -> None:
        """Nothing more will be written; there may still be something to read."""
        self._channel.end()

    def close(self) -> None:
        """Ends both directions. May be called twice."""
        self._channel.close()


@contextlib.contextmanager
def _broken() -> Any:
    try:
        yield
    except InvalidRequest as error:
        raise Conflict("The connection inside the sandbox broke.", code="connection_broken") from error


async def connect(link: Link, port: int, host: str | None = None) -> Connection:
    """Connects to `port` on the sandbox's loopback: `host` 127.0.0.1 or ::1, without it whichever answers.

    Raises:
        Conflict: `connection_refused`, nothing listens there; `connection_timeout`, what listens does not accept.
        InvalidRequest: no such port or host. LimitExceeded: too many connections. SandboxGone.
    """
    channel = link.channel({"service": "connect", "port": port, "host": host})
    with contextlib.ExitStack() as failing:
        failing.callback(channel.close)
        answer = await channel.message()
        match answer:
            case {"connected": str()}:
                failing.pop_all()
                return Connection(channel)
            case {"error": {"code": ("refused" | "timeout") as code, "message": str(message)}}:
                raise Conflict(message[:_SHOWN_CHARS], code=f"connection_{code}", retryable=True)
    raise SandboxGone("the guest answered a connection with something else")


@contextlib.asynccontextmanager
async def forward_port(
    open_connection: Callable[[], Awaitable[Connection]], *, port: int = 0
) -> AsyncGenerator[int, None]:
    """Listens on 127.0.0.1 and carries each connection to one that `open_connection` makes; yields the port.

    `port` 0 takes a free one. A connection that cannot be made is closed at once, as if nobody listened. At the end of
    the block all connections are cut.

    Raises:
        OSError: the port is taken.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_whole = False
        try:
            with contextlib.closing(await open_connection()) as connection:
                await _relay(reader, writer, connection)
                is_whole = True
        except* (CorralError, OSError) as group:
            log.info("forward_broken", port=port, reason=str(group.exceptions[0]))
        finally:
            if not is_whole:
                # With this an abort is a reset: what broke off must not look like an end.
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer), name="port-forward")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
    async def inwards() -> None:
        while data := await reader.read(_PIECE_BYTES):
            await connection.write(data)
        connection.end()

    async def outwards() -> None:
        while data := await connection.read():
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(inwards())
        group.create_task(outwards())
    writer.close()
    await writer.wait_closed()


# file watches


class WatchKind(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"
    MOVED = "moved"
    """From `old_path`, both within what is watched."""
    OVERFLOW = "overflow"
    """Something was missed, or there is too much to watch: look for yourself."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change, or the sum of several in a moment. Paths are relative to the working directory."""

    kind: WatchKind
    path: str
    is_dir: bool
    old_path: str | None = None


class Watch:
    """Changes below folders, as they come. Iterate over it; `close` it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._rest = bytearray()

    async def __aiter__(self) -> AsyncIterator[WatchEvent]:
        """Ends when every watched folder is gone.

        Raises:
            SandboxGone: the link ended, or what watched was killed from inside.
        """
        while (line := await self._line()) is not None:
            yield _read_event(line)
        if await self._channel.message() != {"result": {}}:
            raise SandboxGone("the watch broke off")

    async def begin(self) -> None:
        """Returns once everything is watched. Raises as `watch` does."""
        line = await self._line()
        if line is None:
            match await self._channel.message():
                case {"error": {"code": str(), "message": str(message)}}:
                    raise InvalidRequest(message[:_SHOWN_CHARS])
            raise SandboxGone("the guest ended a watch without saying why")
        if not isinstance(line, dict) or line.get("kind") != "watching":
            raise SandboxGone("the guest began a watch with something else")

    def close(self) -> None:
        """Watches no more. May be called twice."""
        self._channel.close()

    async def _line(self) -> Any:
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > _LINE_LIMIT_BYTES:
                raise SandboxGone("the guest sent an event without an end")
            data = await self._channel.read()
            if not data:
                return None
            self._rest += data
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SandboxGone("the guest sent an event that cannot be read") from error


def _read_event(line: Any) -> WatchEvent:
    match line:
        case {"kind": str(kind), "path": str(path), "is_dir": bool(is_dir), **rest} if kind in set(WatchKind):
            old_path = rest.get("old_path")
            if isinstance(old_path, str) or (old_path is None and kind != WatchKind.MOVED):
                return WatchEvent(WatchKind(kind), _text(path), is_dir, None if old_path is None else _text(old_path))
    raise SandboxGone("the guest sent an event that cannot be read")


def _text(path: str) -> str:
    """The path with a mark in place of each byte that is no text."""
    return path.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


async def watch(link: Link, paths: Sequence[str], *, is_recursive: bool) -> Watch:
    """Watches folders of the working directory; returns once it does.

    Raises:
        InvalidRequest: a path is no folder below the working directory, or the machine has no more watches.
        LimitExceeded: too many watches in this sandbox. SandboxGone.
    """
    made = Watch(link.channel({"service": "watch", "paths": list(paths), "recursive": is_recursive}))
    with contextlib.ExitStack() as failing:
        failing.callback(made.close)
        await made.begin()
        failing.pop_all()
    return made


# figures


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses and may use. None is what the platform does not tell, or what has no limit."""

    cpu_time_s: float | None = None
    """Since its start."""
    cpu_limit_cores: float | None = None
    memory_bytes: int | None = None
    """The working set: without file cache that may go at any time."""
    memory_peak_bytes: int | None = None
    """With file cache."""
    memory_limit_bytes: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    disk_used_bytes: int | None = None
    """All that it can write and that outlives it, where that has a disk of its own."""
    disk_limit_bytes: int | None = None
    disk_inodes: int | None = None
    disk_inodes_limit: int | None = None


async def usage(link: Link) -> Usage:
    """Present figures. Raises `SandboxGone`."""
    given = (await link.ask({"service": "usage"})).get("usage")
    if not isinstance(given, dict):
        raise SandboxGone("the guest answered without figures")
    return Usage(**{each.name: _figure(given.get(each.name), "float" in str(each.type)) for each in fields(Usage)})


def _figure(value: Any, is_float: bool) -> Any:
    if value is None:
        return None
    kinds = (int, float) if is_float else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value < 0:
        raise SandboxGone("the guest answered with a figure that is none")
    return value
