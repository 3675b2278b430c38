"""Requests and answers of HTTP/1.1 between a program and servers outside, each judged for itself. Imports `gate`.

h11 reads what comes and writes what goes, in both directions, so that nothing passes that it did not understand. Who
opens TLS uses this, too: with a `locate` that knows whom the tunnel is to, and a `dial` that speaks TLS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import h11

from orchestrator.egress.crossing import Client, Crossing, Outside, both, patient, relay
from orchestrator.egress.gate import Denied, Gate
from orchestrator.errors import NetworkError
from orchestrator.policy.network import Allowed, Refusal
from orchestrator.policy.urls import shown_authority

_HEAD_LIMIT_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
_VERSIONS = (b"1.0", b"1.1")
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings", b"proxy-connection")
)
_PROXYS = b"proxy-"
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Headers that `Connection` cannot take away: without them it would be another request."""
_PHRASES = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 502: "Bad Gateway", 503: "Unavailable"}


class BadRequest(NetworkError):
    """What was asked cannot be understood in one way only."""

    code = "network_refused"


class _StaleError(Exception):
    """A connection that was kept had been closed by the server before it read the request."""


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


Locate = Callable[[h11.Request], Target]
"""Raises `BadRequest`."""
Dial = Callable[[Crossing, Allowed], Awaitable[Outside]]


@dataclass(slots=True)
class _Line:
    """A connection to a server, which may serve further requests to it."""

    outside: Outside
    protocol: h11.Connection
    target: tuple[str, int]
    is_used: bool = False


