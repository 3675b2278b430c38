"""Words that mean one thing to the way out and another to a server (cases N4, N5 and N7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.attack.attacker import Attacker, program_sources
from tests.attack.conversations import (
    answer,
    by_socks,
    client_hello,
    control,
    is_refused,
    raw,
    request,
    tunnel,
)
from tests.attack.report import Case
from tests.attack.world import OTHER, SHARED, World, answered
from tests.e2e.caller import Caller, Json

pytestmark = pytest.mark.usefixtures("beside")

HELLOS = {
    "another name": (client_hello("two.shared.test"), ""),
    "another name, in records of three bytes": (client_hello("two.shared.test", record_bytes=3), ""),
    "two names": (client_hello("one.shared.test", "two.shared.test"), ""),
    "two lists of names": (client_hello("one.shared.test", again="two.shared.test"), ""),
    "an encrypted hello behind another name": (client_hello("public.shared.test", encrypted=True), ""),
    "a name with NUL": (client_hello("one.shared.test\0two.shared.test"), ""),
    "a name that is an address": (client_hello(SHARED), ""),
    "a name of 300 letters": (client_hello("a" * 300), ""),
    "a hello that never ends": (client_hello("one.shared.test", claims_bytes=70_000) + "\x16\x03\x01\x40\0" * 3, ""),
    "lengths that are not true": (client_hello("one.shared.test", lies=True), ""),
    "no name": (client_hello(), "the tunnel's address says whom it is to, but any site there may be asked for in it"),
    "an encrypted hello behind its own name": (
        client_hello("one.shared.test", encrypted=True),
        "what is asked for within it only the site itself can read",
    ),
}
"""First messages of TLS in a tunnel to `one.shared.test`, and what is true of those that pass."""

_TARGETS = (
    "http://site.test@other.test/",
    "http://site.test:80@other.test/",
    "http://other.test#@site.test/",
    "http://other.test\\@site.test/",
    "http://other.test\\.site.test/",
    "http://other.test%2f.wild.test/",
    "http://other.test%23.wild.test/",
    "http://other.test%00.wild.test/",
    "http://other.test?.wild.test/",
    "http://other.test/.wild.test/",
    "http://other.test;.wild.test/",
    "http://other.test:80.wild.test/",
    "http://other.test,site.test/",
    "http://site.test,other.test/",
    "http://site.test%20other.test/",
    "http://site.test\tother.test/",
    "http://site.test\x0bother.test/",
    "http://wild.test/",
    "http://awild.test/",
    "http://.wild.test/",
    "http://*.wild.test/",
    "http://a..wild.test/",
    "http://a.wild.test.other.test/",
    "http://-a.wild.test/",
    f"http://{'a' * 64}.wild.test/",
    f"http://{'a.' * 130}wild.test/",
    "http://[site.test]/",
    "http://site.test:0/",
    "http://site.test:65536/",
    "http://site.test:+80/",
    "http://site.test:-80/",
    "http://site.test:8e1/",
    "http://site.test:80:80/",
    "http://site.test:٨٠/".encode().decode("latin-1"),
    "http://ѕite.test/".encode().decode("latin-1"),
    "http://xn--ite-jld.test/",
    "http://sıte.test/".encode().decode("latin-1"),
    "http://site.test\xad/",
    "http://\xff\xfe.wild.test/",
    "http:///site.test/",
    "http:/site.test/",
    "http:site.test/",
    "http://",
    "//site.test/",
    "/",
    "*",
    "https://site.test/",
    "ftp://site.test/",
    "file:///etc/passwd",
    "gopher://site.test/",
    "ws://site.test/",
    "http+unix://%2fvar%2frun%2fdocker.sock/info",
)
_SAME = (
    "http://SITE.test/",
    "http://site.test./",
    "HTTP://site.TEST:80/",
    "http://site.test:080/",
    "http://a.wild.test/",
    "http://a.b.wild.test/",
)
"""Other ways to write what is allowed."""


def listed(*rules: str | Json) -> Json:
    return {"allowlist": [rule if isinstance(rule, dict) else {"domain": rule} for rule in rules]}


def attackers(caller: Caller, network: Any) -> Iterator[Attacker]:
    made = Attacker(caller, caller.new_environment(sources=program_sources(), network=network))
    yield made
    made.leave()


@pytest.fixture
def limited(far_caller: Caller) -> Iterator[Attacker]:
    """It may reach some sites of shared and other servers, `read.shared.test` of them with its requests read."""
    rules = listed(
        "site.test",
        "*.wild.test",
        "one.shared.test",
        SHARED,
        {"domain": "read.shared.test", "transform": {"X-Added": "y"}},
    )
    yield from attackers(far_caller, rules)


@pytest.mark.case("N4")
def test_other_names_in_tls(case: Case, world: World, limited: Attacker) -> None:
    control(case, world, limited)
    world.outside.forget()
    said = limited.talk(
        *(tunnel(f"TLS with {what}", "one.shared.test:443", inner=hello) for what, (hello, _) in HELLOS.items()),
        by_socks("SOCKS, TLS with another name", "one.shared.test", 443, client_hello("two.shared.test")),
        tunnel("TLS to an address, with another name", f"{SHARED}:443", inner="x", tls="two.shared.test"),
        tunnel("TLS to an address, with a name that is to be read", f"{SHARED}:443", inner="x", tls="read.shared.test"),
        tunnel("TLS with another name, whole", "one.shared.test:443", inner="x", tls="two.shared.test"),
        tunnel("read TLS with another name, whole", "read.shared.test:443", inner="x", tls="two.shared.test"),
        tunnel("read TLS with another name", "read.shared.test:443", inner=client_hello("two.shared.test")),
    )
    for tried, got in said.items():
        note = HELLOS.get(tried.removeprefix("TLS with "), ("", ""))[1]
        is_stopped = is_refused(got) or "TLS fails" in got or got == "tunnel opens; silence"
        if note and not is_stopped:
            case.differs(tried, note)
        else:
            case.tried(tried, got, ok=is_stopped)
    names = {visit.tls_name for visit in world.outside.visits if visit.address == SHARED}
    ok = not names & {"two.shared.test", "read.shared.test"}
    case.tried("names that the shared server was asked for", sorted(map(str, names)), ok=ok)


@pytest.mark.case("N4")
def test_other_hosts_in_requests(case: Case, world: World, limited: Attacker) -> None:
    read, other = "read.shared.test", "two.shared.test"
    within: dict[str, Any] = {"tls": read}
    said = limited.talk(
        raw("Host is another than the address", "GET http://one.shared.test/ HTTP/1.1", f"Host: {other}"),
        raw("two Hosts", "GET http://one.shared.test/ HTTP/1.1", "Host: one.shared.test", f"Host: {other}"),
        tunnel("read TLS, another Host", f"{read}:443", inner=request("/", other), **within),
        tunnel("read TLS, two Hosts", f"{read}:443", inner=request("/", read, f"Host: {other}"), **within),
        tunnel("read TLS, a whole address", f"{read}:443", inner=request(f"https://{other}/", read), **within),
        tunnel("read TLS, Host with another port", f"{read}:443", inner=request("/", f"{read}:8443"), **within),
        tunnel("read TLS, Host with a user", f"{read}:443", inner=request("/", f"{read}@{other}"), **within),
        tunnel(
            "read TLS, CONNECT within it",
            f"{read}:443",
            inner=f"CONNECT {other}:443 HTTP/1.1\r\nHost: {other}:443\r\n\r\n",
            **within,
        ),
        tunnel("read TLS, HTTP/2", f"{read}:443", inner="PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", **within, protocols=["h2"]),
        tunnel("read, neither TLS nor HTTP", f"{read}:443", inner="\0\1\2\3"),
        tunnel("read, another Host without TLS", f"{read}:80", inner=request("/", other)),
    )
    for tried, got in said.items():
        case.tried(tried, got, ok=is_refused(got))
    hosts = {each.header("host") for each in world.outside.requests()}
    case.tried("Hosts that the shared server read", sorted(hosts), ok=not hosts)
    world.outside.misnamed[read] = other
    (got,) = limited.talk(
        tunnel("the site shows another one's certificate", f"{read}:443", inner=request("/", read), **within)
    ).values()
    came = world.outside.requests(SHARED)
    case.tried("the site shows another one's certificate", got, ok="HTTP/1.1 502" in got and not came)
    (got,) = limited.talk(tunnel("x", "one.shared.test:443", inner=request("/", other), tls="one.shared.test")).values()
    case.differs("TLS that is not read, another Host in it", f"{got[-80:]}: only what is read can be judged")
    (got,) = limited.talk(
        tunnel("x", "one.shared.test:8443", inner=request("/", other), tls="two.shared.test")
    ).values()
    case.tried("TLS to port 8443 with another name", got, ok="TLS fails" in got or is_refused(got))
    names = {visit.tls_name for visit in world.outside.visits if visit.port == 8443}
    case.tried("names that it was asked for there", names, ok="two.shared.test" not in names)


@pytest.mark.case("N5")
def test_hosts(case: Case, world: World, limited: Attacker) -> None:
    said = limited.talk(
        *(
            raw(f"GET {each!r}", f"GET {each} HTTP/1.1", "Host: site.test", "Connection: close") for each in _TARGETS
        ),
        *(
            tunnel(f"CONNECT {host!r}", f"{host}:80", inner="GET / HTTP/1.0\r\n\r\n")
            for host in dict.fromkeys(each.partition("://")[2].rstrip("/") for each in _TARGETS if "://" in each)
            if host != "site.test"
        ),
        *(
            by_socks(f"SOCKS to {host!r}", host, 80, "GET / HTTP/1.0\r\n\r\n")
            for host in ("site.test\0.other.test", "other.test\0site.test", "a@site.test", "site.test:80", "", " ",
                         "site.test ", "wild.test", "ѕite.test".encode().decode("latin-1"), "x" * 255)
        ),
        raw("a target with a line break", "GET http://site.test/ HTTP/1.1\r\nHost: other.test", "Host: site.test"),
        raw("a lone line feed", "GET http://site.test/ HTTP/1.1\nHost: other.test", "Host: site.test"),
        raw("a lone carriage return", "GET http://site.test/\rHost:other.test HTTP/1.1", "Host: site.test"),
        raw("two targets", "GET http://site.test/ http://other.test/ HTTP/1.1", "Host: site.test"),
        raw("a target of a million letters", f"GET http://site.test/{'a' * 1_000_000} HTTP/1.1", "Host: site.test"),
        raw("HTTP/0.9", "GET http://other.test/"),
        raw("CONNECT without port", "CONNECT site.test HTTP/1.1", "Host: site.test"),
        raw("CONNECT to two", "CONNECT site.test:443 other.test:443 HTTP/1.1", "Host: site.test:443"),
        raw("CONNECT by a whole address", "CONNECT http://other.test:80 HTTP/1.1", "Host: site.test:80"),
    )  # fmt: skip
    for tried, got in said.items():
        # What is refused need not be: an address may mean an allowed site to everybody. But nobody else is reached.
        case.tried(tried, got, ok=is_refused(got))
    same = limited.talk(
        *(raw(each, f"GET {each} HTTP/1.1", f"Host: {each.split('/')[2]}", "Connection: close") for each in _SAME)
    )
    for tried, got in same.items():
        case.tried(f"another way to write what is allowed: {tried}", got, ok="200 OK" in got)
    elsewhere = world.outside.at([OTHER])
    case.tried("who came to the site that is not allowed", elsewhere or "nobody", ok=not elsewhere)
    hosts = {each.header("host") for each in world.outside.requests()}
    expected = {"site.test", "a.wild.test", "a.b.wild.test"}
    case.tried("Hosts that servers read, all in one form", sorted(hosts), ok=hosts == expected)
    others = {name for name, _ in world.names.asked} - expected
    case.tried("names that were asked for", others or "none but theirs", ok=not others)


_POST = ("POST http://site.test/a HTTP/1.1", "Host: site.test")
_NEXT = "GET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
SMUGGLED = {
    "Content-Length and Transfer-Encoding": (*_POST, "Content-Length: 4", "Transfer-Encoding: chunked"),
    "Transfer-Encoding and Content-Length": (*_POST, "Transfer-Encoding: chunked", "Content-Length: 4"),
    "two Content-Lengths": (*_POST, "Content-Length: 0", f"Content-Length: {len(_NEXT)}"),
    "a list of Content-Lengths": (*_POST, f"Content-Length: 0, {len(_NEXT)}"),
    "Content-Length with a sign": (*_POST, "Content-Length: +0"),
    "Content-Length below zero": (*_POST, "Content-Length: -1"),
    "Content-Length in hexadecimal": (*_POST, "Content-Length: 0x0"),
    "Content-Length with a space before the colon": (*_POST, "Content-Length : 4"),
    "Content-Length on a folded line": (*_POST, "Content-Length:\r\n 4"),
    "Transfer-Encoding with a space before the colon": (*_POST, "Transfer-Encoding : chunked"),
    "Transfer-Encoding twice": (*_POST, "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "Transfer-Encoding: identity": (*_POST, "Transfer-Encoding: identity"),
    "Transfer-Encoding: chunked, identity": (*_POST, "Transfer-Encoding: chunked, identity"),
    "Transfer-Encoding: xchunked": (*_POST, "Transfer-Encoding: xchunked"),
    "Transfer-Encoding with a tab": (*_POST, "Transfer-Encoding:\x0bchunked"),
    "Transfer-Encoding after NUL": (*_POST, "X: \0", "Transfer-Encoding: chunked"),
    "Transfer-Encoding after a lone line feed": (*_POST, "X: y\nTransfer-Encoding: chunked", "Content-Length: 4"),
    "Transfer-Encoding in HTTP/1.0": (_POST[0][:-1] + "0", _POST[1], "Transfer-Encoding: chunked"),
    "a length that Connection takes away": (*_POST, "Connection: Content-Length", f"Content-Length: {len(_NEXT)}"),
    "HTTP/2 without TLS": ("PRI * HTTP/2.0", "", "SM", ""),
    "a version that is none": ("POST http://site.test/a HTTP/1.2", "Host: site.test", "Content-Length: 0"),
    "TRACE": ("TRACE http://site.test/a HTTP/1.1", "Host: site.test"),
}  # fmt: skip
CHUNKS = {
    "a size with 0x": "0x0\r\n\r\n",
    "a size with a sign": "+0\r\n\r\n",
    "a size with spaces": "0 \r\n\r\n",
    "a size of 20 digits": "0" * 20 + "\r\n\r\n",
    "sizes that end with a line feed": "0\n\n",
    "an extension with a line feed": "0;x\ny\r\n\r\n",
    "a chunk that is longer than it says": "1\r\nxyz\r\n0\r\n\r\n",
    "trailers that are headers of a request": "0\r\nContent-Length: 99\r\nHost: other.test\r\n\r\n",
}
"""Bodies in pieces; what follows them would be a request of its own to who reads them otherwise."""


@pytest.mark.case("N7")
def test_smuggling(case: Case, world: World, limited: Attacker) -> None:
    said = limited.talk(
        *(raw(tried, *lines, body=f"0\r\n\r\n{_NEXT}") for tried, lines in SMUGGLED.items()),
        *(
            raw(f"pieces: {tried}", *_POST, "Transfer-Encoding: chunked", body=f"{body}{_NEXT}")
            for tried, body in CHUNKS.items()
        ),
    )
    for tried, got in said.items():
        answers = got.count("HTTP/1.1 200")
        case.tried(tried, got, ok=is_refused(got) or answers <= 1)
    smuggled = [each.head.split("\r\n")[0] for each in world.outside.requests() if "smuggled" in each.target]
    case.tried("requests that servers read and nobody judged", smuggled or "none", ok=not smuggled)
    first = "GET http://site.test/first HTTP/1.1\r\nHost: site.test\r\n\r\n"
    (got,) = limited.talk(raw("x", first + "GET http://other.test/second HTTP/1.1", "Host: other.test")).values()
    case.tried(
        "a second request on the same connection, to another host",
        got,
        ok="200 OK" in got and "other.test is not in the allowlist" in got and not world.outside.at([OTHER]),
    )


@pytest.mark.case("N7")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_upgrades(case: Case, world: World, far_caller: Caller, scheme: str) -> None:
    rule = {"domain": "site.test", "methods": ["GET"], "paths": ["/socket", "/plain"]}
    for attacker in attackers(far_caller, listed(rule)):
        world.outside.pages["/socket"] = lambda to_switch: (
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            if to_switch.header("upgrade")
            else answered("no upgrade", "Connection: close")
        )
        world.outside.pages["/plain"] = lambda _: answered("plain", "Connection: close")

        def upgrade(
            tried: str, to: str, *more: str, path: str = "/socket", method: str = "GET", then: str = "ping"
        ) -> Json:
            fields = (f"Upgrade: {to}", "HTTP2-Settings: AAMAAABk", *(more or ("Connection: Upgrade, HTTP2-Settings",)))
            if scheme == "http":
                return raw(tried, f"{method} http://site.test{path} HTTP/1.1", "Host: site.test", *fields, body=then)
            head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: site.test", *fields, "", then))
            return tunnel(tried, "site.test:443", inner=head, tls="site.test")

        free = "GET /free HTTP/1.1\r\nHost: other.test\r\n\r\n"
        said = attacker.talk(
            upgrade("to a websocket", "websocket"),
            upgrade("to h2c, which Connection does not name", "h2c", "Connection: close"),
            upgrade("to h2c", "h2c", then="PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            upgrade("to h2c and a websocket", "h2c, websocket"),
            upgrade("to another TLS", "TLS/1.0"),
            upgrade("to anything", "x-own"),
            upgrade("to a websocket where none answers", "websocket", path="/plain", then=free),
            upgrade("to a websocket at a path that no rule allows", "websocket", path="/other"),
            upgrade("to a websocket by POST", "websocket", method="POST"),
            upgrade("to a websocket by PUT", "websocket", method="PUT"),
        )
        for tried, got in said.items():
            shown = answer(got)
            if tried == "to a websocket":
                case.tried(f"{scheme}: control: {tried}", got, ok="101" in shown and shown.endswith("ping"))
            else:
                case.tried(f"{scheme}: {tried}", got, ok="101" not in shown)
        requests = world.outside.requests()
        others = [each.header("upgrade") for each in requests if each.header("upgrade") not in ("", "websocket")]
        case.tried(f"{scheme}: upgrades that servers read", others or "websocket alone", ok=not others)
        judged = {(each.method, each.target) for each in requests}
        ok = judged == {("GET", "/socket"), ("GET", "/plain")}
        case.tried(f"{scheme}: requests that servers read", sorted(judged), ok=ok)
