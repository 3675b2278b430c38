"""What an attacker says to the way out, as `inside/conversations.py` wants it, and how an answer is read. Pure, but for
`control`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.attack.report import Case
from tests.attack.world import SITE, World

if TYPE_CHECKING:
    from tests.attack.attacker import Attacker

_REFUSALS = ("SOCKS refuses", "closed", "TLS: ")


def raw(tried: str, *lines: str, body: str = "", **fields: Any) -> dict[str, Any]:
    """A request of these lines."""
    return {"tried": tried, "send": "\r\n".join((*lines, "", body)), **fields}


def direct(tried: str, host: str, path: str, *headers: str, method: str = "GET", body: str = "") -> dict[str, Any]:
    """A plain request for a whole address."""
    lines = (f"{method} http://{host}{path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers)
    return raw(tried, *lines, body=body)


def tunnel(tried: str, target: str, *, inner: str, tls: str | None = None, **fields: Any) -> dict[str, Any]:
    """A tunnel, and what goes through it; with TLS to a name if `tls` is one, without any if it is empty."""
    named = {} if tls is None else {"tls": tls}
    return {**raw(tried, f"CONNECT {target} HTTP/1.1", f"Host: {target}"), "inner": inner, **named, **fields}


def by_socks(tried: str, host: str, port: int, inner: str, **fields: Any) -> dict[str, Any]:
    """The same by SOCKS 5."""
    return {"tried": tried, "socks": [host, port], "inner": inner, **fields}


def request(path: str, host: str, *headers: str, method: str = "GET", body: str = "") -> str:
    """A request within a tunnel."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", body))


def asked(
    scheme: str, tried: str, path: str, *headers: str, host: str = "site.test", method: str = "GET", body: str = ""
) -> dict[str, Any]:
    """A request in the clear, or in TLS in a tunnel."""
    if scheme == "http":
        return direct(tried, host, path, *headers, method=method, body=body)
    inner = request(path, host, *headers, method=method, body=body)
    return tunnel(tried, f"{host}:443", inner=inner, tls=host)


def answer(got: str) -> str:
    """What was answered, without how it came about."""
    return re.sub(r"^((tunnel|SOCKS) opens; )?(TLS opens by [^;]*; )?", "", got)


def is_refused(got: str) -> bool:
    """Whether the way out said no, or hung up without having said anything that is not its own."""
    got = answer(got)
    head = got.partition("\r\n\r\n")[0]
    return got.startswith(_REFUSALS) or (head.startswith("HTTP/1.1 ") and "\r\nX-Corral-Refused: yes" in head)


def control(case: Case, world: World, attacker: Attacker) -> None:
    """That what is allowed is reached, by all three ways: else nothing that follows means anything."""
    plain = "GET / HTTP/1.0\r\n\r\n"
    said = attacker.talk(
        direct("control: plain HTTP to an allowed site", "site.test", "/"),
        tunnel("control: a tunnel to it", "site.test:80", inner=plain),
        by_socks("control: SOCKS to it", "site.test", 80, plain),
        tunnel("control: TLS to it", "site.test:443", inner=request("/", "site.test"), tls="site.test"),
    )
    for tried, got in said.items():
        case.tried(tried, got, ok="200 OK" in got and not is_refused(got))
    came = world.outside.at([SITE])
    case.tried("control: who came", came, ok=len(came) == 4)


def client_hello(
    *names: str,
    again: str = "",
    encrypted: bool = False,
    record_bytes: int = 1 << 14,
    claims_bytes: int = 0,
    lies: bool = False,
) -> str:
    """The first message of a TLS client that asks for these names, a character for each byte.

    `again`: in a second list of names; `encrypted`: with another hello in it that nobody here can read;
    `claims_bytes`: says that it is so long; `lies`: its list of names is shorter than it says.
    """
    extensions = _named(*names, lies=lies) if names else b""
    extensions += _named(again) if again else b""
    if encrypted:
        extensions += _sized(b"\xfe\x0d", bytes(8) + bytes(200))
    extensions += _sized(b"\0\x2b", b"\x02\x03\x04") + _sized(b"\0\x0a", b"\0\x02\0\x1d")
    hello = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    hello += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + (claims_bytes or len(hello)).to_bytes(3, "big") + hello
    pieces = [message[at : at + record_bytes] for at in range(0, len(message), record_bytes)]
    return b"".join(b"\x16\x03\x01" + len(each).to_bytes(2, "big") + each for each in pieces).decode("latin-1")


def _named(*names: str, lies: bool = False) -> bytes:
    entries = b"".join(b"\0" + len(name).to_bytes(2, "big") + name.encode("latin-1") for name in names)
    return _sized(b"\0\0", (len(entries) + 9 * lies).to_bytes(2, "big") + entries)


def _sized(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(2, "big") + content
