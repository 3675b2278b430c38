"""Credentials and a whole server: what is left of a secret anywhere (case N13), and with which keys a server starts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.credentials.keys import KeyFile
from tests.fakes.local_server import ServerProcess
from tests.fakes.token_server import TokenServer, saying

CREDENTIALS = "/v1beta/credentials"
BEARER = {"id": "crm", "type": "bearer_token", "token": "canary-bearer"}


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with TokenServer(tmp_path / "certificates") as server:
        yield server


@pytest.fixture
def process(tmp_path: Path, sandboxes: Path, tokens: TokenServer) -> Iterator[ServerProcess]:
    process = ServerProcess(
        tmp_path / "data",
        sandboxes,
        POOL__SIZE="0",
        LOG_LEVEL="debug",
        NETWORK_EXCEPTIONS='["127.0.0.1"]',
        SOURCES__CA_FILE=str(tokens.ca),
    )
    process.start()
    yield process
    if process.is_running:
        process.end(signal.SIGTERM)
    assert "Traceback" not in process.log, process.log


def refused_start(process: ServerProcess) -> str:
    process.launch()
    assert process.process is not None
    assert process.process.wait(20) != 0
    told = process.log.splitlines()[-1]
    process._log.write_text("")  # with a traceback, which the command line would not have shown
    return told


def test_no_secret_is_left_anywhere(process: ServerProcess, tokens: TokenServer, tmp_path: Path) -> None:
    said: list[str] = []

    def ask(method: str, path: str, body: Any = None, status: int = 200) -> None:
        answer = httpx2.request(method, f"{process.url}{CREDENTIALS}{path}", json=body, timeout=30)
        assert answer.status_code == status, answer.text
        said.append(f"{answer.headers} {answer.text}")

    variable = {"type": "environment_variable", "value": "canary-value", "injection_location": "header"}
    tokens.expires_in = 1
    ask("POST", "", BEARER)
    ask("POST", "", BEARER, 409)
    ask("POST", "", {**variable, "id": "variable"})
    ask("POST", "", {**tokens.config, "id": "mail"})
    ask("PATCH", "/crm?update_mask=token", {"type": "bearer_token", "token": "canary-changed"})
    for wrong in (
        {**BEARER, "token": "canary\r\n"},
        {**BEARER, "tokn": "canary-typo"},
        {**BEARER, "token": ["canary-list"]},
        {**BEARER, "token": "canary" * 5000},
        {**BEARER, "header_name": "a b"},
        {**variable, "trusted_domains": ["*"]},
        {**tokens.config, "refresh_token": "canary-old"},
        {**tokens.config, "token_url": f"{tokens.url}/elsewhere"},
    ):
        ask("POST", "", wrong, 400)
    tokens.fault = saying({"error": "invalid_grant", "error_description": "canary-refresh-0"}, 400)
    ask("PATCH", "/mail", {"client_secret": "canary-other"}, 400)
    tokens.fault = saying(b"canary", 500)
    ask("PATCH", "/mail", {"client_secret": "canary-other"}, 400)
    httpx2.post(f"{process.url}{CREDENTIALS}", content=b'{"type": "bearer_token", "token": "canary-cut')
    for path in ("", "/crm", "/mail", "/variable"):
        ask("GET", path)
    ask("POST", "/crm:revoke")
    ask("DELETE", "/variable")
    searched = "\n".join(said)
    assert "canary" not in searched
    assert '"status":"revoked"' in searched
    assert "canary" not in process.log
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert "corral.db-wal" in {path.name for path in files}
    for file in files:
        assert b"canary" not in file.read_bytes(), file


def test_what_is_kept_is_there_after_a_kill(process: ServerProcess, tokens: TokenServer) -> None:
    made = httpx2.post(f"{process.url}{CREDENTIALS}", json={**tokens.config, "id": "mail"}, timeout=30).json()
    process.end(signal.SIGKILL)
    process.start()
    assert httpx2.get(f"{process.url}{CREDENTIALS}/mail").json() == made
    changed = httpx2.patch(f"{process.url}{CREDENTIALS}/mail", json={"scopes": ["read"]}, timeout=30)
    assert changed.status_code == 200, changed.text
    assert [form["refresh_token"] for form in tokens.forms] == ["canary-refresh-0", "canary-refresh-1"]


def test_without_the_key_that_something_is_sealed_with_no_server_starts(process: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "data/sealing_keys"
    assert file.stat().st_mode & 0o777 == 0o600
    assert httpx2.post(f"{process.url}{CREDENTIALS}", json=BEARER).status_code == 200
    process.end(signal.SIGTERM)
    kept = file.read_text()
    file.unlink()
    assert "sealing keys" in refused_start(process)
    assert not file.exists()
    KeyFile(file).ensure()
    assert "is not among the sealing keys" in refused_start(process)
    file.write_text(kept)
    file.chmod(0o644)
    assert "others may read the sealing keys" in refused_start(process)
    file.chmod(0o600)
    process.start()
    assert httpx2.get(f"{process.url}{CREDENTIALS}/crm").json()["status"] == "active"


def test_a_server_for_others_does_not_make_a_key_by_itself(
    process: ServerProcess, tmp_path: Path, sandboxes: Path
) -> None:
    process.end(signal.SIGTERM)
    file = tmp_path / "data/sealing_keys"
    file.unlink()
    for_others = ServerProcess(tmp_path / "data", sandboxes, POOL__SIZE="0", HOST="0.0.0.0")
    assert "needs a sealing key" in refused_start(for_others)
    assert not file.exists()
