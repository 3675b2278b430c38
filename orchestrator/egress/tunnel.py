"""A way out for a program of ours that makes its own connections, such as git: an HTTP proxy on loopback that knows
`CONNECT` alone, for as long as the program runs. Imports `dialer`.

Nobody else on the machine can use it: it wants a password that was made for this one run.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import re
import secrets
import select
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass, field

from orchestrator.egress.dialer import Dialer
from orchestrator.errors import NetworkError

_REQUEST = re.compile(rb"CONNECT (\[[0-9a-fA-F:.]+\]|[^:\s]+):([0-9]{1,5}) HTTP/1\.[01]")
_HEAD_LIMIT_BYTES = 16 << 10
_HEAD_TIMEOUT_S = 10.0
_SILENCE_TIMEOUT_S = 60.0
_CONNECTIONS = 16
_PIECE_BYTES = 64 << 10


@dataclass(slots=True)
class Tunnel:
    """An open one."""

    port: int
    password: str = field(repr=False)
    refusals: list[str] = field(default_factory=list)
    """Why connections were not made: what the program says of it is less clear."""

    @property
    def url(self) -> str:
        """For `https_proxy`. Secret."""
        return f"http://corral:{self.password}@127.0.0.1:{self.port}"


@contextlib.contextmanager
def opened_tunnel(dialer: Dialer) -> Generator[Tunnel, None, None]:
    """A tunnel that ends with the block, and everything in it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tunnel = Tunnel(listening.getsockname()[1], secrets.token_urlsafe(24))
        service = _Service(dialer, tunnel, listening)
        service.begin()
        try:
            yield tunnel
        finally:
            service.end()


class _Service:
    def __init__(self, dialer: Dialer, tunnel: Tunnel, listening: socket.socket) -> None:
        self._dialer = dialer
        self._tunnel = tunnel
        self._listening = listening
        self._ending, self._ended = socket.socketpair()
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        self._accepting = threading.Thread(target=self._accept, daemon=True, name="tunnel")
        self._threads: list[threading.Thread] = []
        token = base64.b64encode(f"corral:{tunnel.password}".encode())
        self._wanted = b"Basic " + token

    def begin(self) -> None:
        self._accepting.start()

    def _accept(self) -> None:
        while self._ended not in select.select([self._listening, self._ended], [], [])[0]:
            connection, _ = self._listening.accept()
            if not self._room.acquire(blocking=False):
                connection.close()
                continue
            serving = threading.Thread(target=self._serve, args=(connection,), daemon=True, name="tunnel")
            self._threads.append(serving)
            serving.start()

    def end(self) -> None:
        self._ending.close()  # `_ended` is readable from now on, for everybody who waits
        self._accepting.join()  # after that there comes no thread more
        for thread in self._threads:
            thread.join(timeout=_HEAD_TIMEOUT_S)
        self._ended.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):
                client.settimeout(_HEAD_TIMEOUT_S)
                if (server := self._open(client)) is not None:
                    with server:
                        self._join(client, server)
        finally:
            self._room.release()

    def _open(self, client: socket.socket) -> socket.socket | None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(_PIECE_BYTES)
            if not piece or len(head) > _HEAD_LIMIT_BYTES:
                return None
            head += piece
        head, _, early = head.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if not hmac.compare_digest(fields.get(b"proxy-authorization", b""), self._wanted):
            # git asks once without the password to learn which kind is wanted.
            client.sendall(
                b'HTTP/1.1 407 Unknown\r\nProxy-Authenticate: Basic realm="corral"\r\n'
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return None
        if not (asked := _REQUEST.fullmatch(first)):
            client.sendall(b"HTTP/1.1 405 Only CONNECT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return None
        host, port = asked[1].decode("ascii", "replace"), int(asked[2])
        try:
            self._dialer.headers(host, port)  # a credential may be missing
            server = self._dialer.dial(host, port)
        except NetworkError as error:
            self._tunnel.refusals.append(error.message)
            client.sendall(b"HTTP/1.1 403 Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return None
        client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        server.sendall(early)
        return server

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        for each in other:
            each.settimeout(_SILENCE_TIMEOUT_S)
        open_ends = set(other)
        while open_ends:
            ready, _, _ = select.select([*open_ends, self._ended], [], [], _SILENCE_TIMEOUT_S)
            if not ready or self._ended in ready:
                return
            for end in ready:
                piece = end.recv(_PIECE_BYTES)
                if piece:
                    other[end].sendall(piece)
                else:
                    open_ends.discard(end)
                    with contextlib.suppress(OSError):
                        other[end].shutdown(socket.SHUT_WR)
