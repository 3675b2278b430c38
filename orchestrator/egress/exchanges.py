"""Requests and answers of HTTP/1.1 between a program and servers outside, each judged for itself. Imports `gate`.

h11 reads what comes and writes what goes, in both directions, so that nothing passes that it did not understand. Who
opens TLS uses this, too: with a `locate` that knows whom the tunnel is to, and a `dial` that speaks TLS. How one
exchange is carried is in `transfer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import h11

from orchestrator.egress.crossing import Client, Crossing, Kind, Outside, patient, relay
from orchestrator.egress.gate import Denied, Gate
from orchestrator.egress.heads import Target, outgoing
from orchestrator.egress.injection import Insertion
from orchestrator.egress.transfer import Line, StaleError, Transfer
from orchestrator.errors import NetworkError
from orchestrator.policy.injection import Scan, Swaps
from orchestrator.policy.network import Allowed, Refusal

_HEAD_LIMIT_BYTES = 64 << 10
_SWAPPED_BODY_LIMIT_BYTES = 1 << 20
"""A body in which placeholders are swapped is held whole: its length comes before it. In longer ones there may be none.
"""
_VERSIONS = (b"1.0", b"1.1")
_PHRASES = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 502: "Bad Gateway", 503: "Unavailable"}


class BadRequest(NetworkError):
    """What was asked cannot be understood in one way only."""

    code = "network_refused"


Locate = Callable[[h11.Request], Target]
"""Raises `BadRequest`."""
Dial = Callable[[Crossing, Allowed], Awaitable[Outside]]


class Exchanges:
    """Those of one connection of a program. Use `serve` once."""

    def __init__(
        self, gate: Gate, client: Client, locate: Locate, dial: Dial | None = None, kind: Kind = "http"
    ) -> None:
        """`dial` connects, and speaks TLS where `kind` is `https`."""
        self._kind: Kind = kind
        self._gate = gate
        self._client = client
        self._locate = locate
        self._dial = dial or gate.connect
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT_BYTES)
        self._line: Line | None = None
        self.is_told = False
        """Whether what `serve` raised was told of with a request."""

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
            self._leave_line()

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
            with contextlib.suppress(Denied), self._gate.crossing(self._kind, "", 0, self._client):
                raise Denied(error.message) from error
            self.is_told = True
            await self._refuse(400, error.message)
            raise
        with self._gate.crossing(self._kind, target.host, target.port, self._client) as crossing:
            self.is_told = True
            crossing.method, crossing.path = request.method.decode("ascii"), target.path
            try:
                allowed = self._gate.judge(target.host, target.port)
                fitting = allowed.fitting(crossing.method, crossing.path)
                if isinstance(fitting, Refusal):
                    raise Denied(fitting.reason)
                insertion = await self._gate.injection.prepared(allowed.host, fitting)
                if isinstance(insertion, Refusal):
                    raise Denied(insertion.reason)
                await self._carry(crossing, allowed, target, request, insertion)
                self.is_told = False
            except NetworkError as error:
                await self._refuse(_status(error), error.message)
                raise

    async def _carry(
        self, crossing: Crossing, allowed: Allowed, target: Target, request: h11.Request, insertion: Insertion
    ) -> None:
        event = self._event()
        body = None if isinstance(event, h11.EndOfMessage) else self._body(event)
        whole: bytes | None = None
        if body is not None and insertion.swaps.secrets:
            if insertion.swaps.may_be_in_body and _is_swappable(request):
                whole = await self._swapped(request, body, insertion.swaps)
                body = _whole(whole)
            else:
                body = _scanned(body)
        wanted = outgoing(request, target, insertion, body=whole, is_seen=self._gate.limits.redact_bodies)
        if isinstance(wanted, Refusal):
            raise Denied(wanted.reason)
        crossing.credentials = insertion.ids
        while True:
            line = await self._line_to(crossing, allowed, has_body=body is not None)
            try:
                async with patient(self._gate.limits.idle_timeout_s) as patience:
                    transfer = Transfer(self._client, self._protocol, line, self._gate.counter(crossing))
                    transfer.renew = patience.renew
                    transfer.echoes = insertion.echoes
                    transfer.redacts_bodies = self._gate.limits.redact_bodies
                    is_switched = await transfer.carry(wanted, body)
            except StaleError:
                self._drop_line()
                if body is not None:
                    raise NetworkError(f"{target.authority} closed the connection") from None
                continue
            except h11.ProtocolError:
                # What it says repeats what came, and that may be what was put in.
                raise NetworkError(f"{target.authority} does not answer as a web server does") from None
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

    async def _body(self, event: Any) -> AsyncGenerator[bytes, None]:
        """What the program sends after its head, `event` being the first of it."""
        while not isinstance(event, h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await self._client.read())
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                raise NetworkError("the request broke off")
            event = self._event()

    def _event(self) -> Any:
        """What comes next of the request's body. Raises `BadRequest`."""
        try:
            return self._protocol.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(f"the request cannot be read: {error}") from error

    async def _swapped(self, request: h11.Request, body: AsyncGenerator[bytes, None], swaps: Swaps) -> bytes:
        """The whole body, with values in place of placeholders. Secret."""
        if self._protocol.they_are_waiting_for_100_continue:
            await self._client.write(self._protocol.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        async with patient(self._gate.limits.idle_timeout_s) as patience:
            pieces = []
            async for piece in body:
                pieces.append(piece)
                patience.renew()
        content_type = dict(request.headers).get(b"content-type", b"").decode("latin-1")
        rewritten = swaps.rewrite_body(content_type, b"".join(pieces))
        if isinstance(rewritten, Refusal):
            raise Denied(rewritten.reason)
        return rewritten

    async def _line_to(self, crossing: Crossing, allowed: Allowed, *, has_body: bool) -> Line:
        """A connection: the one that is there, if it is to the same server, or one that another program has left."""
        place = (allowed.host, allowed.port)
        if self._line is not None and self._line.target != place:
            self._drop_line()
        if self._line is None and self._kind == "https" and not has_body:  # a body cannot be sent again
            self._line = self._gate.parked.take(place)
        if self._line is not None and self._line.outside.reader.at_eof():
            self._drop_line()
        if self._line is None:
            outside = await self._dial(crossing, allowed)
            self._line = Line(outside, h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT_BYTES), place)
        crossing.rule = allowed.pattern
        self._gate.hold(crossing, self._line.outside, self._client)
        if crossing.credentials and self._kind == "http":
            self._gate.check_clear(crossing, allowed)
        return self._line

    def _leave_line(self) -> None:
        """To the next program, if it can have it."""
        if self._line is not None and self._kind == "https":
            self._gate.parked.put(self._line)
            self._line = None
        self._drop_line()

    def _drop_line(self) -> None:
        if self._line is not None:
            self._line.outside.close()
            self._line = None

    async def _refuse(self, status: int, reason: str) -> None:
        """Answers, unless an answer has begun. The connection is to be closed: what follows was not read."""
        if self._protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._client.write(plain_answer(status, reason, {}))
            self._client.end()


def _status(error: NetworkError) -> int:
    """What a program is told that caused it, or that a server did."""
    if isinstance(error, Denied):
        return 403
    return 400 if isinstance(error, BadRequest) else 502


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


def _is_swappable(request: h11.Request) -> bool:
    """Whether its body can be held whole and read."""
    headers = dict(request.headers)
    length = int(headers.get(b"content-length", b"-1"))
    return b"content-encoding" not in headers and 0 <= length <= _SWAPPED_BODY_LIMIT_BYTES


async def _whole(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


async def _scanned(body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same, to the first placeholder."""
    scan = Scan()
    async with contextlib.aclosing(body):
        async for piece in body:
            if scan.finds(piece):
                raise Denied(
                    "the placeholder of a credential is in a body in which none is swapped: see 'trusted_domains' and "
                    "'injection_location' of the credential; bodies are text, not encoded, and of at most 1 MiB"
                )
            yield piece


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
