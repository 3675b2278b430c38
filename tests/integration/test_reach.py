"""Terminals, ports, watches and figures over the server's own routes, with real sockets and plain processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from orchestrator.wire.environments import EnvironmentSpec
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, event_of, running
from tests.fakes.rows import key_row

pytestmark = pytest.mark.anyio


@pytest.fixture
async def environment(server: RunningServer) -> str:
    created = await server.create("```bash\ntrue\n```", environment="remote")
    return str(created["environment_id"])


@pytest.fixture
async def workspace(server: RunningServer, environment: str, sandboxes: Path) -> Path:
    row = await server.services.store.environment(None, environment)
    assert row is not None
    return Path(row.sandbox_ref or "") / "workspace"


@asynccontextmanager
async def opened(server: RunningServer, path: str, **headers: str) -> AsyncIterator[ClientConnection]:
    url = server.url.replace("http", "ws") + path
    async with connect(url, additional_headers=headers, proxy=None, compression=None) as socket:
        yield socket


async def refusal(server: RunningServer, path: str, **headers: str) -> tuple[int, str]:
    """Status and code with which a WebSocket is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with opened(server, path, **headers):
            pass
    answer = caught.value.response
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, json.loads(answer.body or b"")["error"]["code"]


async def until(socket: ClientConnection, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        data = await asyncio.wait_for(socket.recv(), 10)
        assert isinstance(data, bytes), data
        seen += data
    return seen


async def last_words(socket: ClientConnection) -> tuple[Any, int]:
    """The last text frame, and the code of the close."""
    text: Any = None
    try:
        while True:
            data = await asyncio.wait_for(socket.recv(), 10)
            text = json.loads(data) if isinstance(data, str) else text
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return text, closed.rcvd.code


@asynccontextmanager
async def listening(serve: Any) -> AsyncIterator[int]:
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def echo_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


# terminals


async def test_a_terminal(server: RunningServer, environment: str) -> None:
    async with opened(server, f"/ops/environments/{environment}/terminal?rows=7&cols=70&term=vt100") as socket:
        await socket.send(b"stty size; echo $TERM\r")
        seen = await until(socket, b"vt100\r\n")
        assert b"7 70\r\n" in seen
        await socket.send('{"resize": {"rows": 8, "cols": 80}}')
        await socket.send(b"stty size; exit 4\r")
        await until(socket, b"8 80\r\n")
        assert await last_words(socket) == ({"exit": {"exit_code": 4, "signal": None}}, 1000)


async def test_a_terminal_with_a_command(server: RunningServer, environment: str) -> None:
    path = f"//ops/environments/{environment}/terminal/?command=printf&command=%25s&command=a%20b"
    async with opened(server, path) as socket:
        assert await until(socket, b"a b") == b"a b"
        assert (await last_words(socket))[0] == {"exit": {"exit_code": 0, "signal": None}}


async def test_a_caller_that_leaves_hangs_up(server: RunningServer, environment: str, workspace: Path) -> None:
    words = ("bash", "-c", "trap 'touch left; exit' HUP; echo ready; while :; do sleep 0.05; done")
    async with opened(
        server, f"/ops/environments/{environment}/terminal?{urlencode({'command': words}, True)}"
    ) as socket:
        await until(socket, b"ready")
    async with asyncio.timeout(10):
        while not (workspace / "left").exists():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"resize": {"rows": "x"}}', "[" * 100_000])
async def test_a_text_frame_without_sense_ends_it(server: RunningServer, environment: str, text: str) -> None:
    async with opened(server, f"/ops/environments/{environment}/terminal?command=cat") as socket:
        await socket.send(text)
        words, code = await last_words(socket)
        assert (words["error"]["code"], code) == ("invalid_request", 1011)


async def test_what_does_not_start_is_told(server: RunningServer, environment: str) -> None:
    async with opened(server, f"/ops/environments/{environment}/terminal?command=no-such") as socket:
        words, code = await last_words(socket)
        assert "no-such" in words["error"]["message"]
        assert code == 1011


# ports


async def test_a_port(server: RunningServer, environment: str) -> None:
    content = bytes(range(256)) * 4000
    async with (
        listening(echo_at_the_end) as port,
        opened(server, f"/ops/environments/{environment}/ports/{port}") as socket,
    ):
        for start in range(0, len(content), 100_000):
            await socket.send(content[start : start + 100_000])
        await socket.send('{"end": true}')
        seen = b""
        while len(seen) < len(content):
            data = await asyncio.wait_for(socket.recv(), 10)
            assert isinstance(data, bytes)
            seen += data
        assert seen == content
        assert await last_words(socket) == ({"end": True}, 1000)