class Exchanges:
    """Those of one connection of a program. Use `serve` once."""

    def __init__(self, gate: Gate, client: Client, locate: Locate, dial: Dial | None = None) -> None:
        self._gate = gate
        self._client = client
        self._locate = locate
        self._dial = dial or gate.connect
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT_BYTES)
        self._line: _Line | None = None

    async def serve(self) -> h11.Request | None:
        """To the end of the connection; or to a request for a tunnel, which is returned, all that follows it unread.

        Raises:
            NetworkError, CorralError, OSError: it broke, or was refused and told so. Close it.
        """
        try:
            while (request := await self._head()) is not None:
                if request.method == b"CONNECT":
                    self._protocol.next_event()  # its end
                    self._client.unread(self._protocol.trailing_data[0])
                    return request
                await self._exchange(request)
                if (self._protocol.our_state, self._protocol.their_state) != (h11.DONE, h11.DONE):
                    break
                self._protocol.start_next_cycle()
            self._client.end()
            return None
        finally:
            self._drop_line()

    async def _head(self) -> h11.Request | None:
        """The next request, or None."""
        limits = self._gate.limits
        try:
            if not self._protocol.trailing_data[0]:  # between two requests a connection may rest
                async with patient(limits.idle_timeout_s if self._line else limits.header_timeout_s):
                    self._protocol.receive_data(await self._client.read())
            async with patient(limits.header_timeout_s):
                event = await self._next()
            if not isinstance(event, h11.Request):
                return None
            _check(event)
            return event
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, f"the request cannot be read: {error}")
            raise BadRequest(str(error)) from error
        except BadRequest as error:
            await self._refuse(400, error.message)
            raise

    async def _next(self) -> Any:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            self._protocol.receive_data(await self._client.read())
        return event

    async def _exchange(self, request: h11.Request) -> None:
        try:
            target = self._locate(request)
        except BadRequest as error:
            with contextlib.suppress(Denied), self._gate.crossing("http", "", 0, self._client):
                raise Denied(error.message) from error
            await self._refuse(400, error.message)
            raise
        with self._gate.crossing("http", target.host, target.port, self._client) as crossing:
            crossing.method, crossing.path = request.method.decode("ascii"), target.path
            try:
                allowed = self._gate.judge(target.host, target.port)
                granted = allowed.judge_request(crossing.method, crossing.path)
                if isinstance(granted, Refusal):
                    raise Denied(granted.reason)
                await self._carry(crossing, allowed, target, request, granted)
            except NetworkError as error:
                await self._refuse(403 if isinstance(error, Denied) else 502, error.message)
                raise

    async def _carry(
        self, crossing: Crossing, allowed: Allowed, target: Target, request: h11.Request, granted: Mapping[str, str]
    ) -> None:
        event = self._protocol.next_event()
        has_body = not isinstance(event, h11.EndOfMessage)
        wanted = _outgoing(request, target, granted)
        while True:
            line = await self._line_to(crossing, allowed, target)
            try:
                async with patient(self._gate.limits.idle_timeout_s) as patience:
                    transfer = _Transfer(self._client, self._protocol, line, self._gate.counter(crossing))
                    transfer.renew = patience.renew
                    is_switched = await transfer.carry(wanted, event if has_body else None)
            except _StaleError:
                self._drop_line()
                if has_body:
                    raise NetworkError(f"{target.authority} closed the connection") from None
                continue
            except h11.ProtocolError as error:
                raise NetworkError(f"{target.authority} does not answer as a web server does: {error}") from error
            break
        if is_switched:
            self._client.unread(self._protocol.trailing_data[0])
            if early := line.protocol.trailing_data[0]:
                await self._client.write(early)
            await relay(self._client, line.outside, self._gate.counter(crossing), self._gate.limits.idle_timeout_s)
            self._drop_line()
        elif (line.protocol.our_state, line.protocol.their_state) == (h11.DONE, h11.DONE):
            line.protocol.start_next_cycle()
            line.is_used = True
        else:
            self._drop_line()

    async def _line_to(self, crossing: Crossing, allowed: Allowed, target: Target) -> _Line:
        """A connection: the one that is there, if it is to the same server."""
        place = (allowed.host, allowed.port)
        if self._line is not None and (self._line.target != place or self._line.outside.reader.at_eof()):
            self._drop_line()
        if self._line is None:
            outside = await self._dial(crossing, allowed)
            self._line = _Line(outside, h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT_BYTES), place)
        crossing.rule = allowed.pattern
        self._gate.hold(crossing, self._line.outside, self._client)
        return self._line

    def _drop_line(self) -> None:
        if self._line is not None:
            self._line.outside.close()
            self._line = None

    async def _refuse(self, status: int, reason: str) -> None:
        """Answers, unless an answer has begun. The connection is to be closed: what follows was not read."""
        if self._protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._client.write(plain_answer(status, reason, {}))
            self._client.end()


