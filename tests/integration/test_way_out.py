"""What programs in a sandbox reach, and what not: the real guest, its link, servers on loopback. Cases N1 to N12."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.egress.entry import Entry
from orchestrator.egress.gate import GateLimits
from orchestrator.errors import SandboxStartFailed
from tests.fakes.web_server import WebServer, page, redirect
from tests.integration.ways_out import WayOut, network, way_out

pytestmark = pytest.mark.anyio

NAMES = {
    "site.test": ["127.0.0.1"],
    "other.test": ["127.0.0.1"],
    "a.below.test": ["127.0.0.1"],
    "below.test": ["127.0.0.1"],
    "inside.test": ["10.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "rebound.test": ["127.0.0.1", "169.254.169.254"],
    "empty.test": [],
}

_SIOCGIFADDR = 0x8915

Opened = Callable[..., Awaitable[WayOut]]


@pytest.fixture
async def opened(short_path: Path) -> AsyncGenerator[Opened, None]:
    """Opens sandboxes with a way out; they end with the test."""
    numbers = itertools.count()
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(rules: Any = None, **fields: Any) -> WayOut:
            folder = short_path / str(next(numbers))
            folder.mkdir()
            return await stack.enter_async_context(way_out(folder, rules, **{"names": NAMES, **fields}))

        yield open_one


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        server.pages["/a"] = page(b"content")
        yield server


@asynccontextmanager
async def served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server of raw bytes; its port."""

    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(each, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def allow(*rules: Any) -> Any:
    return {"allowlist": [rule if isinstance(rule, dict) else {"domain": rule} for rule in rules]}


def get(url: str, *headers: str) -> bytes:
    host = url.split("/")[2]
    lines = [f"GET {url} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def connect(out: WayOut, target: str) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """The head of the answer to CONNECT, and what is then a tunnel."""
    reader, writer = await out.proxied()
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        return await reader.readuntil(b"\r\n\r\n"), reader, writer


async def the_entry(out: WayOut) -> dict[str, Any]:
    ((_, body),) = await out.entries(1)
    return body


# transport


async def test_programs_find_it_by_their_environment(opened: Opened, web: WebServer) -> None:
    out = await opened()
    url = f"http://site.test:{web.port}/a"
    assert await out.bash(f"curl -sS {url}") == "content"
    assert await out.bash(f"curl -sSp {url}") == "content"
    assert await out.bash(f"curl -sS --socks5-hostname ${{http_proxy#http://}} {url}") == "content"
    assert (
        await out.bash(f"python3 -c \"import urllib.request as r; print(r.urlopen('{url}').read())\"") == "b'content'\n"
    )
    kinds = [body["protocol"] for _, body in await out.entries(4)]
    assert kinds == ["http", "connect", "socks", "http"]
    assert not out.troubles


async def test_a_variable_of_the_environment_wins(opened: Opened) -> None:
    out = await opened()
    out.sandbox.variables["http_proxy"] = "http://mine:1"
    assert await out.bash("echo $http_proxy") == "http://mine:1\n"


async def test_a_tunnel_carries_both_ways_and_each_way_ends_alone(opened: Opened) -> None:
    async def speak_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = await reader.read(-1)
        writer.write(b"%d bytes" % len(heard))
        await writer.drain()

    out = await opened()
    async with served(speak_at_the_end) as port:
        head, reader, writer = await connect(out, f"site.test:{port}")
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.write(bytes(3_000_000))
        await writer.drain()
        writer.write_eof()
        assert await reader.read(-1) == b"3000000 bytes"
        writer.close()
    body = await the_entry(out)
    assert (body["sent_bytes"], body["received_bytes"], body["verdict"]) == (3_000_000, 13, "allowed")


async def test_who_reads_slowly_slows_the_server_and_nothing_piles_up(opened: Opened) -> None:
    sent = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(400):
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    out = await opened()
    async with served(pour) as port:
        _, reader, writer = await connect(out, f"site.test:{port}")
        await reader.readexactly(100_000)
        before = -1
        while sent != before:  # until nobody takes more
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 30_000_000
        rest = 40_000_000 - 100_000
        while rest:
            rest -= len(await reader.read(min(rest, 1 << 20)))
        writer.close()


async def test_connections_end_with_the_link_and_the_next_link_takes_new_ones(opened: Opened, web: WebServer) -> None:

    out = await opened()
    async with served(echo) as port:
        _, reader, writer = await connect(out, f"site.test:{port}")
        await out.sandbox.aclose()
        assert await reader.read(-1) == b""
        writer.close()
    again = await out.linked_again()
    await again.let_out(Entry(out.gate), 0, out.troubles.append)
    outcome = await again.bash("n1", f"curl -sS http://site.test:{web.port}/a", timeout_s=20, output_limit_bytes=99)
    assert outcome.head == b"content"


async def test_a_guest_that_cannot_listen_says_so_and_nothing_goes_out(opened: Opened) -> None:

    out = await opened()
    sandbox = await out.another()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SandboxStartFailed, match="cannot do it"):
        await sandbox.let_out(Entry(out.gate), taken.getsockname()[1], out.troubles.append)
    outcome = await sandbox.bash("t1", "echo [$http_proxy]", timeout_s=10, output_limit_bytes=999)
    assert outcome.head == b"[]\n"


async def test_a_hundred_connections_at_once(opened: Opened) -> None:
    out = await opened()
    async with served(echo) as port:
        tunnels = await asyncio.gather(*(connect(out, f"site.test:{port}") for _ in range(100)))
        for number, (head, _, writer) in enumerate(tunnels):
            assert head.startswith(b"HTTP/1.1 200 ")
            writer.write(b"%03d" % number)
        assert [await reader.readexactly(3) for _, reader, _ in tunnels] == [b"%03d" % n for n in range(100)]
        assert out.gate.connections == 100
        # One more is told, and the others go on.
        assert (await out.exchange(get("http://site.test/"))).startswith(b"HTTP/1.1 503 ")
        for _, _, writer in tunnels:
            writer.write_eof()
        assert [await reader.read(-1) for _, reader, _ in tunnels] == [b""] * 100
        for _, _, writer in tunnels:
            writer.close()


async def test_n12_slow_requests_are_ended_and_hold_nobody_up(opened: Opened, web: WebServer) -> None:
    out = await opened(limits=GateLimits(connections=20, header_timeout_s=0.5))
    slow = [await out.proxied() for _ in range(15)]
    for _, writer in slow[:5]:
        writer.write(b"GET http://site.test/ HTTP/1.1\r\nHost: si")
    for _, writer in slow[5:10]:
        writer.write(b"\x05\x01")
    assert b"content" in await out.exchange(get(f"http://site.test:{web.port}/a"))
    async with asyncio.timeout(5):
        assert [await reader.read(-1) for reader, _ in slow] == [b""] * 15
    for _, writer in slow:
        writer.close()
    assert out.gate.connections == 0


async def test_a_connection_on_which_nothing_goes_is_ended(opened: Opened) -> None:
    out = await opened(limits=GateLimits(idle_timeout_s=0.3))
    async with served(echo) as port:
        _, reader, writer = await connect(out, f"site.test:{port}")
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read(-1) == b""
        writer.close()
    assert (await the_entry(out))["verdict"] == "failed"


# HTTP


async def test_requests_to_several_servers_go_over_one_connection(opened: Opened, web: WebServer) -> None:
    out = await opened()
    with WebServer() as second:
        second.pages["/a"] = page(b"second")
        urls = [
            f"http://site.test:{port}/a?n={n}" for n, port in enumerate((web.port, web.port, second.port, web.port))
        ]
        assert await out.bash(f"curl -sS {' '.join(urls)}") == "contentcontentsecondcontent"
    told = [body for _, body in await out.entries(4)]
    assert [body["path"] for body in told] == ["/a"] * 4
    assert "n=" not in str(told)


async def test_bodies_go_out_and_come_back_in_every_form(opened: Opened) -> None:
    async def show(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"chunked" in head.lower():
            body = b""
            while (size := int(await reader.readline(), 16)) > 0:
                body += await reader.readexactly(size)
                await reader.readline()
        else:
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n%d of %s" % (len(body), body[:3]))
        await writer.drain()

    out = await opened()
    async with served(show) as port:
        url = f"http://site.test:{port}/"
        make = "head -c 2000000 /dev/zero | tr '\\0' x |"
        assert await out.bash(f"curl -sS -d abc {url}") == "3 of abc"
        assert await out.bash(f"{make} curl -sS -T - {url}") == "2000000 of xxx"
        assert await out.bash(f"{make} curl -sS --data-binary @- -H 'Expect: 100-continue' {url}") == "2000000 of xxx"


async def test_a_server_that_breaks_off_is_no_end(opened: Opened) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    out = await opened()
    async with served(break_off) as port:
        said = await out.bash(f"curl -sS http://site.test:{port}/; echo [$?]")
        assert said.endswith(("[18]\n", "[56]\n")), said
    assert (await the_entry(out))["verdict"] == "failed"


async def test_what_answers_as_no_web_server_is_said(opened: Opened) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()

    out = await opened()
    async with served(greet) as port:
        said = await out.exchange(get(f"http://site.test:{port}/"))
    assert said.startswith(b"HTTP/1.1 502 ")
    assert b"does not answer as a web server does" in said


async def test_a_websocket_passes_and_other_upgrades_do_not_happen(opened: Opened) -> None:
    heads: list[bytes] = []

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if b"websocket" in heads[-1]:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi ")
            await echo(reader, writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")

    out = await opened()
    async with served(switch) as port:
        url = f"http://site.test:{port}/chat"
        reader, writer = await out.proxied()
        asked = get(url, "Upgrade: websocket", "Sec-WebSocket-Key: x").replace(b"close", b"Upgrade")
        writer.write(asked + b"early ")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"upgrade: websocket" in head.lower()
        assert await reader.readexactly(9) == b"hi early "
        writer.write(b"more")
        assert await reader.readexactly(4) == b"more"
        writer.write_eof()
        assert await reader.read(-1) == b""
        writer.close()
        h2c = get(url, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
        h2c = h2c.replace(b"close", b"Upgrade, HTTP2-Settings, close")
        assert (await out.exchange(h2c)).endswith(b"no")
    assert b"h2c" not in heads[1]
    assert b"http2-settings" not in heads[1].lower()


async def test_what_is_said_to_the_proxy_is_not_passed_on(opened: Opened, web: WebServer) -> None:
    out = await opened()
    said = ("Proxy-Authorization: Basic eA==", "X-Named: 1", "TE: trailers", "X-Kept: 2", "Keep-Alive: 5")
    asked = get(f"http://site.test:{web.port}/a", *said).replace(
        b"Connection: close", b"Connection: close, X-Named, Host"
    )
    assert b"content" in await out.exchange(asked)
    (_, headers) = web.requests[0]
    assert headers["host"] == f"site.test:{web.port}"
    assert headers["x-kept"] == "2"
    assert not {"proxy-authorization", "x-named", "te", "keep-alive"} & headers.keys()


@pytest.mark.parametrize(
    "request_",
    [
        b"POST http://site.test HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://site.test/ HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST http://site.test/ HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST http://site.test/ HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST http://site.test/ HTTP/1.1\r\nHost: site.test\r\nContent-Length: +5\r\n\r\nabcde",
        b"GET http://site.test/ HTTP/1.1\r\nHost: site.test\r\nHost: site.test\r\n\r\n",
        b"GET http://site.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
        b"GET http://site.test/ HTTP/1.1\r\nHost: site.test:81\r\n\r\n",
        b"GET http://site.test/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"GET https://site.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"GET http://user@site.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"GET http://site.test@other.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"GET http://site.test\\@other.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"GET http://site.test:80:81/ HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"GET http://site.test%00.other.test/ HTTP/1.1\r\nHost: site.test%00.other.test\r\n\r\n",
        b"GET http://site.test/\x00 HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"GET http://site.test/#f HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"TRACE http://site.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"CONNECT site.test:80 HTTP/1.1\r\nHost: site.test:80\r\nContent-Length: 5\r\n\r\nhello",
        b"CONNECT site.test HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"CONNECT site.test:0 HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"CONNECT site.test:65536 HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"CONNECT http://site.test:80 HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"CONNECT user@site.test:80 HTTP/1.1\r\nHost: site.test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://site.test/ HTTP/1.1\r\nHost: site.test\r\nX: " + bytes(70_000) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
    ],
    ids=lambda request: request[:60],
)  # fmt: skip
async def test_n5_n7_what_can_be_read_in_two_ways_is_refused(opened: Opened, request_: bytes) -> None:
    out = await opened(names={name: ["127.0.0.1"] for name in ("site.test", "other.test")})
    said = await out.exchange(request_ + (b"\r\n\r\n" if request_[0] < 32 else b""))
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 431 ")), said
    assert not [body for _, body in await out.entries() if body["verdict"] == "allowed"]


@pytest.mark.parametrize("pieces", [b"0x0\r\n\r\n", b"1\r\nxyz\r\n0\r\n\r\n", b"5\r\nwhole\r\n-1\r\n\r\n"])
async def test_n7_a_body_in_pieces_that_are_none_is_the_program_s_fault(opened: Opened, pieces: bytes) -> None:
    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    out = await opened()
    async with served(listen) as port:
        head = get(f"http://site.test:{port}/a", "Transfer-Encoding: chunked").replace(b"GET", b"POST")
        said = await out.exchange(head + pieces)
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert b"the request cannot be read" in said
    ((_, entry),) = await out.entries(1)
    assert entry["verdict"] == "failed"
    assert "the request cannot be read" in entry["reason"]


async def test_n7_a_second_request_in_a_body_stays_a_body(opened: Opened) -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        heard.append(await reader.readexactly(int(heard[0].lower().split(b"content-length: ")[1].split(b"\r\n")[0])))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read(1)

    out = await opened(allow("site.test"))
    inner = b"GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n"
    async with served(hear) as port:
        head = b"POST http://site.test:%d/ HTTP/1.1\r\nHost: site.test:%d\r\nConnection: close\r\n" % (port, port)
        said = await out.exchange(head + b"Content-Length: %d\r\n\r\n" % len(inner) + inner)
    assert said.endswith(b"ok")
    assert heard[1] == inner


# SOCKS


async def socks(out: WayOut, request: bytes) -> bytes:
    reader, writer = await out.proxied()
    writer.write(b"\x05\x01\x00" + request)
    async with asyncio.timeout(10):
        said = await reader.read(12)
        while len(said) < 12 and (more := await reader.read(12 - len(said))):
            said += more
    writer.close()
    return said


def to(host: bytes, port: int, command: int = 1) -> bytes:
    return bytes((5, command, 0, 3, len(host))) + host + struct.pack(">H", port)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (to(b"site.test", 80, command=2), 7),  # BIND
        (to(b"site.test", 80, command=3), 7),  # UDP
        (b"\x05\x01\x00\x02", 8),
        (to(b"inside.test", 80), 2),
        (to(b"site.test", 25), 2),
        (to(b"bad name", 80), 2),
        (to(b"", 80), 2),
        (to(b"169.254.169.254", 80), 2),
        (to(b"0x7f.1", 80), 2),
        (b"\x05\x01\x00\x01\xa9\xfe\xa9\xfe\x00\x50", 2),
        (b"\x05\x01\x00\x04" + b"\0" * 10 + b"\xff\xff\xa9\xfe\xa9\xfe" + b"\x00\x50", 2),
        (to(b"nowhere.test", 80), 4),
    ],
)  # fmt: skip
async def test_socks_refuses_with_its_own_codes(opened: Opened, request_: bytes, code: int) -> None:
    out = await opened()
    assert await socks(out, request_) == b"\x05\x00" + bytes((5, code, 0, 1)) + bytes(6)


async def test_socks_takes_addresses_and_no_passwords(opened: Opened) -> None:
    out = await opened()
    async with served(echo) as port:
        said = await socks(out, b"\x05\x01\x00\x01\x7f\x00\x00\x01" + struct.pack(">H", port))
        assert said[3] == 0
    reader, writer = await out.proxied()
    writer.write(b"\x05\x01\x02")
    assert await reader.read(-1) == b"\x05\xff"
    writer.close()


# policy


@pytest.mark.parametrize(
    ("rules", "reached"),
    [
        (None, "site other a.below below"),
        ("disabled", ""),
        (allow(), ""),
        (allow("*"), "site other a.below below"),
        (allow("SITE.test."), "site"),
        (allow("*.below.test"), "a.below"),
        (allow("site.test", "below.test"), "site below"),
    ],
    ids=str,
)
async def test_only_whom_the_rules_name_is_reached(opened: Opened, web: WebServer, rules: Any, reached: str) -> None:
    out = await opened(rules)
    for name in ("site", "other", "a.below", "below"):
        url = f"http://{name}.test:{web.port}/a"
        for asked in (
            get(url),
            f"CONNECT {name}.test:{web.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + get("http://x/"),
        ):
            said = await out.exchange(asked)
            assert said.startswith(b"HTTP/1.1 200 " if name in reached.split() else b"HTTP/1.1 403 "), (name, said)
            assert (await socks(out, to(f"{name}.test".encode(), web.port)))[3] == (0 if name in reached.split() else 2)


async def test_a_denial_names_the_rule_to_ask_for(opened: Opened) -> None:
    out = await opened(allow("site.test"))
    told = 'corral: other.test is not in the allowlist of \'network\'; ask for {"domain": "other.test"}'
    said = await out.exchange(get("http://other.test/secret?token=canary"))
    assert said.endswith(told.encode() + b"\n")
    head, _, writer = await connect(out, "other.test:443")
    assert head.startswith(f"HTTP/1.1 403 {told}\r\n".encode())
    writer.close()
    assert "response 403" in await out.bash("curl -sS https://other.test/ 2>&1")
    entries = await out.entries(3)
    assert [kind for kind, _ in entries] == ["network.denied"] * 3
    assert entries[0][1]["path"] == "/secret"
    assert "canary" not in str(entries)
    assert out.gate.unreached_count == 3
    assert 'ask for {"domain": "other.test"}' in out.gate.unreached[-1]


METADATA = [
    "169.254.169.254", "169.254.169.254.", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]",
    "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe", "169.254.43518", "[fd00:ec2::254]",
    "metadata.test", "rebound.test", "１６９.254.169.254", "100.100.100.200", "168.63.129.16", "inside.test",
    "127.1", "127.0.0.2", "[::1]", "0.0.0.0", "[::]", "0", "172.17.0.1", "224.0.0.1", "255.255.255.255", "[fe80::1]",
    "[fe80::1%25eth0]", "10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize(
    "rules", [None, allow("*"), allow(*[text.strip("[]") for text in ("169.254.169.254", "10.0.0.1")])]
)
async def test_n1_what_is_not_public_is_not_reached_in_any_spelling(opened: Opened, rules: Any) -> None:
    out = await opened(rules)
    for text in METADATA:
        spelled = text.encode()
        said = await out.exchange(
            b"GET http://%b/ HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (spelled, spelled)
        )
        assert said.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), (text, said)
        said = await out.exchange(b"CONNECT %b:80 HTTP/1.1\r\nHost: x\r\n\r\n" % spelled)
        assert said.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), (text, said)
        assert (await socks(out, to(spelled.strip(b"[]"), 80)))[3] == 2, text


async def test_n1_a_redirect_is_the_clients_own_and_judged_anew(opened: Opened, web: WebServer) -> None:
    web.pages["/r"] = redirect("http://169.254.169.254/latest/meta-data")
    out = await opened()
    said = await out.bash(f"curl -sSL http://site.test:{web.port}/r")
    assert said.startswith("corral: 169.254.169.254 is not public")


async def test_n1_a_name_is_resolved_once_and_that_address_is_dialled(opened: Opened, web: WebServer) -> None:
    asked: list[str] = []

    class Rebinding(dict[str, list[str]]):
        def __contains__(self, name: object) -> bool:
            return True

        def __getitem__(self, name: str) -> list[str]:
            asked.append(name)
            return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    out = await opened(names=Rebinding())
    assert b"content" in await out.exchange(get(f"http://re.test:{web.port}/a"))
    assert asked == ["re.test"]
    assert (await out.exchange(get("http://re.test/"))).startswith(b"HTTP/1.1 403 ")


async def test_n11_this_machine_and_this_server_are_not_reached(opened: Opened, web: WebServer) -> None:
    own = _own_address()
    out = await opened(
        exceptions=["127.0.0.1"], own_ports=[web.port], names={"me.test": [own], "site.test": ["127.0.0.1"]}
    )
    for url in (f"http://site.test:{web.port}/a", f"http://me.test:{web.port}/a", f"http://{own}:{web.port}/a"):
        assert (await out.exchange(get(url))).startswith(b"HTTP/1.1 403 "), url
    with WebServer() as other:
        other.pages["/a"] = page(b"content")
        assert b"content" in await out.exchange(get(f"http://site.test:{other.port}/a"))


def _own_address() -> str:
    """An address of this machine, of an interface besides loopback if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in reversed(socket.if_nameindex()):
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
                return socket.inet_ntoa(answer[20:24])
    return "127.0.0.1"


async def test_the_operators_denial_is_above_everything(opened: Opened, web: WebServer) -> None:
    out = await opened(allow("*"), denied=["site.test"])
    assert b"denied by the operator" in await out.exchange(get(f"http://site.test:{web.port}/a"))
    assert b"content" in await out.exchange(get(f"http://other.test:{web.port}/a"))


async def test_other_rules_hold_at_once_and_cut_what_they_do_not_allow(opened: Opened, web: WebServer) -> None:
    out = await opened()
    async with served(echo) as port:
        _, kept, kept_writer = await connect(out, f"site.test:{port}")
        _, cut, cut_writer = await connect(out, f"other.test:{port}")
        out.gates.gate("e" * 32, network(allow("site.test")))
        with contextlib.suppress(ConnectionResetError):
            assert await cut.read(-1) == b""
        kept_writer.write(b"still")
        assert await kept.readexactly(5) == b"still"
        assert (await out.exchange(get(f"http://other.test:{web.port}/a"))).startswith(b"HTTP/1.1 403 ")
        for writer in (kept_writer, cut_writer):
            writer.close()
    cut_entries = [body for _, body in await out.entries(2) if body["verdict"] == "cut"]
    assert [body["host"] for body in cut_entries] == ["other.test"]
    assert "not in the allowlist" in cut_entries[0]["reason"]


async def test_n3_new_names_have_a_budget(opened: Opened, web: WebServer) -> None:
    out = await opened(limits=GateLimits(new_names=1))
    assert b"content" in await out.exchange(get(f"http://site.test:{web.port}/a"))
    said = await out.exchange(get(f"http://other.test:{web.port}/a"))
    assert b"too many new hosts" in said
    assert b"content" in await out.exchange(get(f"http://site.test:{web.port}/a"))
    assert b"content" in await out.exchange(get(f"http://127.0.0.1:{web.port}/a")), "an address is no name"


async def test_bytes_have_a_budget(opened: Opened) -> None:
    out = await opened(limits=GateLimits(limit_bytes=300_000))
    async with served(echo) as port:
        _, reader, writer = await connect(out, f"site.test:{port}")
        writer.write(bytes(1_000_000))
        got = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                got += len(data)
        assert got < 400_000
        writer.close()
        said = await out.exchange(get(f"http://site.test:{port}/"))
        assert b"used up its 300000 bytes" in said


async def test_headers_of_a_rule_are_set_on_plain_http_and_replace_the_programs_own(
    opened: Opened, web: WebServer
) -> None:
    rule = {"domain": "site.test", "transform": {"Authorization": "Bearer canary", "X-Api-Key": "k"}}
    out = await opened(allow(rule, "other.test"))
    own = ("authorization: mine", "AUTHORIZATION: too", "X_Api_Key: mine", "X-Fine: 1")
    assert b"content" in await out.exchange(get(f"http://site.test:{web.port}/a", *own))
    assert b"content" in await out.exchange(get(f"http://other.test:{web.port}/a", *own[:1]))
    first, second = (headers for _, headers in web.requests)
    assert first["authorization"] == "Bearer canary"
    assert first["x-api-key"] == "k"
    assert "x_api_key" not in first
    assert first["x-fine"] == "1"
    assert second["authorization"] == "mine"
    assert "canary" not in str(await out.entries())


async def test_methods_and_paths_are_judged_request_by_request(opened: Opened, web: WebServer) -> None:
    out = await opened(allow({"domain": "site.test", "methods": ["GET"], "paths": ["/a", "/b/*"]}))
    base = f"http://site.test:{web.port}"
    web.pages["/b/x"] = page(b"below")
    assert await out.bash(f"curl -sS {base}/a {base}/b/x") == "contentbelow"
    for wrong in ("-d x {}/a", "{}/c", "--path-as-is {}/b/../c", "{}/b/%2e%2e/c"):
        assert "corral:" in await out.bash(f"curl -sS {wrong.format(base)}"), wrong


# TLS


def client_hello(name: str | None) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("first", "passes"),
    [
        (client_hello("site.test"), True),
        (client_hello("SITE.test"), True),
        (client_hello(None), True),
        (b"SSH-2.0-x\r\n", True),
        (client_hello("other.test"), False),
        (client_hello("site.test.other.test"), False),
        (b"\x16\x03\x01\x00\x00" * 3, False),
        (b"\x16\x03\x01\xff\xff" + b"\x01\x00\xff\xff" + bytes(70_000), False),
    ],
    ids=["same", "case", "none", "other-protocol", "other", "longer", "empty", "endless"],
)
async def test_n4_a_tunnel_asks_in_tls_for_the_name_that_it_was_opened_to(
    opened: Opened, first: bytes, passes: bool
) -> None:
    out = await opened()
    async with served(echo) as port:
        _, reader, writer = await connect(out, f"site.test:{port}")
        for start in range(
            0, len(first), 50 if len(first) < 5000 else 20_000
        ):  # in pieces, as a slow network brings it
            writer.write(first[start : start + (50 if len(first) < 5000 else 20_000)])
            await writer.drain()
        if passes:
            assert await reader.readexactly(len(first)) == first
        else:
            with contextlib.suppress(ConnectionResetError):
                async with asyncio.timeout(5):
                    assert await reader.read(-1) == b""
        writer.close()
    if not passes:
        assert (await the_entry(out))["verdict"] == "denied"


# audit


async def test_a_flood_is_counted_and_not_written_down(opened: Opened) -> None:
    out = await opened(allow())
    for _ in range(300):
        await out.exchange(get("http://site.test/"))
    await out.sandbox.aclose()
    await out.audit.aclose()
    kinds = [kind for kind, _ in out.told]
    assert 100 <= kinds.count("network.denied") < 250
    summed = sum(body["count"] for kind, body in out.told if kind == "network.summary")
    assert summed + kinds.count("network.denied") == 300
