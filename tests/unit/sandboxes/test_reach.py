"""Terminals, connections, watches and figures: against a real guest, and against one that lies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Conflict, InvalidRequest, LimitExceeded, SandboxGone
from orchestrator.guest import frames
from orchestrator.sandboxes import reach
from orchestrator.sandboxes.driver import SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.reach import Terminal, TerminalExit, Usage, WatchEvent, WatchKind, forward_port
from tests.fakes.local_driver import IMAGE, LocalDriver
from tests.fakes.scripted_guest import ScriptedGuest, linked

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(short_path: Path) -> AsyncGenerator[Sandbox, None]:
    driver = LocalDriver(short_path)
    refs = [ref async for ref in driver.create(SandboxSpec("one", IMAGE))]
    link = await Link.open(await driver.connect(refs[-1]), 1)
    yield Sandbox(refs[-1], link, {"GREETING": "hello"})
    await link.aclose()
    await asyncio.to_thread(driver.kill_all)


@pytest.fixture
def workspace(sandbox: Sandbox) -> Path:
    return Path(sandbox.ref.token) / "workspace"


async def until(terminal: Terminal, text: bytes, seen: bytes = b"") -> bytes:
    while text not in seen:
        data = await terminal.read()
        assert data, seen
        seen += data
    return seen


# terminals


async def test_a_terminal(sandbox: Sandbox) -> None:
    with contextlib.closing(sandbox.terminal(rows=7, cols=70, env={"MORE": "there"})) as terminal:
        await terminal.write(b"stty size; echo $GREETING$MORE\r")
        await until(terminal, b"hellothere\r\n", await until(terminal, b"7 70\r\n"))
        terminal.resize(9, 90)
        await terminal.write(b"stty size; exit 5\r")
        await until(terminal, b"9 90\r\n")
        assert await terminal.wait() == TerminalExit(5, None)
        assert await terminal.read() == b""
        await terminal.write(b"nobody reads this")
        terminal.resize(1, 1)


async def test_a_terminal_is_iterated_to_its_end(sandbox: Sandbox) -> None:
    terminal = sandbox.terminal(["bash", "-c", "stty raw; seq 100000; kill $$"])
    screen = b"".join([data async for data in terminal])
    assert screen == b"".join(b"%d\n" % number for number in range(1, 100_001))
    assert await terminal.wait() == TerminalExit(None, 15)


async def test_a_hang_up_can_be_waited_for(sandbox: Sandbox) -> None:
    terminal = sandbox.terminal(["bash", "-c", "trap 'exit 3' HUP; echo on; while :; do sleep 0.05; done"])
    await until(terminal, b"on")
    terminal.hang_up()
    terminal.hang_up()
    assert await terminal.wait() == TerminalExit(3, None)


async def test_a_program_that_is_not_there(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequest, match="no-such"):
        await sandbox.terminal(["no-such"]).read()
    with pytest.raises(InvalidRequest, match="folder"):
        await sandbox.terminal(cwd="/no/folder").wait()
    with pytest.raises(InvalidRequest, match="too large"):
        sandbox.terminal(["x" * 300_000])


async def test_too_many_terminals(sandbox: Sandbox) -> None:
    terminals = [sandbox.terminal(["cat"]) for _ in range(16)]
    with pytest.raises(LimitExceeded):
        await sandbox.terminal(["cat"]).read()
    for terminal in terminals:
        terminal.close()
        terminal.close()


# connections


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


async def test_a_connection_ends_each_direction_on_its_own(sandbox: Sandbox) -> None:
    content = os.urandom(2_000_000)
    async with listening(echo_at_the_end) as port:
        with contextlib.closing(await sandbox.connect(port)) as connection:
            await connection.write(content)
            connection.end()
            connection.end()
            seen = b""
            while data := await connection.read():
                seen += data
    assert seen == content


async def test_nobody_listens(sandbox: Sandbox) -> None:
    async with listening(echo_at_the_end) as port:
        pass
    with pytest.raises(Conflict, match=str(port)) as caught:
        await sandbox.connect(port)
    assert (caught.value.code, caught.value.retryable) == ("connection_refused", True)


@pytest.mark.parametrize(("port", "host"), [(0, None), (70_000, None), (80, "10.0.0.1"), (80, "localhost")])
async def test_only_ports_of_loopback(sandbox: Sandbox, port: int, host: str | None) -> None:
    with pytest.raises(InvalidRequest):
        await sandbox.connect(port, host)


async def test_a_broken_connection_is_an_error(sandbox: Sandbox) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with listening(break_off) as port:
        connection = await sandbox.connect(port)
        await connection.write(b"x")
        with pytest.raises(Conflict) as caught:
            await connection.read()
    assert caught.value.code == "connection_broken"


async def test_a_port_is_forwarded(sandbox: Sandbox) -> None:
    content = os.urandom(1_000_000)

    async def once(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content[:number])
        writer.write_eof()
        assert await reader.read() == content[:number]
        writer.close()

    async with (
        listening(echo_at_the_end) as inner,
        forward_port(lambda: sandbox.connect(inner)) as outer,
    ):
        await asyncio.gather(*(once(outer, number * 50_000) for number in range(20)))


async def test_a_forward_to_nobody_refuses_and_goes_on(sandbox: Sandbox) -> None:
    async with listening(echo_at_the_end) as inner:
        pass
    async with forward_port(lambda: sandbox.connect(inner)) as outer:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", outer)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()


async def test_the_end_of_a_forward_cuts_its_connections(sandbox: Sandbox) -> None:
    async with listening(echo_at_the_end) as inner:
        async with forward_port(lambda: sandbox.connect(inner)) as outer:
            reader, writer = await asyncio.open_connection("127.0.0.1", outer)
            writer.write(b"x")
            await asyncio.sleep(0.1)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", outer)
        writer.close()


# watches


async def test_a_watch(sandbox: Sandbox, workspace: Path) -> None:
    watch = await sandbox.watch()
    with contextlib.closing(watch):
        await asyncio.to_thread((workspace / "a").mkdir)
        events = aiter(watch)
        assert await anext(events) == WatchEvent(WatchKind.CREATED, "a", True)
        await asyncio.to_thread((workspace / "a").rename, workspace / "b")
        assert await anext(events) == WatchEvent(WatchKind.MOVED, "b", True, "a")


async def test_a_watch_ends_with_its_folder(sandbox: Sandbox, workspace: Path) -> None:
    (workspace / "x").mkdir()
    watch = await sandbox.watch(["x"], is_recursive=False)
    (workspace / "x").rmdir()
    assert [event async for event in watch] == [WatchEvent(WatchKind.DELETED, "x", True)]


@pytest.mark.parametrize("path", ["missing", "/etc", "..", "a\0b"])
async def test_a_watch_of_nothing(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(InvalidRequest):
        await sandbox.watch([path])


async def test_too_many_watches(sandbox: Sandbox) -> None:
    watches = [await sandbox.watch() for _ in range(8)]
    with pytest.raises(LimitExceeded):
        await sandbox.watch()
    for watch in watches:
        watch.close()
    (await sandbox.watch()).close()


# figures


async def test_usage(sandbox: Sandbox) -> None:
    usage = await sandbox.usage()
    assert isinstance(usage, Usage)
    assert usage.pids is None or usage.pids > 0


# the end of the link


async def test_everything_ends_with_the_link(sandbox: Sandbox, workspace: Path) -> None:
    async with listening(echo_at_the_end) as port:
        terminal, connection, watch = sandbox.terminal(), await sandbox.connect(port), await sandbox.watch()
        await terminal.read()
        waiting: list[Any] = [terminal.wait(), connection.read(), anext(aiter(watch))]
        tasks = [asyncio.ensure_future(each) for each in waiting]
        await asyncio.sleep(0.05)
        os.kill(int((workspace.parent / "pid").read_text()), 9)
        for task in tasks:
            with pytest.raises(SandboxGone):
                await asyncio.wait_for(task, 5)
    for each in (terminal, connection, watch):
        each.close()
    with pytest.raises(SandboxGone):
        await terminal.write(b"x")
    for begin in (sandbox.connect(80), sandbox.watch(), sandbox.usage()):
        with pytest.raises(SandboxGone):
            await begin
    with pytest.raises(SandboxGone):
        sandbox.terminal()


# a guest that lies


@contextlib.asynccontextmanager
async def lying(open_: Callable[[Link], Any]) -> AsyncIterator[tuple[ScriptedGuest, int, Any]]:
    """A guest that is asked for something, the stream it is asked on, and who waits for the answer."""
    async with linked() as (guest, link):
        task = asyncio.ensure_future(open_(link))
        stream, _ = await guest.hear_open()
        yield guest, stream, task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def exit_of(link: Link) -> TerminalExit:
    return await reach.open_terminal(link, [], rows=1, cols=1, env={}, cwd=None).wait()


@pytest.mark.parametrize(
    "message",
    [{}, {"exit": 5}, {"exit": {"exit_code": "0", "signal": None}}, {"exit": {"exit_code": None, "signal": None}}],
)
async def test_a_terminal_that_ends_oddly(message: dict[str, Any]) -> None:
    async with lying(exit_of) as (guest, stream, task):
        guest.data(stream, b"screen")
        guest.message(stream, message)
        guest.end(stream)
        with pytest.raises(SandboxGone):
            await task


async def test_a_terminal_without_a_message() -> None:
    async with lying(exit_of) as (guest, stream, task):
        guest.end(stream)
        with pytest.raises(SandboxGone):
            await task


@pytest.mark.parametrize("message", [{}, {"connected": 5}, {"error": 5}, {"error": {"code": "other", "message": "x"}}])
async def test_a_connection_that_begins_oddly(message: dict[str, Any]) -> None:
    async with lying(lambda link: reach.connect(link, 80)) as (guest, stream, task):
        guest.message(stream, message)
        with pytest.raises(SandboxGone):
            await task
        assert (await guest.hear(frames.RESET))[1] == stream


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b"[" * 60_000 + b"\n",
        b"5\n",
        b'{"kind": "created"}\n',
        b'{"kind": "exploded", "path": "a", "is_dir": false}\n',
        b'{"kind": "created", "path": 5, "is_dir": false}\n',
        b'{"kind": "created", "path": "a", "is_dir": 1}\n',
        b'{"kind": "moved", "path": "a", "is_dir": true}\n',
        b'{"kind": "moved", "path": "a", "is_dir": true, "old_path": []}\n',
        b"x" * 200_000,
    ],
    ids=lambda line: line[:40],
)
async def test_an_event_that_is_none(line: bytes) -> None:
    async def first(link: Link) -> WatchEvent:
        return await anext(aiter(await reach.watch(link, ["."], is_recursive=True)))

    async with lying(first) as (guest, stream, task):
        guest.data(stream, b'{"kind": "watching", "directories": 1}\n')
        guest.data(stream, line)
        with pytest.raises(SandboxGone):
            await task


async def test_names_that_are_no_text() -> None:
    async def first(link: Link) -> WatchEvent:
        return await anext(aiter(await reach.watch(link, ["."], is_recursive=True)))

    async with lying(first) as (guest, stream, task):
        guest.data(stream, b'{"kind": "watching"}\n{"kind": "deleted", "path": "a\\udcff\\ud800", "is_dir": false}\n')
        assert (await task).path.encode().startswith(b"a\xef\xbf\xbd")


@pytest.mark.parametrize("value", [True, -1, "5", [], 1.5, float("nan")])
async def test_a_figure_that_is_none(value: Any) -> None:
    async with lying(reach.usage) as (guest, stream, task):
        guest.message(stream, {"usage": {"pids": value}})
        guest.end(stream)
        with pytest.raises(SandboxGone):
            await task


async def test_figures_that_are_absent() -> None:
    async with lying(reach.usage) as (guest, stream, task):
        guest.message(stream, {"usage": {"pids": 3, "cpu_time_s": 1, "memory_bytes": None, "more": "x"}})
        guest.end(stream)
        assert await task == Usage(pids=3, cpu_time_s=1)


async def test_more_messages_than_a_service_has_end_the_link() -> None:
    async with lying(exit_of) as (guest, stream, task):
        for _ in range(5):
            guest.message(stream, {"exit": None})
        with pytest.raises(SandboxGone, match="MESSAGE"):
            await task


async def test_more_bytes_than_there_is_credit_for_end_the_link() -> None:
    async def hold(link: Link) -> None:
        terminal = reach.open_terminal(link, [], rows=1, cols=1, env={}, cwd=None)
        await link.ended.wait()
        await terminal.wait()

    async with lying(hold) as (guest, stream, task):
        guest.data(stream, bytes(frames.WINDOW_BYTES + 1))
        with pytest.raises(SandboxGone, match="credit"):
            await task


async def test_what_is_closed_is_closed_in_the_guest_once() -> None:
    async with linked() as (guest, link):
        terminal = reach.open_terminal(link, [], rows=1, cols=1, env={}, cwd=None)
        stream, _ = await guest.hear_open()
        terminal.close()
        terminal.close()
        assert (await guest.hear())[:2] == (frames.RESET, stream)
        guest.data(stream, b"late")
        guest.message(stream, {"exit": 1})
        other = reach.open_terminal(link, [], rows=1, cols=1, env={}, cwd=None)
        assert (await guest.hear())[0] == frames.OPEN
        other.close()


async def test_both_ends_of_a_connection_are_its_end_without_a_reset() -> None:
    async with lying(lambda link: reach.connect(link, 80)) as (guest, stream, task):
        guest.message(stream, {"connected": "127.0.0.1"})
        connection = await task
        guest.end(stream)
        assert await connection.read() == b""
        await connection.write(b"still")
        connection.end()
        connection.close()
        assert [(await guest.hear())[0] for _ in range(2)] == [frames.DATA, frames.END]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(guest.hear(), 0.05)