class _Transfer:
    """One request and its answer over one connection."""

    def __init__(
        self, client: Client, protocol: h11.Connection, line: _Line, count: Callable[[int, int], None]
    ) -> None:
        self.renew: Callable[[], None] = lambda: None
        self._client = client
        self._protocol = protocol
        self._line = line
        self._count = count

    async def carry(self, request: h11.Request, body: Any) -> bool:
        """`body` is what came first of it, None if there is none. True: both ends speak another protocol now."""
        await self._send(request)
        if body is None:
            await self._send(h11.EndOfMessage())
            return await self._answer()
        is_switched: list[bool] = []

        async def answer() -> None:
            is_switched.append(await self._answer())
            if self._line.protocol.our_state is h11.SEND_BODY:
                raise _AnsweredError  # what is left of the request is not wanted

        with contextlib.suppress(_AnsweredError):
            await both(self._body(body), answer())
        return is_switched[0]

    async def _body(self, event: Any) -> None:
        while not isinstance(event, h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await self._client.read())
            elif isinstance(event, h11.Data):
                await self._send(h11.Data(data=event.data))
            else:
                raise NetworkError("the request broke off")
            event = self._protocol.next_event()
        await self._send(h11.EndOfMessage())

    async def _send(self, event: Any) -> None:
        data = self._line.protocol.send(event)
        if data:
            self._count(len(data), 0)
            try:
                await self._line.outside.write(data)
            except OSError as error:
                if self._line.is_used:
                    raise _StaleError from error
                raise
            self.renew()

    async def _answer(self) -> bool:
        has_begun = False
        while True:
            event = self._line.protocol.next_event()
            if event is h11.NEED_DATA:
                data = await self._read(has_begun=has_begun)
                has_begun = True
                self._count(0, len(data))
                self._line.protocol.receive_data(data)
                self.renew()
            elif isinstance(event, h11.InformationalResponse):
                await self._give(event)
                if event.status_code == 101:
                    return True
            elif isinstance(event, h11.Response):
                headers = _without_hops(event.headers.raw_items())
                await self._give(h11.Response(status_code=event.status_code, reason=event.reason, headers=headers))
            elif isinstance(event, h11.Data):
                await self._give(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._give(h11.EndOfMessage())
                return False
            else:
                raise NetworkError("the server closed the connection without an answer")

    async def _read(self, *, has_begun: bool) -> bytes:
        """What comes next. Nothing at all from a connection that was kept: it is stale."""
        try:
            data = await self._line.outside.reader.read(_PIECE_BYTES)
        except OSError as error:
            if self._line.is_used and not has_begun:
                raise _StaleError from error
            raise
        if not data and self._line.is_used and not has_begun:
            raise _StaleError
        return data

    async def _give(self, event: Any) -> None:
        data = self._protocol.send(event)
        if data:
            await self._client.write(data)


class _AnsweredError(Exception):
    """The answer came before the request was whole."""


def _check(request: h11.Request) -> None:
    """What h11 lets pass and servers may understand differently. Raises `BadRequest`."""
    names = [name for name, _ in request.headers]
    if request.http_version not in _VERSIONS:
        raise BadRequest("only HTTP/1.1 is spoken here")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise BadRequest("it has both Content-Length and Transfer-Encoding")
    if request.method == b"CONNECT" and (b"content-length" in names or b"transfer-encoding" in names):
        raise BadRequest("CONNECT has no body")
    if request.method == b"TRACE":
        raise BadRequest("TRACE would show what is added on the way")


def _outgoing(request: h11.Request, target: Target, granted: Mapping[str, str]) -> h11.Request:
    """The request as it goes out: for one server, without what was said to the proxy, with what its rule adds."""
    taken = {_folded(name.encode("ascii")) for name in granted}
    headers = [(b"Host", target.authority.encode("ascii"))]
    headers += [
        (name, value)
        for name, value in _without_hops(request.headers.raw_items())
        if name.lower() != b"host" and _folded(name) not in taken
    ]
    headers += [(name.encode("ascii"), value.encode("latin-1")) for name, value in granted.items()]
    if request.method == b"GET" and [v.lower() for n, v in request.headers if n == b"upgrade"] == [b"websocket"]:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return h11.Request(method=request.method, target=(target.path + target.query).encode("ascii"), headers=headers)


def _folded(name: bytes) -> bytes:
    """Some servers take `_` for `-`."""
    return name.lower().replace(b"_", b"-")


def _without_hops(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without what is said between two neighbours only."""
    given = list(headers)
    named = {
        each.strip().lower() for name, value in given if name.lower() == b"connection" for each in value.split(b",")
    }
    dropped = _HOP_BY_HOP | (named - _FRAMING)
    return [
        (name, value) for name, value in given if name.lower() not in dropped and not name.lower().startswith(_PROXYS)
    ]


def plain_answer(status: int, reason: str, headers: Mapping[str, str], phrase: str = "") -> bytes:
    """A whole answer of the proxy's own, after which the connection is closed."""
    body = f"corral: {reason}\n".encode()
    shown = "".join(each if " " <= each <= "~" else "?" for each in phrase or _PHRASES.get(status, "Refused"))
    fields = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
        "X-Corral-Refused": "yes",
        "Connection": "close",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {shown}\r\n{lines}\r\n".encode("ascii") + body
