from __future__ import annotations

import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.guest.frames import (
    CREDIT,
    DATA,
    END,
    HELLO,
    MAX_PAYLOAD_BYTES,
    MESSAGE,
    OPEN,
    RESET,
    Decoder,
    Frame,
    FrameError,
    decode_credit,
    decode_json,
    encode,
    encode_credit,
    encode_json,
)

frames = st.tuples(st.integers(HELLO, RESET), st.integers(0, 2**32 - 1), st.binary(max_size=300))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(each % (len(data) + 1) for each in at)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_frames(wanted: list[Frame], at: list[int]) -> None:
    data = b"".join(encode(*frame) for frame in wanted)
    decoder = Decoder()
    assert [frame for piece in cut(data, at) for frame in decoder.feed(piece)] == wanted


@given(st.lists(frames, min_size=1, max_size=4))
def test_byte_by_byte(wanted: list[Frame]) -> None:
    decoder = Decoder()
    data = b"".join(encode(*frame) for frame in wanted)
    assert [frame for byte in data for frame in decoder.feed(bytes([byte]))] == wanted


def test_a_frame_is_there_with_its_last_byte_and_not_before() -> None:
    data = encode(DATA, 5, b"abc")
    decoder = Decoder()
    assert list(decoder.feed(data[:-1])) == []
    assert list(decoder.feed(data[-1:])) == [(DATA, 5, b"abc")]


def test_what_was_decoded_before_a_garbage_header_is_not_lost() -> None:
    decoder = Decoder()
    feeding = decoder.feed(encode(DATA, 1, b"good") + b"\xff" * 9)
    assert next(feeding) == (DATA, 1, b"good")
    with pytest.raises(FrameError):
        next(feeding)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">IBI", 0, 0, 1),
        struct.pack(">IBI", 0, RESET + 1, 1),
        struct.pack(">IBI", 0, 255, 1),
        struct.pack(">IBI", MAX_PAYLOAD_BYTES + 1, DATA, 1),
        struct.pack(">IBI", 2**32 - 1, DATA, 1),
    ],
)
def test_impossible_headers_are_refused_before_their_payload_comes(header: bytes) -> None:
    with pytest.raises(FrameError):
        list(Decoder().feed(header))


@given(st.binary(min_size=9, max_size=400))
def test_garbage_is_refused_or_waits_and_never_yields_more_than_came(data: bytes) -> None:
    decoder = Decoder()
    try:
        found = list(decoder.feed(data))
    except FrameError:
        return
    assert sum(9 + len(payload) for _, _, payload in found) <= len(data)


def test_the_largest_payload_fits_and_one_byte_more_does_not() -> None:
    payload = b"x" * MAX_PAYLOAD_BYTES
    assert list(Decoder().feed(encode(DATA, 1, payload))) == [(DATA, 1, payload)]
    with pytest.raises(FrameError):
        encode(DATA, 1, payload + b"x")
    with pytest.raises(FrameError):
        encode_json(OPEN, 1, {"text": "x" * MAX_PAYLOAD_BYTES})


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none())))
def test_json_comes_back(value: dict[str, object]) -> None:
    ((kind, stream, payload),) = Decoder().feed(encode_json(MESSAGE, 3, value))
    assert (kind, stream) == (MESSAGE, 3)
    assert decode_json(payload) == value


def test_names_that_are_not_utf8_come_back() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    ((_, _, payload),) = Decoder().feed(encode_json(MESSAGE, 3, {"path": name}))
    assert decode_json(payload) == {"path": name}


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'"text"', b"1", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000]
)
def test_what_is_not_a_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decode_json(payload)


@given(st.integers(0, 2**32 - 1))
def test_credit_comes_back(count: int) -> None:
    ((kind, stream, payload),) = Decoder().feed(encode_credit(9, count))
    assert (kind, stream, decode_credit(payload)) == (CREDIT, 9, count)


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\0\0", json.dumps({}).encode()])
def test_other_credit_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decode_credit(payload)


def test_end_has_no_payload() -> None:
    assert encode(END, 7) == struct.pack(">IBI", 0, END, 7)
