"""Credentials as they come in: canonical, bounded, and never repeated in what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.wire.credentials import changed, dump_credential, parse_credential
from orchestrator.wire.environments import EnvVar

BEARER: dict[str, Any] = {"type": "bearer_token", "token": "canary-1"}
VARIABLE: dict[str, Any] = {
    "type": "environment_variable",
    "value": "canary-1",
    "injection_location": "header",
    "trusted_domains": ["a.example"],
}
OAUTH: dict[str, Any] = {
    "type": "oauth2",
    "client_id": "me",
    "client_secret": "canary-1",
    "refresh_token": "canary-2",
    "token_url": "https://auth.example/token",
}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (BEARER, {**BEARER, "header_name": "Authorization", "prefix": "Bearer"}),
        (
            {**BEARER, "type": "BEARER_TOKEN", "id": "crm_1", "prefix": "", "header_name": "X-Key"},
            {**BEARER, "id": "crm_1", "prefix": "", "header_name": "X-Key"},
        ),
        (VARIABLE, {**VARIABLE, "injection_location": ["header"]}),
        (
            {**VARIABLE, "injection_location": ["Query", "body", "query"], "trusted_domains": None},
            {"type": "environment_variable", "value": "canary-1", "injection_location": ["query", "body"]},
        ),
        ({**OAUTH, "scopes": ["a", "b"]}, {**OAUTH, "scopes": ["a", "b"]}),
    ],
)
def test_what_is_given_has_one_form(given: dict[str, Any], kept: dict[str, Any]) -> None:
    credential = parse_credential(given)
    assert dump_credential(credential) == kept
    assert parse_credential(kept) == credential
    assert "canary" not in repr(credential)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"token": "x"}, "Missing required parameter 'type'; known credential types: bearer_token, oauth2"),
        ({"type": "basic"}, "Unknown credential type 'basic' at 'type'"),
        ({"type": "bearer_token"}, "Missing required parameter 'token'"),
        ({**BEARER, "token": ""}, "'token': must not be empty"),
        ({**BEARER, "token": "canary\r\nX: y"}, "'token': must not contain line breaks or NUL"),
        ({**BEARER, "token": "canary\N{SNOWMAN}"}, "'token': not a valid HTTP header value"),
        ({**BEARER, "token": " canary"}, "'token': not a valid HTTP header value"),
        ({**BEARER, "token": "canary" * 3000}, "'token': expected at most 16384 characters"),
        ({**BEARER, "token": 5}, "'token': expected a string"),
        ({**BEARER, "header_name": "X Key"}, "'header_name': not a valid name"),
        ({**BEARER, "header_name": "X-Key:"}, "'header_name': not a valid name"),
        ({**BEARER, "header_name": ""}, "'header_name': not a valid name"),
        ({**BEARER, "prefix": "a\nb"}, "'prefix': not a valid HTTP header value"),
        ({**BEARER, "value": "x"}, "Unknown parameter 'value'"),
        ({**VARIABLE, "injection_location": "cookie"}, "'injection_location[0]': expected 'header', 'query' or 'body'"),
        ({**VARIABLE, "injection_location": []}, "'injection_location': must not be empty"),
        ({**VARIABLE, "value": "canary\N{SNOWMAN}"}, "'value': not a valid HTTP header value"),
        ({**VARIABLE, "value": "canary\0"}, "'value': must not contain line breaks or NUL"),
        ({**VARIABLE, "trusted_domains": "a.example"}, "'trusted_domains': expected a list"),
        ({**OAUTH, "scopes": ["a b"]}, "'scopes[0]': not a valid OAuth 2.0 scope"),
        ({**OAUTH, "client_secret": None}, "Missing required parameter 'client_secret'"),
    ],
)
def test_what_is_wrong_is_named_and_not_repeated(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_credential(given)
    assert told in caught.value.message
    assert "canary" not in caught.value.message


@pytest.mark.parametrize(
    "given", ["A", "a__b", "_a", "a_", "-a", "a-", "a" * 64, "", "a b", "credentials/", "credentials/x", "x\n"]
)
def test_ids_that_a_placeholder_could_not_carry_are_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="'id': expected at most 63"):
        parse_credential({**BEARER, "id": given})


@pytest.mark.parametrize("given", ["a", "cred_bearer_123", "crm-token", "a--b", "0" * 63])
def test_ids(given: str) -> None:
    assert parse_credential({**BEARER, "id": given}).id == given
    assert EnvVar(credential=f"credentials/{given}").inside == f"__GEMINI_CRED_{given}__"


def test_a_change_replaces_what_is_given_or_what_the_mask_names() -> None:
    old = parse_credential({**BEARER, "header_name": "X-Key", "prefix": ""})

    def after(body: dict[str, Any], mask: str | None = None) -> dict[str, Any]:
        return dump_credential(changed(old, body, mask))

    was = dump_credential(old)
    assert after({"type": "bearer_token"}) == was
    assert after({"token": "t"}) == {**was, "token": "t"}
    assert after({"token": "t", "prefix": "P"}, "prefix") == {**was, "prefix": "P"}
    assert after({"token": "t"}, "*") == {**was, "token": "t"}
    assert after({"type": "bearer_token"}, "headerName, prefix,type") == {
        **was,
        "header_name": "Authorization",
        "prefix": "Bearer",
    }


@pytest.mark.parametrize(
    ("body", "mask", "told"),
    [
        ({"type": "oauth2", "client_id": "x"}, None, "'type': it is 'environment_variable' and cannot be changed"),
        ({}, "value", "Missing required parameter 'value'"),
        ({"value": "canary\n"}, None, "'value': must not contain line breaks"),
        ({"injection_location": "cookie"}, None, "'injection_location[0]'"),
        ({"valu": "x"}, None, "Unknown parameter 'valu' (closest known name: 'value')"),
        (
            {"token": "canary"},
            None,
            "Unknown parameter 'token': the type is 'environment_variable' (known names: value",
        ),
        ({"type": "basic"}, None, "'type': expected 'bearer_token'"),
        ({"id": "other"}, None, "Unknown parameter 'id'"),
        ({"value": "x"}, "value,token", "'update_mask': unknown field 'token' (known: value, injection_location"),
        ([], None, "expected an object"),
    ],
)
def test_changes_that_cannot_be_made(body: Any, mask: str | None, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        changed(parse_credential(VARIABLE), body, mask)
    assert told in caught.value.message
    assert "canary" not in caught.value.message
