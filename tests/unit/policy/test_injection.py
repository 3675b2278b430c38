from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.injection import Scan, Swaps
from orchestrator.policy.network import Refusal
from orchestrator.policy.secrets import VariableSecret

HELD = b"__GEMINI_CRED_crm-token__"
VALUE = "canary &?=/%"


def swaps(host: str = "api.crm.test", *, value: str = VALUE, locations: tuple[str, ...] = ("header", "query")) -> Swaps:
    return Swaps(
        host, {"crm-token": VariableSecret("crm-token", value, frozenset(locations), ("crm.test", "*.crm.test"))}
    )


def refusal(made: object) -> str:
    assert isinstance(made, Refusal)
    assert "canary" not in repr(made)
    return made.reason


def test_it_is_swapped_where_it_may_be() -> None:
    made = swaps().rewrite(b"/a?k=" + HELD + b"&x=1", [(b"X-Key", b"a " + HELD), (b"Accept", b"*/*")])
    assert made == (b"/a?k=canary%20%26%3F%3D%2F%25&x=1", [(b"X-Key", b"a canary &?=/%"), (b"Accept", b"*/*")])


def test_it_is_swapped_in_a_password() -> None:
    sent = b"Basic " + base64.b64encode(b"user:" + HELD)
    made = swaps().rewrite(b"/", [(b"authorization", sent)])
    assert made == (b"/", [(b"authorization", b"Basic " + base64.b64encode(b"user:" + VALUE.encode()))])


@pytest.mark.parametrize("host", ["evil.test", "crm.test.evil.test", "evilcrm.test", "10.0.0.1"])
@pytest.mark.parametrize("password", [False, True])
def test_n8_it_goes_to_nobody_else(host: str, password: bool) -> None:
    sent = b"Basic " + base64.b64encode(HELD) if password else HELD
    assert "does not trust" in refusal(swaps(host).rewrite(b"/", [(b"X-Key", sent)]))
    assert "does not trust" in refusal(swaps(host).rewrite(b"/?" + HELD, []))


def test_only_where_it_is_allowed() -> None:
    assert "the header" in refusal(swaps(locations=("query",)).rewrite(b"/", [(b"X-Key", HELD)]))
    assert "the query" in refusal(swaps(locations=("header", "body")).rewrite(b"/?" + HELD, []))
    assert "path" in refusal(swaps().rewrite(b"/" + HELD, []))
    assert "path" in refusal(swaps().rewrite(b"/" + HELD.replace(b"-", b"%2d"), []))
    assert "encoded" in refusal(swaps().rewrite(b"/?k=" + HELD.replace(b"_", b"%5F"), []))
    assert "name of a header" in refusal(swaps().rewrite(b"/", [(HELD, b"x")]))


def test_n8_of_another_environment_or_of_nobody() -> None:
    assert "no variable" in refusal(Swaps("api.crm.test").rewrite(b"/", [(b"X-Key", HELD)]))
    assert "no variable" in refusal(swaps().rewrite(b"/", [(b"X-Key", b"__GEMINI_CRED_other__")]))


@pytest.mark.parametrize("value", ["canary\r\nX: y", "canary\0", "canary\n"])
def test_no_line_breaks_go_in(value: str) -> None:
    assert "line breaks" in refusal(swaps(value=value).rewrite(b"/", [(b"X-Key", HELD)]))


def test_what_cannot_be_in_a_header_is_refused() -> None:
    assert "cannot be sent" in refusal(swaps(value="canary\u20ac").rewrite(b"/", [(b"X-Key", HELD)]))


def test_secrets_are_not_shown() -> None:
    assert "canary" not in repr(swaps())


def body_of(content_type: str, body: bytes, **fields: str) -> bytes | Refusal:
    return swaps(locations=("body",), **fields).rewrite_body(content_type, body)


def test_in_a_body_it_is_written_as_the_type_wants_it() -> None:
    assert body_of("application/json", b'{"k": "' + HELD + b'"}', value='a"\\\n'.strip()) == b'{"k": "a\\"\\\\"}'
    assert body_of("application/vnd.api+json; charset=utf-8", HELD) == b"canary &?=/%"
    assert body_of("Application/X-WWW-Form-Urlencoded", b"k=" + HELD) == b"k=canary+%26%3F%3D%2F%25"
    assert body_of("text/xml", b"<k>" + HELD + b"</k>") == b"<k>canary &?=/%</k>"


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "multipart/form-data; boundary=x", "image/png"])
def test_in_a_body_that_nobody_can_write_into_it_is_refused(kind: str) -> None:
    assert "in a body of type" in refusal(body_of(kind, b"x" + HELD))
    assert body_of(kind, b"nothing of it") == b"nothing of it"


def test_n8_not_in_the_body_of_others() -> None:
    assert "does not trust" in refusal(swaps("evil.test", locations=("body",)).rewrite_body("text/plain", HELD))
    assert "may not be in the body" in refusal(swaps().rewrite_body("text/plain", HELD))
    assert swaps(locations=("body",)).may_be_in_body
    assert not swaps("evil.test", locations=("body",)).may_be_in_body
    assert not swaps().may_be_in_body


def test_one_that_cannot_be_had_says_why_and_others_are_swapped() -> None:
    both = swaps()
    both.secrets = {**both.secrets, "gone": Refusal("credential 'gone' is revoked")}
    assert "is revoked" in refusal(both.rewrite(b"/", [(b"X", b"__GEMINI_CRED_gone__")]))
    assert both.rewrite(b"/", [(b"X", HELD)]) == (b"/", [(b"X", VALUE.encode())])
    assert list(both.used) == ["crm-token"]


@given(st.lists(st.integers(0, 400), max_size=5))
def test_a_scan_finds_one_over_any_pieces(cuts: list[int]) -> None:
    body = b"x" * 180 + HELD + b"y" * 180
    ends = sorted(min(cut, len(body)) for cut in cuts)
    scan = Scan()
    assert any([scan.finds(body[a:b]) for a, b in zip([0, *ends], [*ends, len(body)], strict=True)])
    clean = Scan()
    assert not any([clean.finds(piece) for piece in (b"__GEMINI_CRED_", b" x__", b"y" * 500)])
