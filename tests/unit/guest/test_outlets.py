"""The sandbox's way out, inside: a listener whose connections are given to streams that wait."""

from __future__ import annotations

import functools
import socket

from tests.unit.guest.conftest import Client, Guest
from tests.unit.guest.streams import Talk


def outlet_port(client: Client, call: str = "port") -> int:
    return int(client.bash(call, "echo ${http_proxy##*:}").data)


def connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.settimeout(10)
    return connection


def taken(talk: Talk) -> Talk:
    talk.until(lambda: talk.messages)
    assert isinstance(talk.messages[0]["accepted"], int)
    return talk


def test_nothing_listens_and_no_variable_is_set_before_it_is_asked_for(client: Client) -> None:
    assert client.bash("c", "env | grep -ic proxy").data == b"0\n"


def test_whoever_waits_gets_the_next_connection(client: Client) -> None:
    first, second = Talk(client, "accept", port=0), Talk(client, "accept", port=0)
    port = outlet_port(client)
    with connected(port) as one:
        one.sendall(b"one")
        taken(first).until_data(b"one")
        with connected(port) as other:
            other.sendall(b"other")
            taken(second).until_data(b"other")
        first.send(b"answer")
        assert one.recv(100) == b"answer"
        first.end()
        assert one.recv(100) == b""
        one.sendall(b" and more")
        one.shutdown(socket.SHUT_WR)
        assert first.until_end() == b"one and more"
        assert first.reset is None


def test_a_connection_waits_until_somebody_takes_it(client: Client) -> None:
    port = _port_with_nobody_waiting(client)
    with connected(port) as waiting:
        waiting.sendall(b"early")
        assert client.bash("c", "echo meanwhile").data == b"meanwhile\n"
        taken(Talk(client, "accept", port=0)).until_data(b"early")


def _port_with_nobody_waiting(client: Client) -> int:
    talk = Talk(client, "accept", port=0)
    port = outlet_port(client)
    talk.close()
    return port


def test_the_next_link_takes_connections_on_the_same_port(guest: Guest) -> None:
    older = guest.greeted()
    Talk(older, "accept", port=0)
    port = outlet_port(older)
    with connected(port) as cut:
        cut.sendall(b"x")
        newer = guest.greeted()
        # It was given to a stream of the older link, or is given to the first one of this.
        talk = Talk(newer, "accept", port=0)
        assert outlet_port(newer, "again") == port
        with connected(port) as fresh:
            fresh.sendall(b"fresh")
            another = Talk(newer, "accept", port=0)
            for each in (talk, another):
                taken(each)
                each.until(functools.partial(_is_one_of, each, b"x", b"fresh"))
                if each.data == b"fresh":
                    return
        raise AssertionError("nobody got the fresh connection")


def _is_one_of(talk: Talk, *expected: bytes) -> bool:
    return talk.data in expected


def test_what_breaks_off_outside_breaks_off_inside(client: Client) -> None:
    talk = Talk(client, "accept", port=0)
    with connected(outlet_port(client)) as connection:
        taken(talk).close()
        assert connection.recv(100) == b""


def test_bytes_before_a_connection_are_a_mistake(client: Client) -> None:
    talk = Talk(client, "accept", port=0)
    talk.send(b"early")
    talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == "bad_request"
    assert client.bash("c", "echo fine").data == b"fine\n"


def test_a_port_that_is_taken_is_said(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken_port:
        talk = Talk(client, "accept", port=taken_port.getsockname()[1])
        talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == "failed"
    assert client.bash("c", "env | grep -ic proxy").data == b"0\n"


def test_it_listens_before_anybody_waits_and_again_is_the_same(client: Client) -> None:
    ports = []
    for call in ("one", "two"):
        talk = Talk(client, "listen", port=0)
        talk.until_end()
        assert talk.messages == [{}]
        ports.append(outlet_port(client, call))
    assert ports[0] == ports[1]
    with connected(ports[0]) as connection:
        connection.sendall(b"early")
        taken(Talk(client, "accept", port=0)).until_data(b"early")


def test_a_port_that_is_taken_is_said_at_once(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken_port:
        talk = Talk(client, "listen", port=taken_port.getsockname()[1])
        talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == "failed"
