"""A name server that knows what a test says, and keeps what it was asked. Standard library only."""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self

_A, _AAAA, _CNAME = 1, 28, 5
_TYPES = {_A: "A", _AAAA: "AAAA", _CNAME: "CNAME", 16: "TXT", 12: "PTR", 33: "SRV", 65: "HTTPS"}
_NO_SUCH_NAME = 3
_HEADER = struct.Struct(">HHHHHH")

Addresses = Sequence[str] | Callable[[], Sequence[str]]
"""Those of a name; a function is asked anew each time that the name is."""


class NameServer:
    """`names` are all the names that there are, `*.name` being those below one. A context manager."""

    def __init__(self, sockets: Iterable[socket.socket], names: dict[str, Addresses]) -> None:
        """`sockets` are bound, and of datagrams; they are closed at the end."""
        self.names = names
        self.asked: list[tuple[str, str]] = []
        """Names in lower case, and the types of what was asked."""
        self._sockets = list(sockets)
        self._ending, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join()
        for each in (*self._sockets, self._ending):
            each.close()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([*self._sockets, self._ending], [], [])
            if self._ending in ready:
                return
            for each in ready:
                data, sender = each.recvfrom(4096)
                each.sendto(self._answer(data), sender)

    def _answer(self, data: bytes) -> bytes:
        number = _HEADER.unpack_from(data)[0]
        name, end = _name_at(data, _HEADER.size)
        kind = struct.unpack_from(">H", data, end)[0]
        self.asked.append((name, _TYPES.get(kind, str(kind))))
        found = self._addresses(name)
        records = b"".join(_record(address) for address in found or () if _kind(address) == kind)
        count = sum(_kind(address) == kind for address in found or ())
        flags = 0x8180 | (0 if found is not None else _NO_SUCH_NAME)
        return _HEADER.pack(number, flags, 1, count, 0, 0) + data[_HEADER.size : end + 4] + records

    def _addresses(self, name: str) -> Sequence[str] | None:
        labels = name.split(".")
        for known in (name, *(".".join(("*", *labels[at:])) for at in range(1, len(labels)))):
            if (found := self.names.get(known)) is not None:
                return found() if callable(found) else found
        return None


def _name_at(data: bytes, at: int) -> tuple[str, int]:
    labels = []
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return ".".join(labels), at + 1


def _kind(address: str) -> int:
    return _AAAA if ":" in address else _A


def _record(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return struct.pack(">HHHIH", 0xC00C, _kind(address), 1, 0, len(packed)) + packed
