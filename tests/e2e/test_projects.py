"""Who may see what: API keys, projects, and single-user mode."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from orchestrator.config import Settings
from tests.e2e.caller import ENVIRONMENTS, INTERACTIONS, Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result
from tests.e2e.server import ServerProcess

NOTICED_WITHIN_S = 1.5
"""So long a server that has served callers without a key may go on doing so."""


@dataclass(frozen=True)
class Keyed:
    """A server that had keys before its first request, and callers with each kind of key."""

    server: ServerProcess
    red: Caller
    blue: Caller
    operator: Caller
    nobody: Caller


@pytest.fixture(scope="module")
def keyed(engine: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    server = ServerProcess(engine, tmp_path_factory.mktemp("keyed"))
    server.start()
    wanted = (("--project", "red"), ("--project", "blue"), ("--operator",))
    keys = [_key(server, *arguments)["key"] for arguments in wanted]
    server.keys = list(keys)
    with ExitStack() as stack:
        yield Keyed(server, *(stack.enter_context(server.caller(key)) for key in (*keys, None)))
    server.close()


def test_foreign_ids_look_like_ids_that_never_were(keyed: Keyed) -> None:
    owner, other = keyed.red, keyed.blue
    made = owner.create(bash("echo mine >mine"), "remote")
    running = owner.start(bash("echo begun; sleep 60"), made["environment_id"])
    owner.await_output(running, "begun")
    before = owner.standing(), owner.read_raw(made["id"]).content
    known = {"interaction": made["id"], "environment": made["environment_id"]}
    unknown = {"interaction": "v1_" + made["id"][3:][::-1], "environment": made["environment_id"][::-1]}
    for method, path, kind in _ROUTES:
        answers = [
            _without_id(other.http.request(method, path.format(id=each[kind])), each[kind]) for each in (known, unknown)
        ]
        assert answers[0] == answers[1], (method, path)
    for field, kind, form in (
        ("previous_interaction_id", "interaction", "{}"),
        ("environment", "environment", "{}"),
        ("environment", "environment", {"type": "remote", "environment_id": "{}"}),
    ):
        answers = [
            _without_id(
                other.http.post(
                    INTERACTIONS, json={"agent": "general", "input": "x", field: _filled(form, each[kind])}
                ),
                each[kind],
            )
            for each in (known, unknown)
        ]
        assert answers[0] == answers[1], field
    assert other.environments() == []
    assert other.ps() == {"environments": [], "interactions": []}
    assert (owner.standing(), owner.read_raw(made["id"]).content) == before
    assert owner.read(running)["status"] == "in_progress"
    owner.cancel(running)
    assert only_result(owner.create(bash("ls"), made["environment_id"])) == "mine\n"
    owner.delete_environment(made["environment_id"])


def test_operators_key_sees_all_and_touches_its_own(keyed: Keyed) -> None:
    made = keyed.red.create("x", "remote")
    watcher = keyed.operator
    assert made["environment_id"] in [each["id"] for each in watcher.ps()["environments"]]
    assert watcher.journal(made["id"])
    assert watcher.http.get(f"{INTERACTIONS}/{made['id']}").status_code == 404
    assert watcher.http.delete(f"{ENVIRONMENTS}/{made['environment_id']}").status_code == 404
    keyed.red.delete_environment(made["environment_id"])


def test_a_key_that_an_agent_reads_is_not_spread(keyed: Keyed) -> None:
    key = keyed.server.keys[0]
    assert key is not None
    made = keyed.red.create(bash(f"echo {key[:20]}; k={key[20:]}; echo {key[:20]}$k"), "remote")
    result = only_result(made)
    assert key not in result
    assert "redacted" in result
    assert key not in str(keyed.red.journal(made["id"])), "the command itself holds it in two pieces only"
    keyed.red.delete_environment(made["environment_id"])


def test_browsers_may_call_once_there_are_keys(keyed: Keyed) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight = keyed.nobody.http.options(INTERACTIONS, headers=asked)
    assert preflight.status_code in (200, 204)
    allowed = preflight.headers["access-control-allow-headers"]
    for name in ("content-type", "x-goog-api-key", "x-goog-api-client", "api-revision"):
        assert name in allowed
    for caller, status in ((keyed.nobody, 401), (keyed.red, 200)):
        answer = caller.http.get(ENVIRONMENTS, headers={"origin": "https://app.example"})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "*"


def test_keys_are_made_listed_and_revoked_beside_a_running_server(start_server: StartServer) -> None:
    server = start_server()
    with server.caller() as nobody:
        assert nobody.create("x")["status"] == "completed"
        key = _key(server, "--name", "laptop")
        spare = _key(server)
        server.keys = [spare["key"]]
        time.sleep(NOTICED_WITHIN_S)
        refused = nobody.post("x")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthenticated")
        assert "x-goog-api-key" in refused.json()["error"]["message"]
        assert nobody.http.get("/healthz").status_code == 200
        for path in ("/ops/ps", f"{ENVIRONMENTS}", f"{INTERACTIONS}/v1_x", "/ops/logs/x"):
            assert nobody.http.get(path).status_code == 401, path
        assert nobody.http.get(f"{ENVIRONMENTS}?page_size=0").status_code in (400, 401)
        for headers, parameters in (
            ({"x-goog-api-key": key["key"]}, {}),
            ({"authorization": f"Bearer {key['key']}"}, {}),
            ({}, {"key": key["key"]}),
        ):
            assert nobody.http.get(ENVIRONMENTS, headers=headers, params=parameters).status_code == 200
        for wrong in ("nonsense", key["key"][:-1], key["key"] + "x", key["id"], key["prefix"]):
            assert nobody.http.get(ENVIRONMENTS, headers={"x-goog-api-key": wrong}).status_code == 401
    listed = server.cli("keys", "list", "--json")
    assert key["key"] not in listed.stdout
    assert {(each["id"], each["name"], each["revoked"]) for each in json.loads(listed.stdout)["keys"]} == {
        (key["id"], "laptop", None),
        (spare["id"], "", None),
    }
    assert key["id"] in server.cli("keys", "list").stdout
    assert server.cli("keys", "revoke", key["id"]).returncode == 0
    assert server.cli("keys", "revoke", "key_nobody").returncode == 2
    with server.caller(key["key"]) as revoked, server.caller(spare["key"]) as good:
        assert revoked.post("x").status_code == 401
        assert good.create("x")["status"] == "completed"
    assert server.cli("keys", "revoke", spare["id"]).returncode == 0
    with server.caller() as nobody:
        assert nobody.post("x").status_code == 401, "revoking the last key must not open the door"
    fresh = _key(server)
    server.keys = [fresh["key"]]
    stored = b"".join(file.read_bytes() for file in server.data_dir.iterdir() if file.is_file())
    assert not [each for each in (key, spare, fresh) if each["key"].encode() in stored], "keys are stored hashed"
    assert not [line for line in server.log() if key["key"] in json.dumps(line)]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "169.254.169.254"},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:1"},
        {"origin": "null"},
    ],
)
def test_single_user_mode_refuses_what_a_web_page_could_cause(caller: Caller, headers: dict[str, str]) -> None:
    before = caller.standing(), caller.environments()
    for method, path in (("POST", INTERACTIONS), ("GET", ENVIRONMENTS), ("GET", "/ops/ps")):
        answer = caller.http.request(method, path, json={"agent": "general", "input": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied"), path
        assert "access-control-allow-origin" not in answer.headers
    preflight = caller.http.options(INTERACTIONS, headers={**headers, "access-control-request-method": "POST"})
    assert "access-control-allow-origin" not in preflight.headers
    assert (caller.standing(), caller.environments()) == before


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_single_user_mode_serves_names_of_this_machine(server: ServerProcess, caller: Caller, host: str) -> None:
    named = f"{host}:{server.port}"
    answer = caller.http.get(ENVIRONMENTS, headers={"host": named, "origin": f"http://{named}"})
    assert answer.status_code == 200


def test_address_of_others_needs_keys(start_server: StartServer) -> None:
    server = start_server()
    server.stop()
    refused = server.cli("serve", "--port", "0", "--host", "0.0.0.0", timeout_s=20)
    assert refused.returncode == 2
    assert "corral keys create" in refused.stderr
    key = _key(server)["key"]
    server.keys = [key]
    server.set("HOST", "0.0.0.0")
    server.start()
    with server.caller() as nobody, server.caller(key) as caller:
        assert nobody.post("x").status_code == 401
        assert caller.create("x")["status"] == "completed"


_ROUTES = [
    ("GET", INTERACTIONS + "/{id}", "interaction"),
    ("GET", INTERACTIONS + "/{id}?stream=true", "interaction"),
    ("GET", INTERACTIONS + "/{id}?stream=true&last_event_id=evt_1", "interaction"),
    ("POST", INTERACTIONS + "/{id}/cancel", "interaction"),
    ("POST", INTERACTIONS + "/{id}:cancel", "interaction"),
    ("POST", INTERACTIONS + "/{id}/replay", "interaction"),
    ("DELETE", INTERACTIONS + "/{id}", "interaction"),
    ("GET", ENVIRONMENTS + "/{id}", "environment"),
    ("DELETE", ENVIRONMENTS + "/{id}", "environment"),
    ("GET", "/ops/logs/{id}", "interaction"),
    ("GET", "/ops/logs/{id}", "environment"),
    ("GET", "/ops/logs/{id}?follow=true", "environment"),
]


def _key(server: ServerProcess, *arguments: str) -> dict[str, Any]:
    made = server.cli("keys", "create", "--json", *arguments)
    assert made.returncode == 0, made.stderr
    key: dict[str, Any] = json.loads(made.stdout)
    return key


def _without_id(answer: httpx2.Response, known_id: str) -> str:
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.text.replace(known_id, "ID")


def _filled(form: Any, known_id: str) -> Any:
    if isinstance(form, str):
        return form.format(known_id)
    return {name: value.format(known_id) for name, value in form.items()}
