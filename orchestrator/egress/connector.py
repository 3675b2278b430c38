"""Connections to outside for sandboxes, on the event loop: judged as those of `dialer.py` are, without a thread each.

Imports `addresses` and `policy`. Names are resolved in threads of their own, a few at a time, since the system's
resolver blocks, has no time limit and cannot be broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.egress.addresses import OwnAddresses, judged, system_lookup
from orchestrator.errors import NetworkError
from orchestrator.policy.network import Allowed, NetworkPolicy, address_of

_CONNECT_TIMEOUT_S = 10.0
"""Of one address, TLS included; a name may have several."""
_ADDRESSES_TRIED = 4
_RESOLVE_TIMEOUT_S = 10.0
_RESOLVING_AT_ONCE = 16
_BUFFER_BYTES = 256 << 10
"""Of what comes from outside and the sandbox has not taken, for each connection; what is more waits in the kernel."""

Lookup = Callable[[str, int], list[str]]
"""Addresses of a name; blocks. Raises `OSError`."""


class Resolver:
    """Resolves names, so many at once that slow name servers cannot take all threads of the process."""

    def __init__(self, lookup: Lookup = system_lookup, at_once: int = _RESOLVING_AT_ONCE) -> None:
        self._lookup = lookup
        self._room = asyncio.Semaphore(at_once)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Raises `NetworkError`: it has none, or none was found in time."""
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                await self._room.acquire()
                return await self._ask(host, port)
        except TimeoutError:
            raise NetworkError(f"the address of {host} was not found in time") from None
        except OSError as error:
            raise NetworkError(f"{host} has no address: {error.strerror or error}") from error

    async def _ask(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def settle(found: list[str] | OSError) -> None:
            self._room.release()  # only now: a thread that hangs keeps its place
            if answer.done():
                return
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def ask() -> None:
            found: list[str] | OSError
            try:
                found = self._lookup(host, port)
            except OSError as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=ask, daemon=True, name="resolve").start()
        return await answer


@dataclass(frozen=True, slots=True)
class Connector:
    """Connects within the rules that it is given. One for all sandboxes."""

    resolver: Resolver
    own: OwnAddresses

    async def connect(
        self, policy: NetworkPolicy, allowed: Allowed, tls: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """A connection, which its holder closes, and the address that it is to. With `tls` it is TLS, and who answers
        has proved to be the host that was let through.

        Raises:
            NetworkError: `network_refused`: policy does not allow one of the addresses; `network_failed`: nobody
                answers there.
        """
        if address_of(allowed.host) is not None:
            found = [allowed.host]
        else:
            found = await self.resolver.addresses(allowed.host, allowed.port)
        reason = "no address"
        for address in judged(policy, self.own, allowed, found)[:_ADDRESSES_TRIED]:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    reader, writer = await self._dial(address, allowed, tls)
                return reader, writer, address
            except ssl.SSLCertVerificationError as error:
                raise NetworkError(f"the certificate of {allowed.host} is not valid: {error.verify_message}") from error
            except ssl.SSLError as error:
                raise NetworkError(f"{allowed.host}:{allowed.port} does not speak TLS: {error.reason}") from error
            except OSError as error:  # `TimeoutError` is one
                reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise NetworkError(f"{allowed.host}:{allowed.port} cannot be reached: {reason}")

    async def _dial(
        self, address: str, allowed: Allowed, tls: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (address, allowed.port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = allowed.host if tls is not None else None
            return await asyncio.open_connection(sock=connection, limit=_BUFFER_BYTES, ssl=tls, server_hostname=name)
        except BaseException:
            connection.close()
            raise
