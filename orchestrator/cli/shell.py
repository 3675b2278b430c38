"""`corral shell`: a terminal in a sandbox. What the sandbox writes reaches this terminal as it is, since that is what a
terminal is for: of all commands this one alone neutralises nothing. Whatever runs there can set this terminal's title,
colours and, where the terminal allows it, its clipboard.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.client import Api, KeyOption, UrlOption, connect, path
from orchestrator.cli.exits import Exit

if TYPE_CHECKING:
    import asyncio

    from websockets.asyncio.client import ClientConnection

_PIECE_BYTES = 32 * 1024
_END_OF_INPUT = b"\x04"
_LARGEST = 1000


def shell(
    environment: Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Its id. It is started if it stopped.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="Run instead of a login shell.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Open a shell in an environment's sandbox. The exit code is the shell's, 128 more than a signal's number.

    What runs there controls this terminal, as over ssh. If the connection is lost, everything that was started in it is
    ended.
    """
    import asyncio

    with connect(url, key) as api:
        code = asyncio.run(_Session(api, environment, command or []).run())
    raise typer.Exit(code)


class _Session:
    """One terminal, from its start to its end."""

    def __init__(self, api: Api, environment: str, command: list[str]) -> None:
        self._api = api
        self._path = path("/ops/environments/{id}/terminal", id=environment)
        self._command = command

    async def run(self) -> int:
        """The exit code. Raises `RequestFailed`, `StreamBroken`."""
        from orchestrator.cli.sockets import open_socket

        rows, cols = _size()
        parameters: dict[str, Any] = {"rows": rows, "cols": cols, "command": self._command}
        async with open_socket(self._api, self._path, parameters) as socket:
            with _raw_terminal():
                return await self._talk(socket)

    async def _talk(self, socket: ClientConnection) -> int:
        import asyncio

        loop = asyncio.get_running_loop()
        resized = asyncio.Event()
        loop.add_signal_handler(signal.SIGWINCH, resized.set)
        tasks = [asyncio.ensure_future(each) for each in (_type(socket), _follow_size(socket, resized))]
        try:
            return await _show(socket)
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _show(socket: ClientConnection) -> int:
    from orchestrator.cli.sockets import last_words

    while True:
        frame = await socket.recv()
        if isinstance(frame, bytes):
            sys.stdout.buffer.write(frame)
            sys.stdout.buffer.flush()
            continue
        ended: Any = last_words(frame).get("exit") or {}
        number = ended.get("signal")
        return int(128 + number if number is not None else ended.get("exit_code", Exit.FAILED))


async def _type(socket: ClientConnection) -> None:
    descriptor = sys.stdin.fileno()
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    while data := os.read(descriptor, _PIECE_BYTES) if is_file else await _keys(descriptor):
        await socket.send(data)
    await socket.send(_END_OF_INPUT)


async def _keys(descriptor: int) -> bytes:
    """What is typed next. A thread that reads could not be stopped at the end."""
    import asyncio

    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # such as /dev/null: always ready
        return os.read(descriptor, _PIECE_BYTES)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, _PIECE_BYTES)


async def _follow_size(socket: ClientConnection, resized: asyncio.Event) -> None:
    while True:
        await resized.wait()
        resized.clear()
        rows, cols = _size()
        await socket.send(json.dumps({"resize": {"rows": rows, "cols": cols}}))


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return min(max(size.lines, 1), _LARGEST), min(max(size.columns, 1), _LARGEST)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go through as they are, Ctrl-C included; what was set before is set again afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
