"""Connections to what listens inside the sandbox, for port forwards. Loopback only: there is no other interface.

What carries the bytes is in `carriers.py`.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import List, Optional, Sequence

from .carriers import Carrier
from .link import Stream
from .reactor import Reactor, Timer

HOSTS = ("127.0.0.1", "::1")
_CONNECT_TIMEOUT_S = 10.0
"""What listens and does not accept is only seen by its silence."""


class Connection:
    """One connection on one stream. MESSAGE {"connected": host} or {"error": {"code", "message"}} comes first; no
    bytes are taken before.
    """

    def __init__(self, reactor: Reactor, stream: Stream, hosts: Sequence[str], port: int) -> None:
        """Connects to the first of `hosts` that lets it. Never blocks."""
        self._reactor = reactor
        self._stream = stream
        self._port = port
        self._hosts: List[str] = list(hosts)
        self._socket: Optional[socket.socket] = None
        self._carrier: Optional[Carrier] = None
        self._deadline: Timer = reactor.after(_CONNECT_TIMEOUT_S, lambda: self._fail("timeout", "it does not accept"))
        stream.on_data = lambda _data: stream.reset("bad_request", "bytes before the connection")
        stream.on_close = self._close
        self._problem = ""
        self._try_next()

    @property
    def is_over(self) -> bool:
        return not self._stream.is_open

    def _try_next(self, problem: str = "") -> None:
        self._close_socket()
        self._problem = self._problem or problem
        if not self._hosts:
            self._fail("refused", self._problem)
            return
        host = self._hosts.pop(0)
        try:
            self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = self._socket.connect_ex((host, self._port))
        except OSError as error:  # no such family here
            code = error.errno or errno.EIO
        if code in (0, errno.EINPROGRESS):
            assert self._socket is not None
            self._reactor.watch(self._socket.fileno(), on_writable=lambda: self._decided(host))
        else:
            self._try_next(os.strerror(code))

    def _decided(self, host: str) -> None:
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._reactor.forget(self._socket.fileno())
        if code:
            self._try_next(os.strerror(code))
            return
        self._deadline.cancel()
        self._stream.send_message({"connected": host})
        try:
            self._carrier = Carrier(self._reactor, self._stream, self._socket)
        except OSError as error:
            self._stream.reset("failed", error.strerror or "no descriptor is left")

    def _fail(self, code: str, message: str) -> None:
        self._stream.send_message({"error": {"code": code, "message": f"port {self._port}: {message}"}})
        self._stream.end()

    def _close(self) -> None:
        self._deadline.cancel()
        if self._carrier is not None:
            self._carrier.close()
        self._close_socket()

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._reactor.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
