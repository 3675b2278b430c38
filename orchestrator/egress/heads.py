"""Heads of requests and of answers as they go on: without what was said to the proxy, with what is put in, without
what must not come back. Pure; imports `injection` and `echoes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import h11

from orchestrator.egress.echoes import Echoes
from orchestrator.egress.injection import Insertion
from orchestrator.policy.network import Refusal
from orchestrator.policy.urls import shown_authority

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings", b"proxy-connection")
)
_PROXYS = b"proxy-"
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Headers that `Connection` cannot take away: without them it would be another request."""
_OF_PARTS = frozenset((b"accept-encoding", b"range", b"if-range"))
"""Ask for answers in which a secret would not be seen as a whole."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a request is for. `path` begins with `/`, `query` with `?` unless it is empty: as they were sent."""

    host: str
    port: int
    path: str
    query: str
    default_port: int = 80

    @property
    def authority(self) -> str:
        return shown_authority(self.host, self.port, self.default_port)


def outgoing(
    request: h11.Request, target: Target, insertion: Insertion, *, body: bytes | None, is_seen: bool
) -> h11.Request | Refusal:
    """The request as it goes out: for one server, without what was said to the proxy, with what is put in. Secret.
    Or why it may not: something is in a place where it may not be, or cannot be written.

    `body` is the whole one if it is known; `is_seen`: what comes back is looked through.
    """
    rewritten = insertion.swaps.rewrite(
        (target.path + target.query).encode("ascii"), without_hops(request.headers.raw_items())
    )
    if isinstance(rewritten, Refusal):
        return rewritten
    place, own = rewritten
    dropped = {b"host", *(_folded(name.encode("ascii")) for name in insertion.headers)}
    if body is not None:
        dropped |= {b"content-length", b"expect"}
    if is_seen and (insertion.headers or insertion.swaps.used):
        dropped |= _OF_PARTS
    headers = [(b"Host", target.authority.encode("ascii"))]
    headers += [(name, value) for name, value in own if _folded(name) not in dropped]
    headers += [(name.encode("ascii"), value.encode("latin-1")) for name, value in insertion.headers.items()]
    if body is not None:
        headers.append((b"Content-Length", str(len(body)).encode("ascii")))
    if request.method == b"GET" and [v.lower() for n, v in request.headers if n == b"upgrade"] == [b"websocket"]:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    try:
        return h11.Request(method=request.method, target=place, headers=headers)
    except h11.LocalProtocolError:
        # What it says repeats the value.
        return Refusal("a value that is put into the request cannot be sent")


def incoming(answer: h11.Response, echoes: Echoes) -> h11.Response:
    """The answer's head as the program gets it."""
    headers = _redacted(without_hops(answer.headers.raw_items()), echoes)
    return h11.Response(status_code=answer.status_code, reason=echoes.redacted(answer.reason), headers=headers)


def informing(answer: h11.InformationalResponse, echoes: Echoes) -> h11.InformationalResponse:
    """The same of one that comes before the answer: with what is said between neighbours, for who changes protocol."""
    headers = _redacted(answer.headers.raw_items(), echoes)
    return h11.InformationalResponse(
        status_code=answer.status_code, reason=echoes.redacted(answer.reason), headers=headers
    )


def _redacted(headers: Iterable[tuple[bytes, bytes]], echoes: Echoes) -> list[tuple[bytes, bytes]]:
    """Without what must not come back: in values it is replaced, for names nothing could be put in its place."""
    return [(name, echoes.redacted(value)) for name, value in headers if echoes.redacted(name) == name]


def without_hops(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without what is said between two neighbours only."""
    given = list(headers)
    named = {
        each.strip().lower() for name, value in given if name.lower() == b"connection" for each in value.split(b",")
    }
    dropped = _HOP_BY_HOP | (named - _FRAMING)
    return [
        (name, value) for name, value in given if name.lower() not in dropped and not name.lower().startswith(_PROXYS)
    ]


def _folded(name: bytes) -> bytes:
    """Some servers take `_` for `-`."""
    return name.lower().replace(b"_", b"-")
