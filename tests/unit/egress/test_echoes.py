from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.egress.echoes import Echoes

SECRET = "s3cr3t value/+"


def test_every_form_that_a_server_may_repeat_is_taken_out() -> None:
    echoes = Echoes.of({"Authorization": f"Bearer {SECRET}"}, [])
    for said in (b"Bearer s3cr3t value/+", b"s3cr3t value/+", b"?k=s3cr3t%20value%2F%2B", b"k=s3cr3t+value%2F%2B"):
        assert b"s3cr3t" not in echoes.redacted(said)
    assert echoes.redacted(b"Bearer realm=here") == b"Bearer realm=here", "the scheme is no secret"
    assert SECRET not in repr(echoes)


def test_of_a_password_in_base64_the_password_alone_too() -> None:
    encoded = base64.b64encode(b"user:passw0rd").decode()
    echoes = Echoes.of({"Authorization": f"Basic {encoded}"}, [])
    assert echoes.redacted(f"Basic {encoded}, passw0rd".encode()) == b"[redacted], [redacted]"


def test_what_is_short_is_no_secret() -> None:
    assert not Echoes.of({"X-Tenant": "blue"}, [])
    assert Echoes.of({"X-Tenant": "blue"}, []).redacted(b"blue sky") == b"blue sky"


@given(data=st.data())
def test_a_body_in_any_pieces_keeps_its_length_and_no_secret(data: st.DataObject) -> None:
    echoes = Echoes.of({}, ["aabaab", "abaabaa!"])
    parts = data.draw(st.lists(st.sampled_from([b"aabaab", b"abaabaa!", b"a", b"b", b"aab", b"xyz"]), max_size=12))
    body = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    filter_ = echoes.filter()
    out = b"".join(filter_.feed(piece) for piece in pieces) + filter_.end()
    assert len(out) == len(body)
    assert b"aabaab" not in out
    assert b"abaabaa!" not in out
    assert all(got in (ord("*"), was) for got, was in zip(out, body, strict=True))


@pytest.mark.parametrize("piece", [b"data: one\n\n", b"nothing of it", b""])
def test_what_cannot_be_the_beginning_of_one_does_not_wait(piece: bytes) -> None:
    assert Echoes.of({}, [SECRET]).filter().feed(piece) == piece


def test_what_may_be_the_beginning_waits_until_it_is_none() -> None:
    filter_ = Echoes.of({}, [SECRET]).filter()
    assert filter_.feed(b"x s3cr3t") == b"x "
    assert filter_.feed(b"s of the trade") == b"s3cr3ts of the trade"
    assert filter_.feed(b"s3c") == b""
    assert filter_.end() == b"s3c"
