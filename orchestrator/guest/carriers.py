"""Carries the bytes of a connected socket over a stream, both ways. Each direction ends on its own, as in TCP."""

from __future__ import annotations

import os
import socket
from typing import Callable, Optional, Set

from .link import Stream
from .processes import InputPipe
from .pumps import Pump
from .reactor import Reactor


class _SocketInput(InputPipe):
    """Ends the sending direction where a pipe would be closed, and says so."""

    def __init__(
        self, reactor: Reactor, connection: socket.socket, stream: Stream, on_written: Callable[[], object]
    ) -> None:
        self._connection = connection
        self._on_written = on_written
        super().__init__(reactor, os.dup(connection.fileno()), stream.take)

    def close(self) -> None:
        super().close()
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it broke, or was closed
        self._on_written()


class Carrier:
    """Between a socket and a stream until both directions have ended; then the stream is dropped. The socket stays
    its holder's, who closes this first.
    """

    def __init__(self, reactor: Reactor, stream: Stream, connection: socket.socket) -> None:
        """Raises `OSError` if no descriptor is left."""
        self._stream = stream
        self._unfinished: Set[str] = {"received", "written", "sent"}
        self._pump: Optional[Pump] = None
        # Descriptors of their own: the reactor knows one reader or writer for each.
        self._input = _SocketInput(reactor, connection, stream, lambda: self._finished("written"))
        stream.on_data = self._input.feed
        stream.on_end = self._input_ended
        try:
            pump = Pump(reactor, os.dup(connection.fileno()), stream, self._output_ended)
        except OSError:
            self._input.close()
            raise
        self._pump = pump
        if not stream.is_open:
            self.close()  # its first bytes found a broken link

    def close(self) -> None:
        if self._pump is not None:
            self._pump.close()
        self._input.close()

    def _input_ended(self) -> None:
        self._input.feed(None)
        self._finished("received")

    def _output_ended(self, problem: Optional[OSError]) -> None:
        if problem is not None:
            self._stream.reset("reset", problem.strerror or "the connection broke")
        else:
            self._stream.end_sending()
            self._finished("sent")

    def _finished(self, part: str) -> None:
        self._unfinished.discard(part)
        if not self._unfinished:
            self._stream.drop()
