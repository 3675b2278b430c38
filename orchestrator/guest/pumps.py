"""From a descriptor to a stream, only as fast as the other end of the link takes it."""

from __future__ import annotations

import os
from typing import Callable, Optional

from .link import Stream
from .reactor import Reactor

_PIECE_BYTES = 256 * 1024
_REST_LIMIT_BYTES = 256 * 1024
"""What a terminal can hold back, with room to spare."""


class Pump:
    """Owns the descriptor. `on_end` comes once, with the error if the descriptor broke; not after `close`."""

    def __init__(
        self, reactor: Reactor, fd: int, stream: Stream, on_end: Callable[[Optional[OSError]], object]
    ) -> None:
        self._reactor = reactor
        self._fd: Optional[int] = fd
        self._stream = stream
        self._on_end = on_end
        self._rest_bytes: Optional[int] = None
        os.set_blocking(fd, False)
        stream.on_credit = self._go_on
        self._go_on()

    def finish(self) -> None:
        """Sends what is there now and ends, even if somebody could still write: who does may do so for ever."""
        self._rest_bytes = _REST_LIMIT_BYTES
        self._go_on()

    def close(self) -> None:
        if self._fd is not None:
            self._reactor.forget(self._fd)
            os.close(self._fd)
            self._fd = None

    def _go_on(self) -> None:
        while self._fd is not None and self._rest_bytes is not None and self._stream.room_bytes > 0:
            self._read()
        if self._fd is not None:
            self._reactor.watch(self._fd, self._read if self._stream.room_bytes > 0 else None)

    def _read(self) -> None:
        assert self._fd is not None
        problem: Optional[OSError] = None
        try:
            data = os.read(self._fd, min(_PIECE_BYTES, self._stream.room_bytes))
        except BlockingIOError:
            if self._rest_bytes is None:
                return
            data = b""
        except OSError as error:
            data, problem = b"", error
        if self._rest_bytes is not None:
            self._rest_bytes -= len(data)
        if data:
            self._stream.send(data)
        if not data or (self._rest_bytes is not None and self._rest_bytes <= 0):
            self.close()
            self._on_end(problem)
        elif self._stream.room_bytes <= 0 and self._fd is not None:
            self._reactor.forget(self._fd)
