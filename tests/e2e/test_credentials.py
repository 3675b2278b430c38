"""Credentials by the official SDK."""

from __future__ import annotations

import pytest

from tests.e2e.client_programs import Saw, python_program, saw_by
from tests.e2e.server import ServerProcess

PROGRAM = python_program("credentials")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    return saw_by(request, server, PROGRAM)


def test_the_sdk_keeps_changes_and_deletes_credentials(saw: Saw) -> None:
    seen = saw("credentials")
    assert seen["made"] == [
        ["cred_bearer_123", "bearer_token", "active", True],
        ["cred_env_123", "environment_variable", "active", True],
    ]
    assert seen["listed"] == ["cred_env_123", "cred_bearer_123"]
    assert seen["got"] is True
    assert seen["changed"] == [True, True]
    assert {name: code for name, (code, _) in seen["refused"].items()} == {
        "twice": "409",
        "another type": "400",
        "not exchanged": "400",
        "deleted": "404",
    }
    assert "'token_url': 127.0.0.1 is not public" in seen["refused"]["not exchanged"][1]
    assert "canary" not in str(seen)
    assert seen["left"] == 0


def test_the_sdk_gives_a_sandbox_a_placeholder_for_whom_the_credential_trusts(saw: Saw) -> None:
    (used,) = saw("credentials")["used"]
    assert used.startswith("have __GEMINI_CRED_cred_env_123__\n")
    assert "does not trust b.example" in used
