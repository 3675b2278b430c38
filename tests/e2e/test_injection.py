"""Credentials on the way out of real containers: programs that were told nothing send them, nothing inside has one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.egress.certificates import Authority
from tests.e2e.caller import Caller, Json
from tests.e2e.server import ServerProcess
from tests.fakes.web_server import WebServer, answer

HOST = "127.0.0.2"
"""Loopback, but not what programs inside take for their own."""
CANARY = "canary-71c0ffee"
CREDENTIALS = "/v1beta/credentials"
BEARER = {"id": "crm", "type": "bearer_token", "token": CANARY}
VARIABLE = {
    "id": "held",
    "type": "environment_variable",
    "value": CANARY,
    "injection_location": ["header", "query", "body"],
    "trusted_domains": [HOST],
}


@pytest.fixture(scope="module")
def process(engine: Any, tmp_path_factory: pytest.TempPathFactory, internet: Authority) -> Iterator[ServerProcess]:
    """Its operator lets loopback be reached, and trusts who signs there."""
    folder = tmp_path_factory.mktemp("injection")
    ca = folder / "internet.pem"
    ca.write_text(internet.pem)
    settings = {"NETWORK_EXCEPTIONS": '["127.0.0.0/8"]', "SOURCES__CA_FILE": str(ca)}
    made = ServerProcess(engine, folder, **settings)
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def asked(process: ServerProcess) -> Iterator[Caller]:
    with process.caller() as caller:
        for credential in (BEARER, VARIABLE):
            made = caller.http.post(CREDENTIALS, json=credential)
            assert made.status_code == 200, made.text
        yield caller


@pytest.fixture
def web(internet: Authority) -> Iterator[WebServer]:
    with WebServer(host=HOST, tls=asyncio.run(internet.context(HOST))) as server:
        server.pages["/a"] = server.taking(b"content")
        server.pages["/echo"] = lambda request: answer(request, b"said", X_Said=request.headers["Authorization"])
        yield server


def environment(*rules: Json, **fields: Any) -> Json:
    return {"type": "remote", "network": {"allowlist": list(rules)}, **fields}


WITH_BEARER = environment({"domain": HOST, "credential": "crm"})
WITH_VARIABLE = environment({"domain": "*"}, env={"TOKEN": {"credential": "held"}})


@pytest.fixture(scope="module")
def place(asked: Caller) -> str:
    """An environment whose rule for `HOST` names the bearer token."""
    made = asked.http.post("/v1beta/environments", json={"network": WITH_BEARER["network"]})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def run(caller: Caller, code: str, environment: Any, language: str = "bash") -> str:
    """What a command wrote and what the model is told with it."""
    made = caller.create(f"```{language}\n{code}\n```", environment)
    assert made["status"] == "completed", made
    assert CANARY not in str(made)
    return str(next(step["result"] for step in made["steps"] if step["type"] == "code_execution_result"))


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("curl -sS {url}", "bash"),
        ("wget -qO- {url}", "bash"),
        ("import requests; print(requests.get('{url}').text)", "python"),
        ("import urllib.request; print(urllib.request.urlopen('{url}').read().decode())", "python"),
        ("node -e \"fetch('{url}').then(r => r.text()).then(console.log)\"", "bash"),
        ("node -e \"require('https').get('{url}', r => r.pipe(process.stdout))\"", "bash"),
    ],
)
def test_programs_send_it_without_being_told(
    asked: Caller, place: str, web: WebServer, code: str, language: str
) -> None:
    said = run(asked, code.format(url=f"{web.url}/a"), place, language)
    assert "content" in said, said
    ((_, headers),) = web.requests
    assert headers["authorization"] == f"Bearer {CANARY}"


def test_git_asks_with_it(asked: Caller, place: str, web: WebServer) -> None:
    run(asked, f"git ls-remote {web.url}/repo.git", place)
    path, headers = web.requests[0]
    assert path.startswith("/repo.git/info/refs")
    assert headers["authorization"] == f"Bearer {CANARY}"


def test_pip_and_npm_ask_with_it(asked: Caller, place: str, web: WebServer) -> None:
    run(asked, f"pip download --no-cache-dir --retries 0 -i {web.url}/simple nothing-of-it", place)
    run(asked, f"npm view --registry {web.url}/npm --fetch-retries 0 nothing-of-it", place)
    paths = {path: headers["authorization"] for path, headers in web.requests}
    assert paths.get("/simple/nothing-of-it/") == paths.get("/npm/nothing-of-it") == f"Bearer {CANARY}", paths


def test_nothing_inside_has_it_and_it_does_not_come_back(asked: Caller, place: str, web: WebServer) -> None:
    said = run(asked, f"curl -sS -D - {web.url}/echo", place)
    assert "X-Said: [redacted]" in said
    search = "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -ac 'ry-71c0f[f]'"
    assert "0" in run(asked, search, place)
    search = "grep -rIl 'ry-71c0f[f]' / --exclude-dir=proc --exclude-dir=sys 2>/dev/null || echo none"
    assert "none" in run(asked, search, place)


def test_a_placeholder_is_swapped_for_whom_it_trusts(asked: Caller, web: WebServer) -> None:
    made = asked.create("```bash\necho have $TOKEN\n```", WITH_VARIABLE)
    place = made["environment_id"]
    assert "have __GEMINI_CRED_held__" in str(made["steps"])
    said = run(asked, f'curl -sS -H "X-Token: $TOKEN" "{web.url}/a?key=$TOKEN"', place)
    assert "content" in said
    run(asked, f'import os, requests; requests.post("{web.url}/a", json={{"k": os.environ["TOKEN"]}})', place, "python")
    (path, headers), _ = web.requests
    assert (path, headers["x-token"]) == (f"/a?key={CANARY}", CANARY)
    assert web.bodies == [b'{"k": "%s"}' % CANARY.encode()]


def test_the_model_is_told_why_a_placeholder_was_refused(asked: Caller, internet: Authority) -> None:
    with WebServer(host="127.0.0.3", tls=asyncio.run(internet.context("127.0.0.3"))) as stranger:
        rules = environment({"domain": "*", "methods": ["GET"]}, env={"TOKEN": {"credential": "held"}})
        said = run(asked, f'curl -sS -H "X-Token: $TOKEN" {stranger.url}/', rules)
        assert "does not trust 127.0.0.3" in said
        assert not stranger.requests


def test_other_rules_of_a_running_environment_are_trusted_too(asked: Caller, web: WebServer) -> None:
    place = asked.new_environment()
    assert "certificate" in run(asked, f"curl -sS {web.url}/a 2>&1", place), "nobody inside knows who signs outside"
    changed = {**WITH_BEARER, "environment_id": place}
    assert "content" in run(asked, f"curl -sS {web.url}/a", changed)


def test_it_holds_after_the_server_was_killed_and_ends_with_a_revocation(
    asked: Caller, process: ServerProcess, place: str, web: WebServer
) -> None:
    process.kill()
    process.start()
    assert "content" in run(asked, f"curl -sS {web.url}/a", place)
    made = asked.http.post(CREDENTIALS, json={**BEARER, "id": "gone"})
    assert made.status_code == 200, made.text
    going = run(asked, f"curl -sS {web.url}/a", environment({"domain": HOST, "credential": "gone"}))
    assert "content" in going
    rules = {**environment({"domain": HOST, "credential": "gone"}), "environment_id": place}
    assert "content" in run(asked, f"curl -sS {web.url}/a", rules)
    assert asked.http.post(f"{CREDENTIALS}/gone:revoke").status_code == 200
    said = run(asked, f"curl -sS {web.url}/a", place)
    assert "'gone' is revoked" in said


def test_the_log_says_which_one_and_for_whom(asked: Caller, process: ServerProcess, web: WebServer) -> None:
    made = asked.create(f"```bash\ncurl -sS {web.url}/a\n```", WITH_BEARER)
    log = process.cli("logs", made["environment_id"], "--kind", "network", "--json")
    assert log.returncode == 0, log.stderr
    assert '"crm"' in log.stdout
    assert made["id"] in log.stdout
    assert CANARY not in log.stdout + process.cli("logs", made["environment_id"]).stdout


def test_no_file_of_the_server_has_it_in_the_clear(process: ServerProcess) -> None:
    """Its database, the disks of its sandboxes, whatever else is in its folder."""
    # What is in images of disks is mounted beside them.
    search = ["find", str(process.data_dir), "-type", "f", "-size", "-64M", "-exec", "grep", "-laF", CANARY, "{}", "+"]
    searched = subprocess.run(search, capture_output=True, check=False)
    assert (searched.stdout, searched.stderr) == (b"", b""), searched
    assert CANARY not in str(process.log())


def test_no_sandbox_starts_where_its_programs_cannot_be_given_the_authority(tmp_path: Path, engine: Any) -> None:
    """A damaged authority is no reason to let programs out unread, or to make another that nobody trusts."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "authority.pem").write_text("nonsense")
    (data / "authority.pem").chmod(0o600)
    broken = ServerProcess(engine, tmp_path)
    with pytest.raises(AssertionError, match="is not the authority that this server made"):
        broken.start()
