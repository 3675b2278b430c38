from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.wire_server import FakeServer, answer
from tests.unit.cli.conftest import Corral

MADE = {
    "id": "crm",
    "type": "bearer_token",
    "status": "active",
    "create_time": "2026-11-20T09:00:00.000000Z",
    "update_time": "2026-11-20T09:00:00.000000Z",
}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Any:
    def say(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return say


def test_a_secret_is_read_from_standard_input(corral: Corral, said: Any) -> None:
    said("canary\n")
    server = FakeServer(answer(MADE))
    outcome = corral("credentials", "create", "crm", "--type", "bearer_token", "--prefix", "", server=server)
    assert (outcome.code, outcome.out) == (0, "crm: bearer_token, active\n")
    assert [(each.method, each.url.path) for each in server.requests] == [("POST", "/v1beta/credentials")]
    assert server.body() == {"type": "bearer_token", "id": "crm", "prefix": "", "token": "canary"}


def test_or_from_a_file(corral: Corral, folder: Path) -> None:
    (folder / "secret").write_text("canary \r\n")
    server = FakeServer(answer(MADE))
    options = ("--location", "header", "--location", "query", "--domain", "a.example", "--secret-file", "secret")
    corral("credentials", "create", "--type", "environment_variable", *options, server=server)
    assert server.body() == {
        "type": "environment_variable",
        "id": None,
        "injection_location": ["header", "query"],
        "trusted_domains": ["a.example"],
        "value": "canary ",
    }


def test_both_secrets_of_oauth2_are_json(corral: Corral, said: Any) -> None:
    said('{"client_secret": "canary-1", "refresh_token": "canary-2"}')
    server = FakeServer(answer(MADE))
    options = ("--client-id", "me", "--token-url", "https://a.example/token", "--scope", "read")
    corral("credentials", "create", "mail", "--type", "oauth2", *options, server=server)
    assert server.body() == {
        "type": "oauth2",
        "id": "mail",
        "client_id": "me",
        "token_url": "https://a.example/token",
        "scopes": ["read"],
        "client_secret": "canary-1",
        "refresh_token": "canary-2",
    }
    for wrong in ("canary", '["canary"]', '{"client_secrt": "canary"}'):
        said(wrong)
        outcome = corral("credentials", "create", "mail", "--type", "oauth2")
        assert outcome.code == 2
        assert "an object with 'client_secret' and 'refresh_token'" in outcome.err
        assert "canary" not in outcome.err


def test_no_option_takes_a_secret(corral: Corral) -> None:
    for option in ("--token", "--value", "--secret", "--client-secret", "--refresh-token"):
        outcome = corral("credentials", "create", "crm", "--type", "bearer_token", option, "x")
        assert outcome.code == 2
        assert "No such option" in outcome.err


def test_a_change_sends_what_is_given(corral: Corral, folder: Path) -> None:
    (folder / "secret").write_text("canary")
    server = FakeServer(answer(MADE), answer(MADE))
    corral("credentials", "update", "crm", "--secret-file", "secret", "--header-name", "X-Key", server=server)
    assert [each.method for each in server.requests] == ["GET", "PATCH"]
    assert server.body(1) == {"header_name": "X-Key", "token": "canary"}
    assert corral("credentials", "update", "crm", server=FakeServer()).code == 2


def test_lists_are_tables_or_json_of_all_pages(corral: Corral) -> None:
    pages = ({"credentials": [MADE], "next_page_token": "t"}, {"credentials": [{**MADE, "id": "mail"}]})
    server = FakeServer(*(answer(page) for page in pages))
    outcome = corral("credentials", "list", server=server)
    assert [line.split()[:3] for line in outcome.out.splitlines()] == [
        ["ID", "TYPE", "STATUS"],
        ["crm", "bearer_token", "active"],
        ["mail", "bearer_token", "active"],
    ]
    assert server.requests[1].url.params["page_token"] == "t"


def test_credentials_are_shown_revoked_and_deleted(corral: Corral) -> None:
    assert '"status": "active"' in corral("credentials", "get", "crm", server=FakeServer(answer(MADE))).out
    server = FakeServer(answer({**MADE, "status": "revoked"}), answer({}))
    assert corral("credentials", "revoke", "crm", server=server).out == "crm: bearer_token, revoked\n"
    assert corral("credentials", "delete", "crm", server=server).out == "crm\n"
    assert [(each.method, each.url.path) for each in server.requests] == [
        ("POST", "/v1beta/credentials/crm/revoke"),
        ("DELETE", "/v1beta/credentials/crm"),
    ]
