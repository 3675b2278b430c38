"""Who may see what: API keys, projects, and single-user mode."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e.caller import ENVIRONMENTS, INTERACTIONS, Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result
from tests.e2e.server import ServerProcess

NOTICED_WITHIN_S = 1.5


def test_foreign_ids_look_like_ids_that_never_were(start_server: StartServer) -> None:
    server = start_server()
    red, blue = _key(server, "--project", "red"), _key(server, "--project", "blue")
    server.keys = [red["key"], blue["key"]]
    time.sleep(NOTICED_WITHIN_S)
    with server.caller(red["key"]) as owner, server.caller(blue["key"]) as other:
        made = owner.create(bash("echo mine >mine"), "remote")
        running = owner.start(bash("echo begun; sleep 60"), made["environment_id"])
        owner.await_output(running, "begun")
        before = owner.ps(), owner.read_raw(made["id"]).content
        nobodys = {"interaction": "v1_" + made["id"][3:][::-1], "environment": made["environment_id"][::-1]}
        for method, path, kind in _ROUTES:
            known = other.http.request(
                method, path.format(id=made["id" if kind == "interaction" else "environment_id"])
            )
            unknown = other.http.request(method, path.format(id=nobodys[kind]))
            assert known.status_code == unknown.status_code == 404, (method, path)
            assert _without_ids(known) == _without_ids(unknown), (method, path)
        for field, value, nobody in (
            ("previous_interaction_id", made["id"], nobodys["interaction"]),
            ("environment", made["environment_id"], nobodys["environment"]),
            ("environment", {"type": "remote", "environment_id": made["environment_id"]}, nobodys["environment"]),
        ):
            known = other.http.post(INTERACTIONS, json={"agent": "general", "input": "x", field: value})
            unknown = other.http.post(
                INTERACTIONS,
                json={
                    "agent": "general",
                    "input": "x",
                    field: nobody if isinstance(value, str) else {"type": "remote", "environment_id": nobody},
                },
            )
            assert known.status_code == unknown.status_code == 404, field
            assert _without_ids(known) == _without_ids(unknown), field
        assert other.environments() == []
        assert other.ps() == {"environments": [], "interactions": []}
        assert (owner.ps(), owner.read_raw(made["id"]).content) == before
        assert owner.read(running)["status"] == "in_progress"
        owner.cancel(running)
        assert only_result(owner.create(bash("ls"), made["environment_id"])) == "mine\n"


def test_operators_key_sees_all_and_touches_its_own(start_server: StartServer) -> None:
    server = start_server()
    red, operator = _key(server, "--project", "red"), _key(server, "--operator")
    server.keys = [red["key"], operator["key"]]
    time.sleep(NOTICED_WITHIN_S)
    with server.caller(red["key"]) as owner, server.caller(operator["key"]) as watcher:
        made = owner.create("x", "remote")
        assert [each["id"] for each in watcher.ps()["environments"]] == [made["environment_id"]]
        assert watcher.journal(made["id"])
        assert watcher.http.get(f"{INTERACTIONS}/{made['id']}").status_code == 404
        assert watcher.http.delete(f"{ENVIRONMENTS}/{made['environment_id']}").status_code == 404


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


def test_a_key_that_an_agent_reads_is_not_spread(start_server: StartServer) -> None:
    server = start_server()
    key = _key(server)["key"]
    server.keys = [key]
    time.sleep(NOTICED_WITHIN_S)
    with server.caller(key) as caller:
        made = caller.create(bash(f"echo {key[:20]}; k={key[20:]}; echo {key[:20]}$k"), "remote")
        result = only_result(made)
        assert key not in result
        assert "redacted" in result


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
    before = caller.ps(), caller.environments()
    for method, path in (("POST", INTERACTIONS), ("GET", ENVIRONMENTS), ("GET", "/ops/ps")):
        answer = caller.http.request(method, path, json={"agent": "general", "input": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied"), path
        assert "access-control-allow-origin" not in answer.headers
    preflight = caller.http.options(INTERACTIONS, headers={**headers, "access-control-request-method": "POST"})
    assert "access-control-allow-origin" not in preflight.headers
    assert (caller.ps(), caller.environments()) == before


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_single_user_mode_serves_names_of_this_machine(server: ServerProcess, caller: Caller, host: str) -> None:
    named = f"{host}:{server.port}"
    answer = caller.http.get(ENVIRONMENTS, headers={"host": named, "origin": f"http://{named}"})
    assert answer.status_code == 200


def test_browsers_may_call_once_there_are_keys(start_server: StartServer) -> None:
    server = start_server()
    key = _key(server)["key"]
    server.keys = [key]
    time.sleep(NOTICED_WITHIN_S)
    with server.caller() as nobody:
        asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
        preflight = nobody.http.options(INTERACTIONS, headers=asked)
        assert preflight.status_code in (200, 204)
        allowed = preflight.headers["access-control-allow-headers"]
        for name in ("content-type", "x-goog-api-key", "x-goog-api-client", "api-revision"):
            assert name in allowed
        for headers in ({}, {"x-goog-api-key": key}):
            answer = nobody.http.get(ENVIRONMENTS, headers={"origin": "https://app.example", **headers})
            assert answer.headers["access-control-allow-origin"] == "*"


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


def _without_ids(answer: Any) -> str:
    """The body with what differs between two ids of one kind taken out."""
    message: str = answer.json()["error"]["message"]
    words = ["ID" if len(word) > 25 else word for word in message.replace("'", " ' ").split()]
    return " ".join([answer.json()["error"]["code"], *words])
