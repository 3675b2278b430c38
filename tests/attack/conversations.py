"""What an attacker says to the way out, as `inside/conversations.py` wants it, and how an answer is read. Pure, but for
`control`.
"""

from __future__ import annotations

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


def is_refused(got: str) -> bool:
    """Whether the way out said no, or hung up without having said anything that is not its own."""
    for opened in ("tunnel opens; ", "SOCKS opens; "):
        got = got.removeprefix(opened)
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
