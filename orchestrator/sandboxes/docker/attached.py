"""Attached streams: the socket that the engine hands over, and Docker's multiplexing on it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Coroutine
from typing import Any, TypeVar

AnySocket = TypeVar("AnySocket", socket.socket, socket.socket | None)


def own_socket(attached: Any) -> socket.socket:
    """A descriptor of our own: the SDK's objects close theirs whenever they are collected."""
    own = socket.socket(fileno=os.dup(attached.fileno()))
    attached._response.close()
    attached.close()
    own.setblocking(False)
    return own


async def whole_socket(opening: Coroutine[Any, Any, AnySocket]) -> AnySocket:
    """What a thread opens: the engine goes on with what we no longer wait for, and nobody else would close it."""
    task = asyncio.ensure_future(opening)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_close)
        raise


def _close(opened: asyncio.Future[AnySocket]) -> None:
    link = None if opened.cancelled() or opened.exception() is not None else opened.result()
    if link is not None:
        link.close()


class AttachedProtocol(asyncio.StreamReaderProtocol):
    """Takes Docker's multiplexing (8 bytes of header per piece) off what an attached process writes; keeps its
    stdout.
    """

    _HEADER = struct.Struct(">BxxxI")
    _STDOUT = 1

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._reader = reader
        self._buffer = bytearray()
        self._channel = 0
        self._missing_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if self._missing_bytes == 0:
                if len(self._buffer) < self._HEADER.size:
                    return
                self._channel, self._missing_bytes = self._HEADER.unpack_from(self._buffer)
                del self._buffer[: self._HEADER.size]
            piece = bytes(self._buffer[: self._missing_bytes])
            del self._buffer[: len(piece)]
            self._missing_bytes -= len(piece)
            if piece and self._channel == self._STDOUT:
                self._reader.feed_data(piece)
