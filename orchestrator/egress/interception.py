"""Opens TLS between a program and a server, so that its requests can be judged and given what they are to get.

To the program this server shows a certificate of its own authority; the real one's is verified. Imports what stands
beside it in `egress`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator

import h11

from orchestrator.egress.certificates import Authority
from orchestrator.egress.crossing import Client, Crossing, Outside, patient
from orchestrator.egress.exchanges import BadRequest, Exchanges
from orchestrator.egress.gate import Denied, Gate
from orchestrator.egress.heads import Target
from orchestrator.errors import CorralError, NetworkError
from orchestrator.policy.network import Allowed
from orchestrator.policy.urls import UrlProblem, parse_authority

_HANDSHAKE = 22
_PIECE_BYTES = 64 << 10
_HTTP_PORT, _HTTPS_PORT = 80, 443
_END_TIMEOUT_S = 10.0


class Interception:
    """One for all gates."""

    def __init__(self, authority: Authority, tls: ssl.SSLContext) -> None:
        """`tls` says which certificates of servers are good."""
        self._authority = authority
        self._tls = tls

    @property
    def authority_pem(self) -> str:
        """Whom programs must trust."""
        return self._authority.pem

    async def serve(self, gate: Gate, client: Client, crossing: Crossing, allowed: Allowed) -> None:
        """Carries on a tunnel whose client was told that it is open, to its end: HTTP over TLS, or plain HTTP.

        Raises:
            Denied: it is neither, or TLS asks for another name than the tunnel is to.
            NetworkError, CorralError, OSError: it broke, other than with a request, which is told of for itself.
        """
        crossing.is_read = True
        first = b""
        with _kept_in_hand():
            async with patient(gate.limits.header_timeout_s):
                first = await client.read()
        client.unread(first)
        if not first:
            client.end()
        elif first[0] == _HANDSHAKE:
            await self._serve_tls(gate, client, allowed)
        elif chr(first[0]).isalpha():
            await _serve(Exchanges(gate, client, _locator(allowed, _HTTP_PORT)))
        else:
            raise Denied(f"what goes to {allowed.host}:{allowed.port} must be read, and is neither TLS nor HTTP")

    async def _serve_tls(self, gate: Gate, client: Client, allowed: Allowed) -> None:
        context = await self._authority.context(allowed.host)
        channel = TlsChannel(client, context, gate.guarded(allowed, client))

        async def dial(crossing: Crossing, to: Allowed) -> Outside:
            return await gate.connect(crossing, to, self._tls)

        try:
            async with patient(gate.limits.header_timeout_s):
                await channel.handshake()
            await _serve(Exchanges(gate, Client(channel), _locator(allowed, _HTTPS_PORT), dial, "https"))
        finally:
            await channel.aclose()


async def _serve(exchanges: Exchanges) -> None:
    """To the end. What broke with a request is told of with it, and not a second time as the tunnel's."""
    try:
        with _kept_in_hand():
            await exchanges.serve()
    except (CorralError, OSError):
        if not exchanges.is_told:
            raise


@contextlib.contextmanager
def _kept_in_hand() -> Iterator[None]:
    """A tunnel for which there comes no request is no failure: browsers open some before they know what for."""
    try:
        yield
    except NetworkError as error:
        if error.code != "network_idle":
            raise


class TlsChannel:
    """A server's end of TLS over what a program sends: a `Channel` of what is inside. Close it."""

    def __init__(self, client: Client, context: ssl.SSLContext, read: Callable[[], Awaitable[bytes]]) -> None:
        """`read` gives what the program sends, empty at the end."""
        self._client = client
        self._read = read
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._sending = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None

    async def handshake(self) -> None:
        """Raises `NetworkError` if the program does not want this certificate, or `Denied` as `read` does."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLError as error:
                with contextlib.suppress(CorralError):
                    await self._flush()  # the alert that says why
                raise _broken(error) from error
        await self._flush()

    async def read(self) -> bytes:
        """The next bytes, empty at the end, also at one that TLS does not know of: what is inside has ends of its own.

        Raises `NetworkError`.
        """
        while True:
            try:
                data = self._tls.read(_PIECE_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLEOFError:
                return b""
            except ssl.SSLError as error:
                raise _broken(error) from error
            else:
                if self._outgoing.pending:
                    await self._flush()
                return data

    async def write(self, data: bytes) -> None:
        """Raises `NetworkError`."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise _broken(error) from error
        await self._flush()

    def end(self) -> None:
        """Nothing more is written. What was, arrives, and after it the end."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name="tls-end")

    def close(self) -> None:
        """At once."""
        self._client.close()

    async def aclose(self) -> None:
        """When the end has been sent, if there is one and the program still takes something."""
        if self._ending is not None:
            await asyncio.wait([self._ending], timeout=_END_TIMEOUT_S)
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)

    async def _end(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()  # writes that this is the end, and would wait for the other's
        with contextlib.suppress(CorralError):
            await self._flush()
            self._client.end()

    async def _receive(self) -> None:
        if data := await self._read():
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        """What TLS has written goes in the order in which it did."""
        async with self._sending:
            if data := self._outgoing.read():
                await self._client.write(data)


def _broken(error: ssl.SSLError) -> NetworkError:
    reason = (error.reason or "it broke").lower().replace("_", " ")
    if "alert" in reason:
        reason += "; a program that has certificates of its own does not trust this sandbox's: see SSL_CERT_FILE"
    return NetworkError(f"TLS with the program failed: {reason}")


def _locator(allowed: Allowed, default_port: int) -> Callable[[h11.Request], Target]:
    """Requests in a tunnel name a path only, and nobody else than whom the tunnel is to."""

    def locate(request: h11.Request) -> Target:
        path, mark, query = request.target.decode("ascii").partition("?")
        if not path.startswith("/") or "#" in query:
            raise BadRequest("a request in a tunnel names a path")
        for name, value in request.headers:
            if name == b"host":
                _check_host(allowed, value, default_port)
        return Target(allowed.host, allowed.port, path, mark + query, default_port)

    return locate


def _check_host(allowed: Allowed, value: bytes, default_port: int) -> None:
    try:
        named = parse_authority(value.decode("ascii", "replace"), default_port)
    except UrlProblem as error:
        raise BadRequest(f"its Host cannot be read: {error}") from None
    if named != (allowed.host, allowed.port):
        raise BadRequest("its Host is not the one that the tunnel is to")
