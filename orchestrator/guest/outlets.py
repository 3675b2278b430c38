"""The sandbox's way out, as far as it is inside: a port of loopback whose connections are carried to the orchestrator.

    accept  {"port"}    waits for a connection; MESSAGE {"accepted": port of who connected}, then DATA both ways

Bytes are carried, not looked at: what they say and whom they may reach is judged outside. A connection that no stream
waits for stays in the kernel's queue, and what does not fit there is turned away by the kernel.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Callable, Deque, Dict, Optional

from .carriers import Carrier
from .link import Stream
from .reactor import Reactor

_BACKLOG = 128
_CONNECTIONS_LIMIT = 256
_PRELOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "proxy.js")
_HERE = "localhost,127.0.0.1,::1"


class Outlet:
    """Listens from its making on, for as long as the guest lives; links come and go."""

    def __init__(self, reactor: Reactor, port: int) -> None:
        """On 127.0.0.1; port 0 takes a free one. Raises `OSError` if somebody has the port."""
        self._reactor = reactor
        self._waiting: Deque[Stream] = deque()
        self._open_count = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    @property
    def variables(self) -> Dict[str, str]:
        """By which programs find the way out without being told."""
        proxy = "http://127.0.0.1:%d" % self.port
        # SOCKS is there, too, but httpx, hence most clients of models, fails at once if `all_proxy` names it.
        named = {"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": _HERE}
        # Programs differ in which case they read; curl reads http_proxy in lower case only.
        named.update({name.upper(): value for name, value in named.items()})
        # Node before 24 knows no proxy at all, and takes the variable then for nothing.
        named["NODE_USE_ENV_PROXY"] = "1"
        if os.path.exists(_PRELOAD):
            named["NODE_OPTIONS"] = "--require=%s" % _PRELOAD
        return named

    def open(self, stream: Stream) -> None:
        """Gives the next connection to `stream`."""
        stream.on_data = lambda _data: stream.reset("bad_request", "bytes before the connection")
        stream.on_close = lambda: self._give_up(stream)
        self._waiting.append(stream)
        self._look()

    def _give_up(self, stream: Stream) -> None:
        self._waiting.remove(stream)
        self._look()

    def _look(self) -> None:
        is_wanted = bool(self._waiting) and self._open_count < _CONNECTIONS_LIMIT
        self._reactor.watch(self._socket.fileno(), self._accept if is_wanted else None)

    def _accept(self) -> None:
        try:
            connection, address = self._socket.accept()
        except (BlockingIOError, ConnectionError):
            return  # who connected has gone
        stream = self._waiting.popleft()
        self._open_count += 1
        self._look()
        _Outgoing(self._reactor, stream, connection, address[1], self._closed)

    def _closed(self) -> None:
        self._open_count -= 1
        self._look()


class _Outgoing:
    """One connection that a stream took."""

    def __init__(
        self, reactor: Reactor, stream: Stream, connection: socket.socket, port: int, on_close: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._carrier: Optional[Carrier] = None
        self._on_close = on_close
        stream.on_close = self._close
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.send_message({"accepted": port})
        try:
            self._carrier = Carrier(reactor, stream, connection)
        except OSError as error:
            stream.reset("failed", error.strerror or "no descriptor is left")

    def _close(self) -> None:
        if self._carrier is not None:
            self._carrier.close()
        self._connection.close()
        self._on_close()
