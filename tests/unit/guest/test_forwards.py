"""Connections into the sandbox, from outside."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.guest import forwards
from orchestrator.guest.frames import WINDOW_BYTES
from tests.unit.guest.conftest import Client, Guest
from tests.unit.guest.streams import Talk
from tests.unit.guest.test_services import eventually

Serve = Callable[[socket.socket], object]


class Listening:
    """Serves each connection in a thread of its own."""

    def __init__(self, host: str, serve: Serve) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.bind((host, 0))
        self._socket.listen()
        self.port: int = self._socket.getsockname()[1]
        self._serve = serve
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for each in self.connections:
            each.close()


@pytest.fixture
def listening() -> Iterator[Callable[..., Listening]]:
    made: list[Listening] = []

    def start(serve: Serve, host: str = "127.0.0.1") -> Listening:
        made.append(Listening(host, serve))
        return made[-1]

    yield start
    for each in made:
        each.close()


def echo(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the test is over
        while data := connection.recv(1 << 16):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def connected(client: Client, port: int, **request: Any) -> Talk:
    talk = Talk(client, "connect", port=port, **request)
    talk.until(lambda: talk.messages)
    assert talk.messages == [{"connected": request.get("host") or "127.0.0.1"}]
    return talk


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_bytes_go_both_ways_and_both_ends_end(client: Client, listening: Callable[..., Listening]) -> None:
    talk = connected(client, listening(echo).port)
    talk.send(b"hello")
    talk.until_data(b"hello")
    talk.end()
    assert talk.until_end() == b"hello"
    assert talk.reset is None


def test_who_has_ended_still_gets_the_answer(client: Client, listening: Callable[..., Listening]) -> None:
    def answer_at_the_end(connection: socket.socket) -> None:
        heard = b""
        while data := connection.recv(1 << 16):
            heard += data
        connection.sendall(b"%d bytes" % len(heard))
        connection.close()

    talk = connected(client, listening(answer_at_the_end).port)
    talk.send(bytes(200_000))
    talk.end()
    assert talk.until_end() == b"200000 bytes"


def test_who_was_told_the_end_still_may_speak(client: Client, listening: Callable[..., Listening]) -> None:
    heard: list[bytes] = []

    def speak_first(connection: socket.socket) -> None:
        connection.sendall(b"done")
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        while data := connection.recv(1 << 16):
            heard.append(data)

    talk = connected(client, listening(speak_first).port)
    assert talk.until_end() == b"done"
    for _ in range(2):
        talk.send(b"x" * 200_000)
    talk.end()
    eventually(lambda: sum(map(len, heard)) == 400_000)


def test_it_is_as_fast_as_the_slower_end(client: Client, listening: Callable[..., Listening]) -> None:
    def pour(connection: socket.socket) -> None:
        connection.sendall(bytes(3_000_000))
        connection.close()

    talk = connected(client, listening(pour).port)
    while len(talk.data) < WINDOW_BYTES:
        talk.read(takes=False)
    assert client.bash("c", "echo meanwhile").data == b"meanwhile\n"
    talk.take(WINDOW_BYTES)
    assert talk.until_end() == bytes(3_000_000)


def test_a_listener_on_ipv6_is_found(client: Client, listening: Callable[..., Listening]) -> None:
    port = listening(echo, "::1").port
    talk = Talk(client, "connect", port=port)
    talk.until(lambda: talk.messages)
    assert talk.messages == [{"connected": "::1"}]
    refused = Talk(client, "connect", port=port, host="127.0.0.1")
    refused.until_end()
    assert refused.messages[0]["error"]["code"] == "refused"


def test_nobody_listens(client: Client) -> None:
    port = free_port()
    talk = Talk(client, "connect", port=port)
    talk.until_end()
    assert talk.messages == [{"error": {"code": "refused", "message": f"port {port}: Connection refused"}}]


def test_nobody_accepts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of a listener that never accepts is full: silence."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        talk = Talk(client, "connect", port=address[1])
        client._socket.settimeout(forwards._CONNECT_TIMEOUT_S + 2)
        talk.until_end()
        for each in waiting:
            each.close()
    assert talk.messages[0]["error"]["code"] == "timeout"


def test_a_broken_connection_is_no_end(client: Client, listening: Callable[..., Listening]) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    talk = connected(client, listening(break_off).port)
    talk.send(b"x")
    talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == "reset"


@pytest.mark.parametrize("way", ["reset", "link"])
def test_its_end_closes_the_connection(client: Client, listening: Callable[..., Listening], way: str) -> None:
    ended = threading.Event()

    def wait_for_the_end(connection: socket.socket) -> None:
        connection.recv(1)
        ended.set()

    talk = connected(client, listening(wait_for_the_end).port)
    {"reset": talk.close, "link": client.close}[way]()
    assert ended.wait(5)


@pytest.mark.parametrize(
    "request_",
    [
        {"port": 0},
        {"port": 65536},
        {"port": -1},
        {"port": "x"},
        {},
        {"port": 80, "host": "10.0.0.1"},
        {"port": 80, "host": "localhost"},
        {"port": 80, "host": "/run/corral/guest.sock"},
    ],
)
def test_only_ports_of_loopback(client: Client, request_: dict[str, Any]) -> None:
    talk = Talk(client, "connect", **request_)
    talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == "bad_request"


def test_bytes_before_the_connection_are_a_mistake(client: Client) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            Talk(client, "connect", port=listener.getsockname()[1])
        talk = Talk(client, "connect", port=listener.getsockname()[1])
        talk.send(b"early")
        talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == "bad_request"


def test_many_connections_and_their_limit(guest: Guest, client: Client, listening: Callable[..., Listening]) -> None:
    def descriptors() -> int:
        """Of the guest, without the one for each hand."""
        hands = Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()
        return len(list(Path(f"/proc/{guest.pid}/fd").iterdir())) - len(hands)

    port = listening(echo).port
    connected(client, port).close()
    time.sleep(0.1)
    before = descriptors()
    for _ in range(3):
        talks = [connected(client, port) for _ in range(64)]
        one_more = Talk(client, "connect", port=port)
        one_more.until_end()
        assert one_more.reset is not None
        assert one_more.reset["code"] == "too_many"
        for number, each in enumerate(talks):
            each.send(b"%d" % number)
            each.until_data(b"%d" % number)
            each.end()
            each.until_end()
    eventually(lambda: descriptors() == before)