async def test_nobody_listens(server: RunningServer, environment: str, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(echo_at_the_end) as port:
        pass
    assert await refusal(server, f"/ops/environments/{environment}/ports/{port}") == (409, "connection_refused")
    assert caplog.text == ""


@pytest.mark.parametrize(("port", "expected"), [("0", 400), ("65536", 400), ("x", 400)])
async def test_a_port_that_is_none(server: RunningServer, environment: str, port: str, expected: int) -> None:
    assert (await refusal(server, f"/ops/environments/{environment}/ports/{port}"))[0] == expected


# watches and figures


async def test_a_watch(server: RunningServer, environment: str, workspace: Path) -> None:
    frames: list[bytes] = []
    async with server.client.stream("GET", f"/ops/environments/{environment}/watch") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b": keep-alive\n\n"
        await asyncio.to_thread((workspace / "a").mkdir)
        async for piece in pieces:
            frames.append(piece)
            break
    assert frames[0].startswith(b"event: created\n")
    assert event_of(frames[0]) == {"kind": "created", "path": "a", "is_dir": True, "old_path": None}


async def test_a_watch_of_nothing_is_refused(server: RunningServer, environment: str) -> None:
    answer = await server.client.get(f"/ops/environments/{environment}/watch", params={"path": "missing"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_watches_that_are_left_are_closed(server: RunningServer, environment: str) -> None:
    for _ in range(12):
        async with server.client.stream("GET", f"/ops/environments/{environment}/watch") as answer:
            assert answer.status_code == 200
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("route", ["usage?colour=red", "watch?path=.&colour=red"])
async def test_a_parameter_that_nobody_knows_is_refused(server: RunningServer, environment: str, route: str) -> None:
    answer = await server.client.get(f"/ops/environments/{environment}/{route}")
    assert (answer.status_code, "colour" in answer.text) == (400, True)


async def test_a_terminal_refuses_what_it_does_not_know(server: RunningServer, environment: str) -> None:
    assert (await refusal(server, f"/ops/environments/{environment}/terminal?colour=red"))[0] == 400


async def test_usage(server: RunningServer, environment: str) -> None:
    answer = await server.client.get(f"/ops/environments/{environment}/usage")
    assert answer.status_code == 200
    assert {"cpu_time_s", "memory_bytes", "disk_used_bytes", "pids"} <= set(answer.json())


async def test_usage_starts_nothing(server: RunningServer) -> None:
    project = await server.services.store.default_project()
    row = await server.services.environments.create(project.id, EnvironmentSpec())
    answer = await server.client.get(f"/ops/environments/{row.id}/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "aborted")


# who may


ROUTES = ("terminal", "ports/80")


@pytest.mark.parametrize("route", ROUTES)
async def test_an_unknown_environment(server: RunningServer, route: str) -> None:
    assert await refusal(server, f"/ops/environments/nothing/{route}") == (404, "not_found")


@pytest.mark.parametrize("route", ["watch", "usage"])
async def test_an_unknown_environment_over_http(server: RunningServer, route: str) -> None:
    answer = await server.client.get(f"/ops/environments/nothing/{route}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:1"},
        {"Origin": "null"},
    ],
)
async def test_web_pages_open_no_socket(
    server: RunningServer, environment: str, route: str, headers: dict[str, str]
) -> None:
    assert await refusal(server, f"/ops/environments/{environment}/{route}", **headers) == (403, "permission_denied")


async def test_a_foreign_host_opens_no_socket(server: RunningServer, environment: str) -> None:
    """As after a rebinding of names: the browser asks us for somebody else's host."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(
        f"GET /ops/environments/{environment}/terminal HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 403")
    writer.close()


@pytest.fixture
async def keys(server: RunningServer, environment: str) -> dict[str, str]:
    """A key of the environment's project, one of another project, and an operator's of that other one."""
    store = server.services.store
    mine, other = await store.default_project(), await store.ensure_project("other")
    made = {"mine": (mine.id, False), "foreign": (other.id, False), "operator": (other.id, True)}
    for name, (project_id, is_operator) in made.items():
        row = key_row(project_id, id=f"key_{name}", is_operator=is_operator)
        await store.create_key(row, hashlib.sha256(name.encode()).digest())
    await asyncio.sleep(1.1)
    return {name: name for name in made}


async def test_keys_reach_their_own_project(server: RunningServer, environment: str, keys: dict[str, str]) -> None:
    path = f"/ops/environments/{environment}/terminal?command=true"
    assert (await refusal(server, path))[0] == 401
    assert (await refusal(server, path, **{"x-goog-api-key": "wrong"}))[0] == 401
    assert await refusal(server, path, **{"x-goog-api-key": "foreign"}) == (404, "not_found")
    for headers in ({"x-goog-api-key": "mine"}, {"x-goog-api-key": "operator"}, {"Authorization": "Bearer mine"}):
        async with opened(server, path, **headers) as socket:
            assert (await last_words(socket))[1] == 1000
    for route in ("usage", "watch"):
        url = f"/ops/environments/{environment}/{route}"
        assert (await server.client.get(url)).status_code == 401
        assert (await server.client.get(url, headers={"x-goog-api-key": "foreign"})).status_code == 404


async def test_a_key_in_the_address_is_not_logged(
    server: RunningServer, environment: str, keys: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with opened(server, f"/ops/environments/{environment}/terminal?command=true&key=mine") as socket:
            await last_words(socket)
    assert "key=mine" not in caplog.text


# the end


async def test_everything_ends_with_the_server(tmp_path: Path, sandboxes: Path) -> None:
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as server:
        created = await server.create("```bash\ntrue\n```", environment="remote")
        base = f"/ops/environments/{created['environment_id']}"
        async with opened(server, f"{base}/terminal") as socket, server.client.stream("GET", f"{base}/watch") as answer:
            await socket.recv()
            server.services.closing.set()
            assert (await last_words(socket))[1] == 1001
            assert [piece async for piece in answer.aiter_raw()] in ([], [b": keep-alive\n\n"])


async def test_the_end_of_the_sandbox_is_told(server: RunningServer, environment: str, workspace: Path) -> None:
    async with opened(server, f"/ops/environments/{environment}/terminal") as socket:
        await socket.recv()
        pid = int(await asyncio.to_thread((workspace.parent / "pid").read_text))
        os.kill(pid, 9)
        words, code = await last_words(socket)
        assert (words["error"]["code"], code) == ("sandbox_gone", 1011)
