from __future__ import annotations

import base64

import pytest

from orchestrator.policy.injection import Swaps
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
