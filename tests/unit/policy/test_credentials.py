from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.policy.credentials import check_credential, check_naming, namings
from orchestrator.policy.secrets import header_secret
from orchestrator.wire.credentials import EnvironmentVariable, parse_credential
from orchestrator.wire.environments import parse_environment

VARIABLE = {"type": "environment_variable", "value": "v", "injection_location": "header"}
OAUTH = {"type": "oauth2", "client_id": "c", "client_secret": "s", "refresh_token": "r"}


def test_domains_get_their_one_form() -> None:
    given = parse_credential({**VARIABLE, "trusted_domains": ["API.Example.", "*.bücher.example", "8.8.8.8"]})
    checked = check_credential(given)
    assert isinstance(checked, EnvironmentVariable)
    assert checked.trusted_domains == ["api.example", "*.xn--bcher-kva.example", "8.8.8.8"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({**VARIABLE, "trusted_domains": ["a.example", "a.example:80"]}, "'trusted_domains[1]'"),
        ({**VARIABLE, "trusted_domains": ["0x7f.1"]}, "'trusted_domains[0]'"),
        ({**VARIABLE, "trusted_domains": ["https://a.example"]}, "'trusted_domains[0]'"),
        ({**VARIABLE, "trusted_domains": ["*"]}, "'*' would send the value to anybody"),
        ({"type": "bearer_token", "token": "t", "header_name": "Host"}, "'header_name': 'Host' cannot be set"),
        ({"type": "bearer_token", "token": "t", "header_name": "Proxy-Authorization"}, "'header_name'"),
        ({**OAUTH, "token_url": "http://a.example/token"}, "'token_url': it must begin with https://"),
        ({**OAUTH, "token_url": "https://u:p@a.example/token"}, "'token_url'"),
        ({**OAUTH, "token_url": "file:///etc/passwd"}, "'token_url'"),
    ],
)
def test_what_could_not_be_used_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_credential(parse_credential(fields))
    assert told in caught.value.message


def test_a_prefix_stands_before_the_token_with_a_space() -> None:
    assert header_secret("c", "Authorization", "Bearer", "t").value == "Bearer t"
    bare = header_secret("c", "X-Key", "", "canary")
    assert bare.value == "canary"
    assert "canary" not in repr(bare)


def test_fields_that_name_credentials_are_found_with_their_paths() -> None:
    spec = parse_environment(
        {
            "type": "remote",
            "network": {"allowlist": [{"domain": "a.example"}, {"domain": "b.example", "credential": "one"}]},
            "env": {"A": "x", "B": {"credential": "credentials/two"}},
        }
    )
    assert spec is not None
    found = namings(spec.network, spec.env, "environment")
    assert [(each.at, each.credential_id, each.is_variable) for each in found] == [
        ("environment.network.allowlist[1].credential", "one", False),
        ("environment.env.B.credential", "two", True),
    ]
    assert [each.at for each in namings(spec.network, spec.env)] == [
        "network.allowlist[1].credential",
        "env.B.credential",
    ]
    assert namings("disabled", {}) == namings(None, {}) == []


@pytest.mark.parametrize(
    ("is_variable", "type_", "status", "told"),
    [
        (True, None, None, "'env.B.credential': Credential 'two' not found"),
        (True, "environment_variable", "revoked", "'two' is revoked"),
        (True, "bearer_token", "active", "'bearer_token'; expected one of the type 'environment_variable'"),
        (False, "environment_variable", "active", "expected one that is sent in a header"),
        (True, "environment_variable", "active", None),
        (False, "oauth2", "active", None),
        (False, "bearer_token", "active", None),
    ],
)
def test_what_is_named_must_be_there_and_fit(
    is_variable: bool, type_: str | None, status: str | None, told: str | None
) -> None:
    environment: dict[str, Any] = {"env": {"B": {"credential": "two"}}}
    if not is_variable:
        environment = {"network": {"allowlist": [{"domain": "b.example", "credential": "two"}]}}
    spec = parse_environment({"type": "remote", **environment})
    assert spec is not None
    (naming,) = namings(spec.network, spec.env)
    if told is None:
        check_naming(naming, type_, status)
        return
    with pytest.raises(InvalidRequest) as caught:
        check_naming(naming, type_, status)
    assert told in caught.value.message
