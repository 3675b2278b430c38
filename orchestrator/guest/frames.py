"""The link's framing, used by both ends. Pure bytes, no I/O.

A frame is a header (payload length, kind, stream number; big endian, 9 bytes) and a payload of at most
`MAX_PAYLOAD_BYTES`.
Control payloads are JSON objects. Streams are opened by the orchestrator with odd numbers; even ones are the guest's.

    HELLO    stream 0   first frame each way: protocol, generation. The orchestrator names the oldest protocol that it
                        speaks, since a guest refuses newer ones than its own; the guest names its own
    OPEN     JSON       begins a stream: {"service": …, …}
    DATA     bytes      needs credit: at most `WINDOW_BYTES` are under way unanswered, per stream and direction
    MESSAGE  JSON       a control message within a stream; needs no credit
    END      –          the sender of this frame sends nothing more on the stream
    CREDIT   4 bytes    the receiver took so many bytes of DATA
    RESET    JSON       {"code", "message"}: the stream is over at once, both ways; on stream 0 the link
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, Iterator, Tuple

PROTOCOL = 4
OLDEST_PROTOCOL = 1
"""A guest of an earlier release goes on serving. 1 has no service `stop`, and forgets that it forgot a call; 2 has no
service `accept`: nothing comes out of its sandbox; 3 has no services `listen` and `trust`."""
MAX_PAYLOAD_BYTES = 256 * 1024
WINDOW_BYTES = 512 * 1024

HELLO, OPEN, DATA, MESSAGE, END, CREDIT, RESET = range(1, 8)

_HEADER = struct.Struct(">IBI")
_CREDIT = struct.Struct(">I")

Frame = Tuple[int, int, bytes]
"""(kind, stream, payload)"""


class FrameError(Exception):
    """The other end does not speak this protocol. Nothing that follows can be read."""


def encode(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame. Raises `FrameError` if the payload is too large: split DATA before, keep JSON small."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise FrameError(f"a payload of {len(payload)} bytes does not fit into a frame")
    return _HEADER.pack(len(payload), kind, stream) + payload


def encode_json(kind: int, stream: int, value: Dict[str, Any]) -> bytes:
    """One frame with a JSON object."""
    return encode(kind, stream, json.dumps(value, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def encode_credit(stream: int, taken_bytes: int) -> bytes:
    """Gives the sender of `stream` room for so many more bytes."""
    return encode(CREDIT, stream, _CREDIT.pack(taken_bytes))


def decode_credit(payload: bytes) -> int:
    """Bytes of room from a CREDIT payload. Raises `FrameError` if it is none."""
    if len(payload) != _CREDIT.size:
        raise FrameError("a CREDIT frame carries 4 bytes")
    return int(_CREDIT.unpack(payload)[0])


def decode_json(payload: bytes) -> Dict[str, Any]:
    """The JSON object of a payload. Raises `FrameError` if it is none."""
    try:
        value = json.loads(payload.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FrameError("not a JSON object")
    return value


class Decoder:
    """Cuts a byte stream into frames, whatever pieces it arrives in."""

    def __init__(self) -> None:
        self._begun = bytearray()
        """The first bytes of a frame whose others have not come."""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`. Consume the iterator before the next call.

        Raises:
            FrameError: a header is impossible; the stream must be given up.
        """
        rest = memoryview(data)
        try:
            if self._begun:
                # Only what this one frame lacks goes through the buffer: bulk is copied once, into its payload.
                rest = self._add(rest, _HEADER.size)
                if len(self._begun) < _HEADER.size:
                    return
                length, kind, stream = _read_header(self._begun)
                rest = self._add(rest, _HEADER.size + length)
                if len(self._begun) < _HEADER.size + length:
                    return
                payload = bytes(memoryview(self._begun)[_HEADER.size :])
                self._begun = bytearray()
                yield kind, stream, payload
            while len(rest) >= _HEADER.size:
                length, kind, stream = _read_header(rest)
                end = _HEADER.size + length
                if len(rest) < end:
                    return
                payload = bytes(rest[_HEADER.size : end])
                rest = rest[end:]
                yield kind, stream, payload
        finally:
            self._begun += rest

    def _add(self, rest: memoryview, wanted_bytes: int) -> memoryview:
        """Makes the begun frame so long if `rest` is enough; what is left of `rest`."""
        missing_bytes = max(0, wanted_bytes - len(self._begun))
        self._begun += rest[:missing_bytes]
        return rest[missing_bytes:]


def _read_header(buffer: "bytearray | memoryview") -> "tuple[int, int, int]":
    length, kind, stream = _HEADER.unpack_from(buffer)
    if length > MAX_PAYLOAD_BYTES or not HELLO <= kind <= RESET:
        raise FrameError(f"impossible frame: kind {kind}, {length} bytes")
    return length, kind, stream
