"""The name in the first message of TLS: from Python's own client, cut anywhere, and from those who lie."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.egress.hello import IncompleteError, server_name


def hello(name: str | None) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


HELLO = hello("a.example.com")


def test_the_name_is_found() -> None:
    assert server_name(HELLO) == "a.example.com"
    assert server_name(HELLO + b"more") == "a.example.com"
    assert server_name(hello(None)) is None


@given(st.integers(0, len(HELLO) - 1))
def test_less_than_all_of_it_is_not_enough(size: int) -> None:
    with pytest.raises(IncompleteError):
        server_name(HELLO[:size])


@given(st.integers(1, 60))
def test_however_it_is_cut_into_records_the_name_is_the_same(piece: int) -> None:
    message = HELLO[5:]
    cut = [message[start : start + piece] for start in range(0, len(message), piece)]
    records = b"".join(b"\x16\x03\x01" + len(each).to_bytes(2, "big") + each for each in cut)
    assert server_name(records) == "a.example.com"


@given(st.binary(max_size=600))
def test_anything_else_is_no_name_or_an_error_and_never_another_one(data: bytes) -> None:
    for given_ in (data, b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data, HELLO[:40] + data):
        with contextlib.suppress(IncompleteError, ValueError):
            assert server_name(given_) in (None, "a.example.com")


def test_two_names_are_none() -> None:
    name = b"\x00\x00" + (7).to_bytes(2, "big") + b"\x00\x05\x00\x00\x02ab"
    for extensions in (name * 2, b"\x00\x00\x00\x0c\x00\x0a\x00\x00\x02ab\x00\x00\x02cd"):
        body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
        body += len(extensions).to_bytes(2, "big") + extensions
        message = b"\x01" + len(body).to_bytes(3, "big") + body
        with pytest.raises(ValueError, match="two names"):
            server_name(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\n", b"\x17\x03\x03\x00\x01x", b"\x16\x02\x00\x00\x01x"]
)
def test_other_protocols_ask_for_no_name(data: bytes) -> None:
    assert server_name(data) is None
