"""The real guest as a plain process, and a client that speaks its frames without the orchestrator's link."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.guest.frames import (
    CREDIT,
    DATA,
    END,
    HELLO,
    MAX_PAYLOAD_BYTES,
    MESSAGE,
    OPEN,
    PROTOCOL,
    RESET,
    Decoder,
    Frame,
    decode_credit,
    decode_json,
    encode,
    encode_credit,
    encode_json,
)
from orchestrator.sandboxes.driver import SandboxSpec
from tests.fakes.local_driver import IMAGE, LocalDriver, start_bridge


@dataclass
class Reply:
    """All that came on one stream."""

    data: bytes
    messages: list[dict[str, Any]]
    reset: dict[str, Any] | None

    @property
    def outcome(self) -> dict[str, Any]:
        assert self.reset is None, self.reset
        assert len(self.messages) == 1
        return self.messages[0]


class Client:
    """One link. Blocking, with a time limit."""

    def __init__(self, folder: Path, generation: int = 1) -> None:
        self._socket = start_bridge(folder)
        self._socket.settimeout(10)
        self._decoder = Decoder()
        self._waiting: list[Frame] = []
        self._next = 1
        self.credit: dict[int, int] = {}
        self.send(encode_json(HELLO, 0, {"protocol": PROTOCOL, "generation": generation}))

    def hello(self) -> dict[str, Any]:
        kind, _, payload = self.frame()
        assert kind == HELLO
        return decode_json(payload)

    def send(self, frames: bytes) -> None:
        self._socket.sendall(frames)

    def frame(self) -> Frame:
        """The next frame. Raises `EOFError` when the guest closes the link."""
        while not self._waiting:
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._waiting += self._decoder.feed(data)
        kind, stream, payload = self._waiting.pop(0)
        if kind == CREDIT:
            self.credit[stream] = self.credit.get(stream, 0) + decode_credit(payload)
        return kind, stream, payload

    def open(self, service: str, **request: Any) -> int:
        stream, self._next = self._next, self._next + 2
        self.send(encode_json(OPEN, stream, {"service": service, **request}))
        return stream

    def input(self, stream: int, data: bytes, *, is_all: bool = True) -> None:
        """Sends without heed to credit: no more than a window."""
        for start in range(0, len(data), MAX_PAYLOAD_BYTES):
            self.send(encode(DATA, stream, data[start : start + MAX_PAYLOAD_BYTES]))
        if is_all:
            self.send(encode(END, stream))

    def reply(self, stream: int) -> Reply:
        """Reads until the stream is over; other streams' frames are dropped."""
        reply = Reply(b"", [], None)
        while True:
            kind, number, payload = self.frame()
            if number != stream:
                continue
            if kind == DATA:
                reply.data += payload
                self.send(encode_credit(stream, len(payload)))
            elif kind == MESSAGE:
                reply.messages.append(decode_json(payload))
            elif kind == RESET:
                reply.reset = decode_json(payload)
                return reply
            elif kind == END:
                return reply

    def run(self, call: str, *argv: str, stdin: bytes | None = None, **request: Any) -> Reply:
        """A process to its end."""
        stream = self.open(
            "exec", **{"call": call, "argv": argv, "timeout_s": 10, "input": stdin is not None, **request}
        )
        if stdin is not None:
            self.input(stream, stdin)
        return self.reply(stream)

    def bash(self, call: str, code: str, **request: Any) -> Reply:
        return self.run(call, "bash", "-c", code, **request)

    def cell(self, call: str, code: str, **request: Any) -> Reply:
        stream = self.open("cell", **{"call": call, "timeout_s": 10, **request})
        self.input(stream, code.encode())
        return self.reply(stream)

    def file(self, call: str, operation: str, content: bytes | None = None, **arguments: Any) -> Reply:
        request = {"operation": operation, "arguments": arguments, "timeout_s": 10, "input": content is not None}
        stream = self.open("file", call=call, **request)
        if content is not None:
            self.input(stream, content)
        return self.reply(stream)

    def cancel(self, stream: int) -> None:
        self.send(encode_json(MESSAGE, stream, {"stop": "cancelled"}))

    def close(self) -> None:
        self._socket.close()


class Guest:
    """A running guest. Its working directory is `workspace`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self._clients: list[Client] = []

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def connect(self, generation: int = 1) -> Client:
        client = Client(self.folder, generation)
        self._clients.append(client)
        return client

    def greeted(self, generation: int = 1) -> Client:
        client = self.connect(generation)
        client.hello()
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()

    @property
    def log(self) -> str:
        return (self.folder / "guest.log").read_text()


async def _create(driver: LocalDriver) -> str:
    refs = [ref async for ref in driver.create(SandboxSpec("guest", IMAGE))]
    return refs[-1].token


@contextmanager
def running_guest(driver: LocalDriver) -> Iterator[Guest]:
    """A guest of its own; whatever happens in it, it must not have complained at the end."""
    guest = Guest(Path(asyncio.run(_create(driver))))
    try:
        yield guest
        assert guest.log == ""
    finally:
        guest.close()
        driver.kill_all()


@pytest.fixture
def guest(short_path: Path) -> Iterator[Guest]:
    with running_guest(LocalDriver(short_path)) as guest:
        yield guest


@pytest.fixture
def client(guest: Guest) -> Client:
    return guest.greeted()
