"""TLS that is opened: requests are judged and get what rules and variables say, and no secret comes back. N4 to N9."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import SystemClock
from orchestrator.egress.certificates import Authority
from orchestrator.egress.gate import GateLimits
from orchestrator.policy.network import Refusal
from orchestrator.policy.secrets import VariableSecret, header_secret
from tests.fakes.web_server import WebServer, answer, page, redirect
from tests.integration.ways_out import WayOut, network, way_out

pytestmark = pytest.mark.anyio

NAMES = {"site.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}
CANARY = "canary-4f1d9a"
BEARER = header_secret("crm", "Authorization", "Bearer", CANARY)
HELD = "__GEMINI_CRED_held__"
Opened = Callable[..., Awaitable[WayOut]]


def variable(*locations: str, trusted: tuple[str, ...] = ("site.test",), value: str = CANARY) -> VariableSecret:
    return VariableSecret("held", value, frozenset(locations), trusted)


def allow(*rules: Any) -> Any:
    return {"allowlist": [rule if isinstance(rule, dict) else {"domain": rule} for rule in rules]}


WITH_BEARER = allow({"domain": "site.test", "credential": "crm"}, "other.test")


@pytest.fixture
async def internet(tmp_path: Path) -> Authority:
    """Who signs the certificates of servers outside."""
    return await asyncio.to_thread(Authority.open, tmp_path / "internet", SystemClock())


@pytest.fixture
async def web(internet: Authority) -> AsyncGenerator[WebServer, None]:
    """`https://site.test`, whose pages `/a` and `/echo` there are; the latter repeats what it gets."""
    with WebServer(tls=await internet.context("site.test")) as server:
        server.pages["/a"] = server.taking(b"content")
        server.pages["/echo"] = echo
        yield server


@pytest.fixture
async def other(internet: Authority) -> AsyncGenerator[WebServer, None]:
    with WebServer(tls=await internet.context("other.test")) as server:
        server.pages["/a"] = page(b"other")
        yield server


@pytest.fixture
async def opened(short_path: Path, internet: Authority) -> AsyncGenerator[Opened, None]:
    """Opens sandboxes with a way out; they end with the test."""
    numbers = itertools.count()
    ca = short_path / "internet.pem"
    ca.write_text(internet.pem)
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(rules: Any = None, **fields: Any) -> WayOut:
            folder = short_path / str(next(numbers))
            folder.mkdir()
            fields = {"names": NAMES, "ca": ca, "credentials": {"crm": BEARER}, **fields}
            return await stack.enter_async_context(way_out(folder, rules, **fields))

        yield open_one


def echo(request: BaseHTTPRequestHandler) -> None:
    """Says what it got, in a header and in the body."""
    said = request.headers.get("Authorization", request.headers.get("X-Token", "nothing"))
    answer(request, f"{said} {request.path}".encode(), X_Said=said, Location=request.path)


async def requests_of(out: WayOut, at_least: int = 1) -> list[dict[str, Any]]:
    return [body for _, body in await out.entries(at_least)]


# judging and giving


async def test_a_credential_is_put_into_requests_over_tls(opened: Opened, web: WebServer) -> None:
    out = await opened(WITH_BEARER)
    url = f"https://site.test:{web.port}/a?x=1"
    assert await out.bash(f"curl -sS -H 'authorization: mine' -H 'AUTHORIZATION: too' {url}") == "content"
    ((path, headers),) = web.requests
    assert path == "/a?x=1"
    assert headers["authorization"] == f"Bearer {CANARY}"
    assert headers["host"] == f"site.test:{web.port}"
    (entry,) = await requests_of(out)
    assert entry["protocol"] == "https"
    assert (entry["method"], entry["path"], entry["credentials"]) == ("GET", "/a", ["crm"])
    assert entry["verdict"] == "allowed"
    assert CANARY not in str(out.told)


@pytest.mark.parametrize("program", ["curl -sSp", "curl -sS --socks5-hostname ${http_proxy#http://}"])
async def test_tunnels_of_both_kinds_are_read_with_tls_in_them_or_not(
    opened: Opened, web: WebServer, program: str
) -> None:
    out = await opened(allow({"domain": "site.test", "methods": ["GET"], "transform": {"X-Token": CANARY}}))
    with WebServer() as plain:
        plain.pages["/a"] = page(b"plain")
        assert await out.bash(f"{program} https://site.test:{web.port}/a") == "content"
        assert await out.bash(f"{program} http://site.test:{plain.port}/a") == "plain"
        assert "not among what 'network' allows" in await out.bash(f"{program} -d x https://site.test:{web.port}/a")
        assert "not among what 'network' allows" in await out.bash(f"{program} -d x http://site.test:{plain.port}/a")
    assert [headers["x-token"] for _, headers in (*web.requests, *plain.requests)] == [CANARY, CANARY]


async def test_python_and_git_trust_the_certificate(opened: Opened, web: WebServer) -> None:
    out = await opened(WITH_BEARER)
    url = f"https://site.test:{web.port}"
    code = f"import urllib.request as r; print(r.urlopen('{url}/a').read())"
    assert await out.bash(f'python3 -c "{code}"') == "b'content'\n"
    assert "404" in await out.bash(f"git ls-remote {url}/repo.git 2>&1") or web.requests
    assert all(headers["authorization"] == f"Bearer {CANARY}" for _, headers in web.requests)
    assert [path.partition("?")[0] for path, _ in web.requests] == ["/a", "/repo.git/info/refs"]


async def test_a_connection_serves_many_requests_each_judged(opened: Opened, web: WebServer) -> None:
    out = await opened(allow({"domain": "site.test", "paths": ["/a"]}))
    base = f"https://site.test:{web.port}"
    said = await out.bash(f"curl -sS {base}/a {base}/a {base}/b 2>&1")
    assert said.startswith("contentcontentcorral: ")
    assert [path for path, _ in web.requests] == ["/a", "/a"]


async def test_plain_tunnels_are_not_opened(opened: Opened, web: WebServer, short_path: Path) -> None:
    out = await opened(WITH_BEARER)
    assert out.gate.authority_pem
    url = f"https://other.test:{web.port}/a"
    assert "content" in await out.bash(f"curl -sS -k {url}")
    said = await out.bash(f"curl -sS {url} 2>&1")
    assert "certificate" in said, "the server's own certificate is seen, which nobody here trusts"
    assert "authorization" not in web.requests[0][1]
    open_one = await opened()
    assert open_one.gate.authority_pem == ""


async def test_redirects_to_others_take_nothing_along(opened: Opened, web: WebServer, other: WebServer) -> None:
    out = await opened(
        allow({"domain": "site.test", "credential": "crm"}, {"domain": "other.test", "methods": ["GET"]})
    )
    web.pages["/to"] = redirect(f"https://other.test:{other.port}/a")
    assert await out.bash(f"curl -sSL https://site.test:{web.port}/to") == "other"
    assert "authorization" not in other.requests[0][1]


async def test_a_revoked_credential_refuses_its_own_requests_only(opened: Opened, web: WebServer) -> None:
    known: dict[str, Any] = {"crm": Refusal("credential 'crm' is revoked"), "more": BEARER}
    out = await opened(
        allow({"domain": "site.test", "credential": "more"}, {"domain": "other.test", "credential": "crm"}),
        credentials=known,
    )
    assert "is revoked" in await out.bash(f"curl -sS http://other.test:{web.port}/a")
    assert await out.bash(f"curl -sS https://site.test:{web.port}/a") == "content"
    known["more"] = Refusal("credential 'more' is revoked")
    assert "is revoked" in await out.bash(f"curl -sS https://site.test:{web.port}/a")
    assert len(web.requests) == 1


async def test_credentials_do_not_go_in_the_clear(opened: Opened) -> None:
    with WebServer(host="127.0.0.2") as plain:
        plain.pages["/a"] = page(b"content")
        names = {"site.test": ["127.0.0.2"]}
        url = f"http://site.test:{plain.port}/a"
        out = await opened(WITH_BEARER, names=names, exceptions=["127.0.0.0/8"])
        assert await out.bash(f"curl -sS {url}") == "content"
        assert plain.requests[0][1]["authorization"] == f"Bearer {CANARY}"
        out.gate.change(out.gate.policy.__class__(out.gate.policy.rules, out.gate.policy.denied))
        assert "corral:" in await out.bash(f"curl -sS {url}")
    assert len(plain.requests) == 1


async def test_a_rule_that_comes_to_need_reading_cuts_tunnels_that_are_not_read(
    opened: Opened, web: WebServer, internet: Authority
) -> None:
    out = await opened(allow("site.test"))
    async with tunnel(out, f"site.test:{web.port}") as (reader, writer):
        out.gates.gate("e" * 32, network(allow({"domain": "site.test", "methods": ["GET"]})), "project")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        writer.close()
    assert await out.bash(f"curl -sS https://site.test:{web.port}/a") == "content"
    entry = (await requests_of(out, 2))[0]
    assert entry["verdict"] == "cut"
    assert "needs connections to be read" in entry["reason"]


async def test_a_websocket_passes_with_its_credential(opened: Opened, internet: Authority) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()

    out = await opened(WITH_BEARER)
    async with tls_server(internet, serve) as port:
        async with tunnel(out, f"site.test:{port}", out.authority) as (reader, writer):
            wanted = "Connection: Upgrade\r\nUpgrade: websocket"
            writer.write(f"GET /ws HTTP/1.1\r\nHost: site.test:{port}\r\n{wanted}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(5) == b"early"
            writer.write(b"frame")
            assert await reader.readexactly(5) == b"FRAME"
            writer.close()
        (entry,) = await requests_of(out)
        assert entry["verdict"] == "allowed", "its end ends both sides"
    assert f"Authorization: Bearer {CANARY}".encode() in heads[0]


class CountingServer:
    """`site.test`, which says on each connection how many requests came on it."""

    def __init__(self) -> None:
        self.served: list[int] = []
        """Of each connection, how many requests came."""
        self.closes_after_s: float | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served.append(0)
        number = len(self.served) - 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            if length := int(
                dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2]).get("Content-Length", 0)
            ):
                await reader.readexactly(length)
            self.served[number] += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if self.closes_after_s is not None:
                await asyncio.sleep(self.closes_after_s)
                return


async def test_the_next_program_goes_on_with_a_connection_that_is_there(opened: Opened, internet: Authority) -> None:
    counting = CountingServer()
    out = await opened(WITH_BEARER)
    async with tls_server(internet, counting.serve) as port:
        url = f"https://site.test:{port}/"
        for _ in range(3):
            assert await out.bash(f"curl -sS {url}") == "ok"
        assert counting.served == [3]
        assert await out.bash(f"curl -sS -d x {url}") == "ok", "a body cannot be sent again: it goes over its own"
        assert counting.served == [3, 1]
        out.gates.gate("e" * 32, network(allow({"domain": "site.test", "methods": ["GET"]})), "project")
        assert await out.bash(f"curl -sS {url}") == "ok"
        assert counting.served == [3, 1, 1], "other rules, other connections"
        out.gates.forget("e" * 32)


async def test_one_that_was_closed_meanwhile_is_not_used(opened: Opened, internet: Authority) -> None:
    counting = CountingServer()
    counting.closes_after_s = 0.0
    out = await opened(WITH_BEARER)
    async with tls_server(internet, counting.serve) as port:
        for _ in range(3):
            assert await out.bash(f"curl -sS https://site.test:{port}/") == "ok"
    assert counting.served == [1, 1, 1]


# whom it is to


async def test_certificates_of_servers_are_verified(opened: Opened, other: WebServer, short_path: Path) -> None:
    out = await opened(allow({"domain": "site.test", "credential": "crm"}))
    said = await out.bash(f"curl -sS -w '%{{http_code}}' https://site.test:{other.port}/a")
    assert said.endswith("502")
    assert "certificate" in said
    stranger = await asyncio.to_thread(Authority.open, short_path / "stranger", SystemClock())
    with WebServer(tls=await stranger.context("site.test")) as unknown:
        unknown.pages["/a"] = page(b"content")
        assert "certificate" in await out.bash(f"curl -sS https://site.test:{unknown.port}/a")
        assert not unknown.requests
    assert not other.requests


async def test_n4_tls_asks_for_the_name_of_the_tunnel(opened: Opened, web: WebServer) -> None:
    out = await opened(WITH_BEARER)
    said = await out.bash(f"curl -sS -k --connect-to other.test:443:site.test:{web.port} https://other.test/a 2>&1")
    assert "content" not in said
    (entry,) = await requests_of(out)
    assert entry["verdict"] == "denied"
    assert "asks for other.test in TLS" in entry["reason"]
    assert not web.requests


async def test_n4_an_address_is_no_way_around_the_rule_of_a_name(opened: Opened, internet: Authority) -> None:
    rules = allow("127.0.0.2", "other.test", {"domain": "site.test", "methods": ["GET"]})
    out = await opened(rules, exceptions=["127.0.0.0/8"])
    with WebServer(host="127.0.0.2", tls=await internet.context("site.test")) as web:
        web.pages["/a"] = page(b"content")
        way = f"--connect-to ::127.0.0.2:{web.port}"
        said = await out.bash(f"curl -sS -k {way} https://other.test/a; curl -sS -k {way} https://site.test/a 2>&1")
        assert said.count("content") == 1, "the first asks for a name that need not be read"
        assert len(web.requests) == 1
    assert "by its name" in (await requests_of(out, 2))[1]["reason"]


async def test_connections_that_are_kept_in_hand_are_no_failures(opened: Opened, web: WebServer) -> None:
    """Browsers open some before they know what for."""
    out = await opened(WITH_BEARER, limits=GateLimits(header_timeout_s=0.3))
    async with tunnel(out, f"site.test:{web.port}") as (reader, writer):
        assert await reader.read(-1) == b""
        writer.close()
    async with tunnel(out, f"site.test:{web.port}", out.authority) as (reader, writer):
        assert await reader.read(-1) == b""
        writer.close()
    assert await out.entries() == []
    assert not out.gate.unreached


@pytest.mark.parametrize(
    "head",
    [
        "GET /a HTTP/1.1\r\nHost: other.test",
        "GET /a HTTP/1.1\r\nHost: site.test",
        "GET /a HTTP/1.1\r\nHost: site.test:{port}@other.test",
        "GET https://other.test/a HTTP/1.1\r\nHost: site.test:{port}",
        "GET https://site.test:{port}/a HTTP/1.1\r\nHost: site.test:{port}",
        "GET a HTTP/1.1\r\nHost: site.test:{port}",
        "OPTIONS * HTTP/1.1\r\nHost: site.test:{port}",
        "GET /a#x HTTP/1.1\r\nHost: site.test:{port}\r\nHost: site.test:{port}",
        "POST /a HTTP/1.1\r\nHost: site.test:{port}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        "TRACE /a HTTP/1.1\r\nHost: site.test:{port}",
        "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443",
        "PRI * HTTP/2.0\r\nX: x",
    ],
)
async def test_n4_n7_what_is_not_plainly_for_whom_the_tunnel_is_to_is_refused(
    opened: Opened, web: WebServer, head: str
) -> None:
    out = await opened(WITH_BEARER)
    async with tunnel(out, f"site.test:{web.port}", out.authority) as (reader, writer):
        writer.write(f"{head}\r\n\r\n".format(port=web.port).encode())
        said = await reader.read(-1)
        writer.close()
    assert said == b"" or said.split()[1] in (b"400", b"403", b"505", b"501"), said
    assert not web.requests


async def test_what_is_neither_tls_nor_http_does_not_pass(opened: Opened, web: WebServer) -> None:
    out = await opened(WITH_BEARER)
    for first in (b"\x00\x01", b"\x80\x2e\x01\x00\x02", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x00\x04nope"):
        async with tunnel(out, f"site.test:{web.port}") as (reader, writer):
            writer.write(first)
            writer.write_eof()
            assert await reader.read(-1) in (b"", b"\x15\x03\x03\x00\x02\x02\n"), "at most the alert of TLS"
            writer.close()
    assert not web.requests


async def test_a_program_that_does_not_trust_is_told_of_by_name(opened: Opened, web: WebServer) -> None:
    out = await opened(WITH_BEARER)
    said = await out.bash(f"CURL_CA_BUNDLE= SSL_CERT_FILE= curl -sS https://site.test:{web.port}/a 2>&1")
    assert "certificate" in said
    (entry,) = await requests_of(out)
    assert entry["verdict"] == "failed"
    assert "SSL_CERT_FILE" in entry["reason"]
    assert any("site.test" in each for each in out.gate.unreached)


# placeholders


@pytest.mark.parametrize(
    ("locations", "request_", "seen"),
    [
        (("header",), f"-H 'X-Token: key={HELD}' {{}}/a", f"key={CANARY}"),
        (("header",), f"-u me:{HELD} {{}}/a", "Basic " + base64.b64encode(f"me:{CANARY}".encode()).decode()),
        (("query",), f"'{{}}/a?key={HELD}&x=1'", f"/a?key={CANARY}&x=1"),
        (("body",), f"-d 'key={HELD}' {{}}/a", f"key={CANARY}"),
        (("body",), f'--json \'{{{{"key":"{HELD}"}}}}\' {{}}/a', f'{{"key":"{CANARY}"}}'),
    ],
)
async def test_placeholders_are_swapped_where_they_may_be(
    opened: Opened, web: WebServer, locations: tuple[str, ...], request_: str, seen: str
) -> None:
    held = variable(*locations)
    out = await opened(credentials={"held": held}, variables=["held"])
    assert await out.bash("curl -sS " + request_.format(f"https://site.test:{web.port}")) == "content"
    ((path, headers),) = web.requests
    assert seen in (path, headers.get("x-token"), headers.get("authorization"), *(b.decode() for b in web.bodies))
    (entry,) = await requests_of(out)
    assert entry["credentials"] == ["held"]
    assert CANARY not in str(out.told)


async def test_a_body_keeps_its_length_and_its_form(opened: Opened, web: WebServer) -> None:
    value = 'ä"\\&=+ x'
    out = await opened(credentials={"held": variable("body", value=value)}, variables=["held"])
    url = f"https://site.test:{web.port}/a"
    for kind in ("application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"):
        said = await out.bash(f"curl -sS -H 'Expect: 100-continue' -H 'Content-Type: {kind}' -d '\"{HELD}\"' {url}")
        assert said == "content"
    as_json, as_form, as_text = web.bodies
    assert json.loads(as_json) == value
    assert as_form == b'"%C3%A4%22%5C%26%3D%2B+x"'
    assert as_text.decode() == f'"{value}"'


@pytest.mark.parametrize(
    ("locations", "request_", "told"),
    [
        (("query",), f"-H 'X-Token: {HELD}' {{site}}/a", "may not be in the header"),
        (("header",), f"'{{site}}/a?key={HELD}'", "may not be in the query"),
        (("header", "query"), f"-d 'key={HELD}' {{site}}/a", "in a body"),
        (("header", "query", "body"), f"'{{site}}/{HELD}'", "in the path"),
        (("header", "query", "body"), f"-H 'X-Token: {HELD}' {{other}}/a", "does not trust other.test"),
        (("header", "query", "body"), f"-d 'key={HELD}' {{other}}/a", "in a body"),
        (("header", "query", "body"), "-H 'X-Token: __GEMINI_CRED_theirs__' {site}/a", "no variable with credential"),
        (("body",), f"-H 'Content-Type: application/octet-stream' -d 'key={HELD}' {{site}}/a", "in a body"),
        (("body",), f"-H 'Content-Encoding: x' -d 'key={HELD}' {{site}}/a", "in a body"),
        (("body",), f"-H 'Transfer-Encoding: chunked' -d 'key={HELD}' {{site}}/a", "in a body"),
    ],
)
async def test_n8_placeholders_are_refused_anywhere_else(
    opened: Opened, web: WebServer, other: WebServer, locations: tuple[str, ...], request_: str, told: str
) -> None:
    out = await opened(
        allow({"domain": "*", "methods": ["GET", "POST"]}),
        credentials={"held": variable(*locations)},
        variables=["held"],
    )
    urls = {"site": f"https://site.test:{web.port}", "other": f"https://other.test:{other.port}"}
    said = await out.bash("curl -sS -w '%{http_code}' " + request_.format(**urls))
    assert said.endswith("403"), said
    assert told in said
    assert CANARY not in str(web.requests) + str(other.requests) + str(web.bodies) + said


async def test_n8_another_environment_s_placeholder_stands_for_nothing(opened: Opened, web: WebServer) -> None:
    out = await opened(
        allow({"domain": "site.test", "methods": ["GET"]}), credentials={"held": variable("header")}, variables=[]
    )
    said = await out.bash(f"curl -sS -H 'X-Token: {HELD}' https://site.test:{web.port}/a")
    assert "no variable with credential 'held'" in said
    assert not web.requests


async def test_a_placeholder_over_two_pieces_of_a_long_body_is_found(opened: Opened, web: WebServer) -> None:
    out = await opened(credentials={"held": variable("header")}, variables=["held"])
    code = f"print('x' * 2_000_000 + '{HELD}' + 'y' * 2_000_000, end='')"
    send = f"curl -sS -H Expect: --data-binary @- https://site.test:{web.port}/a 2>&1"
    said = await out.bash(f'python3 -c "{code}" | {send}')
    assert "content" not in said
    (entry,) = await requests_of(out)
    assert entry["verdict"] == "denied"


# what comes back


async def test_n6_what_is_put_in_does_not_come_back_in_headers(opened: Opened, web: WebServer) -> None:
    out = await opened(
        allow({"domain": "site.test", "credential": "crm"}),
        credentials={"crm": BEARER, "held": variable("query")},
        variables=["held"],
    )
    said = await out.bash(f"curl -sS -D - -o /dev/null 'https://site.test:{web.port}/echo?key={HELD}'")
    assert "X-Said: [redacted]" in said
    assert "Location: /echo?key=[redacted]" in said
    assert CANARY not in said


async def test_n6_basic_passwords_do_not_come_back_in_any_form(opened: Opened, web: WebServer) -> None:
    out = await opened(credentials={"held": variable("header")}, variables=["held"])
    said = await out.bash(f"curl -sS -D - -o /dev/null -u me:{HELD} https://site.test:{web.port}/echo")
    assert "X-Said: Basic [redacted]" in said


async def test_n6_a_header_whose_name_is_the_secret_does_not_come_back(opened: Opened, web: WebServer) -> None:
    def named(request: BaseHTTPRequestHandler) -> None:
        headers: dict[str, str] = {f"X_{request.headers['Authorization'].split()[1]}": "x", "X_Other": "kept"}
        answer(request, b"content", status=200, **headers)

    web.pages["/named"] = named
    out = await opened(WITH_BEARER)
    said = await out.bash(f"curl -sSi https://site.test:{web.port}/named")
    assert "X-Other: kept" in said
    assert said.endswith("content")
    assert CANARY not in said


async def test_n6_bodies_are_redacted_if_the_operator_wants_it(opened: Opened, web: WebServer) -> None:
    url = f"https://site.test:{web.port}/echo"
    plain = await opened(WITH_BEARER)
    assert CANARY in await plain.bash(f"curl -sS {url}")
    out = await opened(WITH_BEARER, limits=GateLimits(redact_bodies=True))
    said = await out.bash(f"curl -sS -r 7-20 {url}")
    assert said == "*" * len(f"Bearer {CANARY}") + " /echo"
    assert "range" not in web.requests[-1][1]

    def encoded(request: BaseHTTPRequestHandler) -> None:
        answer(request, b"\x1f\x8b", Content_Encoding="gzip")

    web.pages["/gzip"] = encoded
    assert "cannot be looked through" in await out.bash(f"curl -sS https://site.test:{web.port}/gzip")


async def test_n6_errors_of_the_proxy_do_not_repeat_it(opened: Opened, internet: Authority) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head.replace(b"\r\n", b" ") + b"\r\n\r\n")
        await writer.drain()

    out = await opened(WITH_BEARER)
    async with tls_server(internet, serve) as port:
        said = await out.bash(f"curl -sS https://site.test:{port}/a 2>&1")
    assert "does not answer as a web server does" in said
    assert CANARY not in said + str(await requests_of(out))


# the ends of connections, by hand


@contextlib.asynccontextmanager
async def tls_server(
    internet: Authority, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[int]:
    """`site.test` in raw bytes; its port."""

    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(each, "127.0.0.1", 0, ssl=await internet.context("site.test"))
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def tunnel(
    out: WayOut, target: str, ca: Path | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A tunnel as a program opens it; with `ca` TLS in it."""
    reader, writer = await out.proxied()
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    async with asyncio.timeout(20):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        if ca is not None:
            await writer.start_tls(
                ssl.create_default_context(cafile=ca), server_hostname=target.split(":", maxsplit=1)[0]
            )
        yield reader, writer


@pytest.fixture(autouse=True)
def _no_secret_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert CANARY not in caplog.text
