"""The guest's end of the link: accepts bridges, keeps streams, frames and flow control (design 4.2).

A bridge connects to the Unix socket and hands over two descriptors; an orchestrator on the same machine connects to it
itself, and that connection is the link. The orchestrator speaks first: HELLO with the
generation of its lease. A lower generation than any seen before is refused; an equal or higher one replaces the link
that was there.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Any, Callable, Dict, Optional

from .frames import (
    CREDIT,
    DATA,
    END,
    HELLO,
    MAX_PAYLOAD_BYTES,
    MESSAGE,
    OLDEST_PROTOCOL,
    OPEN,
    PROTOCOL,
    RESET,
    WINDOW_BYTES,
    Decoder,
    FrameError,
    decode_credit,
    decode_json,
    encode,
    encode_credit,
    encode_json,
)
from .reactor import Reactor

_STREAMS_LIMIT = 1024
_DIRECT = b"\1"
"""The first byte of a connection that is a link itself; a bridge sends another."""
_READ_BYTES = 256 * 1024


class Stream:
    """One stream of a link. Whoever serves it sets the callbacks. Any write may end it: the link may be broken."""

    def __init__(self, link: "Link", number: int) -> None:
        self.number = number
        self.room_bytes = WINDOW_BYTES
        self.on_data: Callable[[bytes], None] = lambda data: self.take(len(data))
        self.on_end: Callable[[], None] = lambda: None
        self.on_message: Callable[[Dict[str, Any]], None] = lambda _message: None
        self.on_credit: Callable[[], None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None
        """The stream is over: reset, or its link is gone. Calls go on all the same."""
        self.expected_bytes = WINDOW_BYTES
        self._link: Optional[Link] = link

    @property
    def is_open(self) -> bool:
        return self._link is not None

    def send(self, data: bytes) -> int:
        """Sends what there is room for and returns how many bytes that were."""
        if self._link is None:
            return len(data)
        piece = data[: min(self.room_bytes, MAX_PAYLOAD_BYTES)]
        self.room_bytes -= len(piece)
        self._link.write(encode(DATA, self.number, piece))
        return len(piece)

    def send_message(self, message: Dict[str, Any]) -> None:
        if self._link is not None:
            self._link.write(encode_json(MESSAGE, self.number, message))

    def take(self, taken_bytes: int) -> None:
        """Lets the other end send so much more."""
        if self._link is not None and taken_bytes:
            self.expected_bytes += taken_bytes
            self._link.write(encode_credit(self.number, taken_bytes))

    def end(self) -> None:
        """Sends END; the stream is forgotten, since most services answer last."""
        self.end_sending()
        self.drop()

    def end_sending(self) -> None:
        """Sends END; what the other end still sends is taken. `drop` the stream when that has ended, too."""
        if self._link is not None:
            self._link.write(encode(END, self.number))

    def drop(self) -> None:
        """Forgets the stream: both ends have said END."""
        if self._link is not None:
            self._link.drop(self)

    def reset(self, code: str, message: str) -> None:
        link = self._link
        if link is not None:
            link.write(encode_json(RESET, self.number, {"code": code, "message": message}))
            link.drop(self)

    def closed(self) -> None:
        """Called by the link when the stream is over."""
        if self._link is not None:
            self._link = None
            self.on_close()


class Link:
    """One connection to the orchestrator over two descriptors, which it owns."""

    def __init__(self, listener: "Listener", reactor: Reactor, incoming: int, outgoing: int) -> None:
        self.generation = -1
        self._listener = listener
        self._reactor = reactor
        self._incoming = incoming
        self._outgoing = outgoing
        self._decoder = Decoder()
        self._streams: Dict[int, Stream] = {}
        self._unsent = bytearray()
        self._is_open = True
        self._is_ending = False
        for fd in (incoming, outgoing):
            os.set_blocking(fd, False)
        reactor.watch(incoming, self._read)

    def write(self, frame: bytes) -> None:
        """Queues a frame; credit bounds what can pile up."""
        if not self._is_open or self._is_ending:
            return
        if self._unsent:
            self._unsent += frame
            return
        try:
            written_bytes = os.write(self._outgoing, frame)
        except BlockingIOError:
            written_bytes = 0
        except OSError:
            self.close()
            return
        if written_bytes < len(frame):
            self._unsent += memoryview(frame)[written_bytes:]
            self._reactor.watch(self._outgoing, on_writable=self._flush)

    def drop(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)
        stream.closed()

    def dismiss(self, code: str, message: str, **more: int) -> None:
        """Ends the link as soon as what was sent before is out, and says why. Calls go on.

        An end of file says nothing where the container's init holds the other half of the first link's pipe, too.
        """
        if not self._is_open:
            return
        self._reactor.forget(self._incoming)
        self._drop_all()
        self.write(encode_json(RESET, 0, {"code": code, "message": message, **more}))
        self._is_ending = True
        if not self._unsent:
            self.close()

    def close(self) -> None:
        """Ends the link at once. Calls go on."""
        if not self._is_open:
            return
        self._is_open = False
        for fd in (self._incoming, self._outgoing):
            self._reactor.forget(fd)
            os.close(fd)
        self._drop_all()
        self._listener.link_closed(self)

    def _drop_all(self) -> None:
        for stream in list(self._streams.values()):
            self.drop(stream)

    def _flush(self) -> None:
        try:
            while self._unsent:
                written = os.write(self._outgoing, self._unsent[:_READ_BYTES])
                del self._unsent[:written]
        except BlockingIOError:
            self._reactor.watch(self._outgoing, on_writable=self._flush)
            return
        except OSError:
            self.close()
            return
        self._reactor.forget(self._outgoing)
        if self._is_ending:
            self.close()

    def _read(self) -> None:
        try:
            data = os.read(self._incoming, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for kind, number, payload in self._decoder.feed(data):
                self._take(kind, number, payload)
                if not self._is_open or self._is_ending:
                    return
        except FrameError as error:
            self.dismiss("protocol", str(error))

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if self.generation < 0:
            if kind != HELLO:
                raise FrameError("HELLO comes first")
            self._greet(decode_json(payload))
            return
        if kind == OPEN:
            self._open(number, decode_json(payload))
            return
        stream = self._streams.get(number)
        if stream is None:
            return  # frames that crossed our END or RESET
        try:
            self._tell(stream, kind, payload)
        except OSError as error:
            stream.reset("failed", f"the guest cannot do it now: {error.strerror}")

    def _tell(self, stream: Stream, kind: int, payload: bytes) -> None:
        if kind == DATA:
            stream.expected_bytes -= len(payload)
            if stream.expected_bytes < 0:
                raise FrameError("DATA without credit")
            stream.on_data(payload)
        elif kind == MESSAGE:
            stream.on_message(decode_json(payload))
        elif kind == END:
            stream.on_end()
        elif kind == CREDIT:
            stream.room_bytes += decode_credit(payload)
            stream.on_credit()
        elif kind == RESET:
            self.drop(stream)

    def _greet(self, hello: Dict[str, Any]) -> None:
        protocol, generation = hello.get("protocol"), hello.get("generation")
        if not isinstance(protocol, int) or not OLDEST_PROTOCOL <= protocol <= PROTOCOL:
            raise FrameError("another protocol")
        if not isinstance(generation, int) or generation < 0:
            raise FrameError("no generation")
        newest = self._listener.admit(self, generation)
        if newest > generation:
            self.dismiss("stale", "a newer generation holds this sandbox", generation=newest)
            return
        self.generation = generation
        self.write(encode_json(HELLO, 0, self._listener.hello(generation)))

    def _open(self, number: int, request: Dict[str, Any]) -> None:
        if number in self._streams or number % 2 == 0:
            raise FrameError("this stream number cannot be opened")
        stream = Stream(self, number)
        self._streams[number] = stream
        if len(self._streams) > _STREAMS_LIMIT:
            stream.reset("too_many_streams", f"at most {_STREAMS_LIMIT} streams at once")
            return
        self._listener.serve(stream, request)


class Listener:
    """Waits for bridges on a Unix socket that only root can reach."""

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        serve: Callable[[Stream, Dict[str, Any]], None],
        greeting: Callable[[], Dict[str, Any]],
    ) -> None:
        self.serve = serve
        self._reactor = reactor
        self._greeting = greeting
        self._generation = -1
        self._link: Optional[Link] = None
        self._bridges: Dict[int, socket.socket] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        os.chmod(path, 0o600)
        self._socket.listen(8)
        reactor.watch(self._socket.fileno(), self._accept)

    def admit(self, link: Link, generation: int) -> int:
        """Makes `link` the one that commands, unless its generation is an old one; the generation that commands now."""
        if generation < self._generation:
            return self._generation
        self._generation = generation
        older, self._link = self._link, link
        if older is not None:
            older.dismiss("replaced", "another link took this one's place")
        return generation

    def hello(self, generation: int) -> Dict[str, Any]:
        return dict(self._greeting(), protocol=PROTOCOL, generation=generation)

    def link_closed(self, link: Link) -> None:
        """Lets the link's bridge end, and so the attached process in the engine."""
        if self._link is link:
            self._link = None
        bridge = self._bridges.pop(id(link), None)
        if bridge is not None:
            bridge.close()

    def _accept(self) -> None:
        bridge, _ = self._socket.accept()
        bridge.settimeout(1.0)
        try:
            space = socket.CMSG_SPACE(2 * array.array("i").itemsize)
            greeting, ancillary, _, _ = bridge.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            greeting, ancillary = b"", []
        if greeting == _DIRECT:
            outgoing = os.dup(bridge.fileno())
            Link(self, self._reactor, bridge.detach(), outgoing)
            return
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content)
        if len(descriptors) != 2:
            bridge.close()
            for descriptor in descriptors:
                os.close(descriptor)
            return
        link = Link(self, self._reactor, descriptors[0], descriptors[1])
        self._bridges[id(link)] = bridge
