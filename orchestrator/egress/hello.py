"""The name in the first message of a TLS client, which goes over the line in the clear. Pure; imports nothing."""

from __future__ import annotations

LIMIT_BYTES = 64 << 10
"""A first message is a few hundred bytes, with new kinds of keys two thousand."""
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0


class IncompleteError(Exception):
    """More bytes are needed."""


def server_name(data: bytes) -> str | None:
    """The name that a client asks for; None: it asks for none, or does not speak TLS.

    Raises:
        IncompleteError: more of what the client sends first is needed.
        ValueError: it begins as TLS and goes on as nonsense.
    """
    if data and data[0] != _HANDSHAKE:
        return None
    message = _handshake(data)
    if message is None:
        return None
    # The version, a random number, then three lists with their lengths before the extensions.
    rest = _Reader(message)
    rest.take(2 + 32)
    rest.take_sized(1)
    rest.take_sized(2)
    rest.take_sized(1)
    if rest.is_empty:
        return None
    extensions = _Reader(rest.take_sized(2))
    found: str | None = None
    while not extensions.is_empty:
        kind = extensions.number(2)
        content = extensions.take_sized(2)
        if kind == _SERVER_NAME:
            if found is not None:
                raise ValueError("two names")
            found = _host_name(content)
    return found


def _host_name(content: bytes) -> str:
    names = _Reader(_Reader(content).take_sized(2))
    if names.number(1) != _HOST_NAME:
        raise ValueError("a name of another kind")
    name = names.take_sized(2)
    if not names.is_empty:
        raise ValueError("two names")
    return name.decode("ascii")


def _handshake(data: bytes) -> bytes | None:
    """The first message without its header, put together from as many records as it came in."""
    message, start = b"", 0
    while True:
        if len(data) < start + 5:
            raise IncompleteError
        if data[start] != _HANDSHAKE or data[start + 1] != 3:
            if start == 0:
                return None
            raise ValueError("a message that breaks off")
        size = int.from_bytes(data[start + 3 : start + 5], "big")
        if size == 0:
            raise ValueError("an empty record")
        message += data[start + 5 : start + 5 + size]
        start += 5 + size
        if len(message) >= 4:
            if message[0] != _CLIENT_HELLO:
                return None
            wanted = 4 + int.from_bytes(message[1:4], "big")
            if len(message) >= wanted:
                return message[4:wanted]
        if len(data) < start:
            raise IncompleteError


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("it is shorter than it says")
        self._at += count
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def take_sized(self, width: int) -> bytes:
        return self.take(self.number(width))
