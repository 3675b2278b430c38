"""The application without sockets: one error shape, paths, CORS, limits, and who may see what."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import structlog.testing
from fastapi.routing import APIRoute

from orchestrator import errors
from orchestrator.api import environments, interactions
from orchestrator.api.errors import STATUS, status_of
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.api import LIMIT_BYTES, Api
from tests.fakes.local_driver import IMAGE
from tests.fakes.rows import key_row

pytestmark = pytest.mark.anyio


# the error table


def test_every_error_has_a_status() -> None:
    def tree(base: type[errors.CorralError]) -> list[type[errors.CorralError]]:
        return [base, *(found for below in base.__subclasses__() for found in tree(below))]

    for kind in tree(errors.CorralError):
        assert kind in STATUS or any(base in STATUS for base in kind.__mro__)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("x"), 400),
        (errors.NotSupported("x"), 400),
        (errors.BodyTooLarge("x"), 413),
        (errors.Unauthenticated("x"), 401),
        (errors.PermissionDenied("x"), 403),
        (errors.NotFound("x"), 404),
        (errors.Conflict("x"), 409),
        (errors.LimitExceeded("x"), 429),
        (errors.EngineUnavailable("x"), 503),
        (errors.ImageMissing("x"), 503),
        (errors.SandboxGone("x"), 502),
        (errors.SandboxStartFailed("x", stage="start"), 502),
        (errors.StoreError("x"), 503),
        (errors.ModelError("x"), 500),
        (errors.LeaseLost("x"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_table(error: errors.CorralError, status: int) -> None:
    assert status_of(error) == status


async def test_a_mistake_of_ours_says_nothing_of_itself(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(SqliteStore, "interaction", broken)
    with structlog.testing.capture_logs() as lines:
        status, code, message = await api.error("GET", "/v1beta/interactions/v1_x")
    assert (status, code) == (500, "internal")
    assert "secret" not in message
    assert [line["event"] for line in lines] == ["request_broken"]


async def test_a_busy_store_may_be_asked_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*_: Any) -> None:
        raise errors.StoreError("busy", code="store_busy", retryable=True)

    monkeypatch.setattr(SqliteStore, "interaction", busy)
    answer = await api.client.get("/v1beta/interactions/v1_x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# paths


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/interactions",
        "/v1/interactions",
        "/v1alpha/interactions/",
        "http://127.0.0.1//v1beta//interactions",
        "/v1beta/v1/interactions",
    ],
)
async def test_paths_in_every_form_that_clients_send(api: Api, path: str) -> None:
    answer = await api.client.post(path, json={"agent": "general", "input": "hello"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/v2/interactions", "/v1beta", "/v1beta/nothing", "/docs", "/redoc", "/v1beta/interactions/a/b"]
)
async def test_other_paths_are_404_in_the_one_shape(api: Api, path: str) -> None:
    assert (await api.error("GET", path))[:2] == (404, "not_found")


async def test_other_methods_are_405_in_the_one_shape(api: Api) -> None:
    assert (await api.error("PUT", "/v1beta/interactions"))[:2] == (405, "method_not_allowed")


async def test_every_answer_has_a_request_id(api: Api) -> None:
    seen = {(await api.client.get(path)).headers["x-request-id"] for path in ("/healthz", "/nothing", "/readyz")}
    assert len(seen) == 3


async def test_cancel_in_both_spellings(api: Api) -> None:
    for spelling in ("/cancel", ":cancel"):
        interaction = await api.create()
        answer = await api.client.post(f"/v1beta/interactions/{interaction['id']}{spelling}")
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")


# bodies


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"agent": "general", "agent": "general", "input": "x"}',
        b'{"agent": "general", "input": NaN}',
        b'{"agent": "general", "input": "\\ud800"}',
        b'{"agent": "general", "input": "x", "unknown": 1}',
        b'{"agent": "general"}',
        b'{"input": "x"}',
        b'{"agent": 5, "input": "x"}',
        b'{"agent": "general", "input": {}}',
        b'{"agent": "general", "input": ' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=lambda content: content[:40],
)
async def test_bodies_that_make_no_sense(api: Api, content: bytes) -> None:
    status, code, message = await api.error("POST", "/v1beta/interactions", content=content)
    assert (status, code) == (400, "invalid_request")
    assert message


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""]
)
async def test_the_content_type_does_not_matter(api: Api, kind: str) -> None:
    content = json.dumps({"agent": "general", "input": "hello"}).encode()
    answer = await api.client.post("/v1beta/interactions", content=content, headers={"content-type": kind})
    assert answer.status_code == 200


async def test_bodies_have_a_limit_announced_or_not(api: Api) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(20):
            yield b" " * 1000

    announced = await api.error("POST", "/v1beta/interactions", content=b" " * (LIMIT_BYTES + 1))
    sent = await api.error("POST", "/v1beta/interactions", content=pieces())
    assert announced[:2] == sent[:2] == (413, "request_too_large")


@pytest.mark.parametrize("agent", ["nobody", "generel", "a" * 200])
async def test_an_unknown_agent(api: Api, agent: str) -> None:
    status, code, message = await api.error("POST", "/v1beta/interactions", json={"agent": agent, "input": "x"})
    assert (status, code) == (404, "not_found")
    assert "'agent'" in message


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"environment": "0" * 32}, 404, "environment"),
        ({"previous_interaction_id": "v1_x"}, 404, "previous_interaction_id"),
        ({"agent_config": {"type": "antigravity", "model": "nowhere:x"}}, 404, "agent_config.model"),
        ({"environment": {"sources": [{"type": "inline", "target": "etc/passwd", "content": "x"}]}}, 400, "sources[0]"),
        ({"environment": {"env": {"A": "x" * 9000}}, "labels": {"A": "x"}}, 400, "labels"),
        ({"generation_config": {"temperature": 0}}, 400, "generation_config"),
    ],
)
async def test_what_is_refused_leaves_nothing(api: Api, fields: dict[str, Any], status: int, named: str) -> None:
    request = {"agent": "general", "input": "x", **fields}
    refused = await api.error("POST", "/v1beta/interactions", json=request)
    assert refused[0] == status
    assert named in refused[2]
    assert await api.store.interactions(None) == []
    assert await api.store.environments(None) == []


PUBLIC_ROUTES = [
    ("POST", "/v1beta/interactions"),
    ("GET", "/v1beta/interactions"),
    ("GET", "/v1/interactions/v1_x"),
    ("POST", "/v1beta/interactions/v1_x/cancel"),
    ("POST", "/v1beta/interactions/v1_x:cancel"),
    ("POST", "/v1beta/interactions/v1_x/replay"),
    ("DELETE", "/v1alpha/interactions/v1_x"),
    ("POST", "/v1beta/environments"),
    ("GET", "/v1beta/environments"),
    ("GET", "/v1beta/environments/x"),
    ("DELETE", "/v1beta/environments/x"),
    ("GET", "/ops/ps"),
    ("GET", "/ops/logs/x"),
]


@pytest.mark.parametrize(("method", "path"), PUBLIC_ROUTES)
async def test_unknown_query_parameters_are_refused_by_name(api: Api, method: str, path: str) -> None:
    refused = await api.error(method, path, params={"colour": "red"})
    assert refused == (400, "invalid_request", "Unknown parameter 'colour' in the query.")
    tolerated = await api.client.request(
        method, path, params={"key": "k", "alt": "sse", "$alt": "json;enum-encoding=int", "fields": "*"}
    )
    assert "query" not in tolerated.text
    assert "'alt'" not in tolerated.text


def test_no_public_route_is_forgotten() -> None:
    paths = {
        (method, re.sub(r"\{\w+\}", "x", route.path))
        for router in (interactions.router, environments.router)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert paths == {
        (method, "/" + path.split("/", 2)[2].replace("v1_x", "x"))
        for method, path in PUBLIC_ROUTES
        if not path.startswith("/ops/")
    }


@pytest.mark.parametrize(
    ("query", "code", "told"),
    [
        ("stream=true&stream=false", "invalid_request", "'stream': it is given 2 times"),
        ("alt=media", "not_supported", "'alt'"),
        ("$alt=proto", "not_supported", "'$alt'"),
        ("fields=status", "not_supported", "'fields'"),
        ("page_size=5", "invalid_request", "'page_size'"),
        ("lastEventId=evt_1", "invalid_request", "'lastEventId'"),
    ],
)
async def test_parameters_that_would_be_dropped_are_refused(api: Api, query: str, code: str, told: str) -> None:
    created = await api.create()
    refused = await api.error("GET", f"/v1beta/interactions/{created['id']}?{query}")
    assert refused[:2] == (400, code)
    assert told in refused[2]


# reading


async def test_an_environment_is_made_for_the_agent_that_asks_for_it(api: Api) -> None:
    profiles = {}
    for agent in ("general", "brief"):
        created = await api.create("hello", agent=agent, environment="remote")
        row = await api.store.environment(None, created["environment_id"])
        assert row is not None
        profiles[agent] = row.profile
    assert profiles["general"] is None
    profile = json.loads(profiles["brief"] or "")
    assert (profile["image"], profile["resources"]["memory_bytes"], profile["resources"]["cpus"]) == (IMAGE, 1 << 30, 2)


async def test_an_interaction_in_every_view(api: Api) -> None:
    created = await api.create("Say hello.", labels={"team": "a"}, system_instruction="Be brief.")
    assert created["status"] == "completed"
    path = f"/v1beta/interactions/{created['id']}"
    read = (await api.client.get(path)).json()
    assert [step["type"] for step in created["steps"]] == ["model_output"]
    assert [step["type"] for step in read["steps"]] == ["user_input", "model_output"]
    assert "input" not in read
    assert (await api.client.get(path, params={"include_input": "true"})).json()["input"] == [read["steps"][0]]
    assert (await api.client.get(path)).json() == read, "the same at every reading"
    assert read["labels"] == {"team": "a"}


async def test_streams_of_what_has_ended_are_whole_and_resumable(api: Api) -> None:
    created = await api.create()
    path = f"/v1beta/interactions/{created['id']}"
    whole = (await api.client.get(path, params={"stream": "true"})).content
    assert whole.endswith(b"event: done\ndata: [DONE]\n\n")
    frames = whole.split(b"\n\n")[:-2]
    for at, frame in enumerate(frames):
        last = json.loads(frame.split(b"data: ")[1])["event_id"]
        rest = await api.client.get(path, params={"stream": "true", "last_event_id": last})
        assert rest.content == b"\n\n".join([*frames[at + 1 :], b"event: done\ndata: [DONE]\n\n"])
    assert (await api.client.get(path, params={"stream": "true", "last_event_id": ""})).content == whole


@pytest.mark.parametrize("last", ["evt_999999", "evt_0", "evt_-1", "5", "evt_", "x" * 1000, "evt_99999999999999999999"])
async def test_an_event_id_that_is_none_of_ours(api: Api, last: str) -> None:
    created = await api.create()
    path = f"/v1beta/interactions/{created['id']}"
    status, code, message = await api.error("GET", path, params={"stream": "true", "last_event_id": last})
    assert (status, code) == (400, "invalid_request")
    assert "last_event_id" in message


@pytest.mark.parametrize("name", ["v1_x", "x", "..", "%2e%2e", "v1_" + "x" * 5000, "a%00b", "ä"])
async def test_unknown_ids_are_404(api: Api, name: str) -> None:
    for method, path in (
        ("GET", f"/v1beta/interactions/{name}"),
        ("DELETE", f"/v1beta/interactions/{name}"),
        ("POST", f"/v1beta/interactions/{name}/cancel"),
        ("POST", f"/v1beta/interactions/{name}/replay"),
        ("GET", f"/v1beta/environments/{name}"),
        ("DELETE", f"/v1beta/environments/{name}"),
        ("GET", f"/ops/logs/{name}"),
    ):
        assert (await api.error(method, path))[0] in (404, 405), path


async def test_deleting_removes_the_record(api: Api) -> None:
    created = await api.create()
    path = f"/v1beta/interactions/{created['id']}"
    assert (await api.client.delete(path)).json() == {}
    assert (await api.error("GET", path))[0] == 404
    assert (await api.error("DELETE", path))[0] == 404


async def test_pages_of_environments(api: Api) -> None:
    made = [(await api.create(environment="remote"))["environment_id"] for _ in range(5)]
    status, code, _ = await api.error(
        "POST", "/v1beta/interactions", json={"agent": "general", "input": "x", "environment": "remote"}
    )
    assert (status, code) == (429, "too_many_requests")
    seen: list[str] = []
    token = None
    while True:
        params = {"page_size": "2", **({"page_token": token} if token else {})}
        page = (await api.client.get("/v1beta/environments", params=params)).json()
        seen += [each["id"] for each in page["environments"]]
        token = page.get("next_page_token")
        if token is None:
            break
    assert seen == made[::-1]
    assert (await api.error("GET", "/v1beta/environments", params={"page_token": "nonsense"}))[:2] == (
        400,
        "invalid_request",
    )


async def test_values_of_variables_and_contents_of_sources_are_never_shown(api: Api) -> None:
    source = {"type": "inline", "target": "workspace/a", "content": "canary-content"}
    spec = {"type": "remote", "sources": [source], "env": {"TOKEN": "canary-value"}}
    created = await api.create(environment=spec)
    for path in (
        f"/v1beta/interactions/{created['id']}?include_input=true",
        f"/v1beta/interactions/{created['id']}?stream=true",
        f"/v1beta/environments/{created['environment_id']}",
        "/v1beta/environments",
        "/ops/ps",
        f"/ops/logs/{created['id']}",
        f"/ops/logs/{created['environment_id']}",
    ):
        answer = await api.client.get(path)
        assert answer.status_code == 200
        assert "canary" not in answer.text, path


# tenancy


async def add_key(api: Api, project: str, key: str, *, is_operator: bool = False) -> dict[str, str]:
    owner = await api.store.ensure_project(project)
    await api.store.create_key(key_row(owner.id, is_operator=is_operator), hashlib.sha256(key.encode()).digest())
    return {"x-goog-api-key": key}


async def test_another_projects_things_are_not_found_exactly_like_unknown_ones(api: Api) -> None:
    ours, theirs = await add_key(api, "ours", "crl_ours"), await add_key(api, "theirs", "crl_theirs")
    request = {"agent": "general", "input": "x", "environment": "remote"}
    created = (await api.client.post("/v1beta/interactions", json=request, headers=ours)).json()
    unknown_interaction, unknown_environment = "v1_" + "A" * 48, "0" * 32
    for method, path in (
        ("GET", "/v1beta/interactions/{i}"),
        ("GET", "/v1beta/interactions/{i}?stream=true"),
        ("DELETE", "/v1beta/interactions/{i}"),
        ("POST", "/v1beta/interactions/{i}/cancel"),
        ("POST", "/v1beta/interactions/{i}/replay"),
        ("GET", "/v1beta/environments/{e}"),
        ("DELETE", "/v1beta/environments/{e}"),
        ("GET", "/ops/logs/{i}"),
        ("GET", "/ops/logs/{e}"),
    ):
        foreign = path.format(i=created["id"], e=created["environment_id"])
        unknown = path.format(i=unknown_interaction, e=unknown_environment)
        seen = await api.error(method, foreign, headers=theirs)
        expected = await api.error(method, unknown, headers=theirs)
        same = seen[2].replace(created["id"], "ID").replace(created["environment_id"], "ID")
        assert (seen[0], seen[1], same) == (
            404,
            "not_found",
            expected[2].replace(unknown_interaction, "ID").replace(unknown_environment, "ID"),
        )
    for fields in ({"previous_interaction_id": created["id"]}, {"environment": created["environment_id"]}):
        refused = await api.error(
            "POST", "/v1beta/interactions", json={"agent": "general", "input": "x", **fields}, headers=theirs
        )
        assert refused[:2] == (404, "not_found")
    assert (await api.client.get("/v1beta/environments", headers=theirs)).json() == {"environments": []}
    assert (await api.client.get("/ops/ps", headers=theirs)).json() == {"environments": [], "interactions": []}
    assert (await api.client.get(f"/v1beta/interactions/{created['id']}", headers=ours)).status_code == 200


async def test_an_operator_sees_every_project_but_only_in_the_operators_routes(api: Api) -> None:
    ours = await add_key(api, "ours", "crl_ours")
    operator = await add_key(api, "ops", "crl_ops", is_operator=True)
    request = {"agent": "general", "input": "x", "environment": "remote"}
    created = (await api.client.post("/v1beta/interactions", json=request, headers=ours)).json()
    assert len((await api.client.get("/ops/ps", headers=operator)).json()["environments"]) == 1
    assert (await api.client.get(f"/ops/logs/{created['id']}", headers=operator)).status_code == 200
    assert (await api.error("GET", f"/v1beta/interactions/{created['id']}", headers=operator))[0] == 404


async def test_health_needs_no_key_and_everything_else_does(api: Api) -> None:
    await add_key(api, "ours", "crl_ours")
    assert (await api.client.get("/healthz")).status_code == 200
    assert (await api.client.get("/readyz")).status_code == 200
    for method, path in (
        ("GET", "/v1beta/environments"),
        ("POST", "/v1beta/interactions"),
        ("GET", "/ops/ps"),
        ("GET", "/ops/logs/x"),
        ("GET", "/v1beta/interactions/x"),
    ):
        assert (await api.error(method, path))[:2] == (401, "unauthenticated")


# browsers


async def test_in_single_user_mode_no_page_may_call(api: Api) -> None:
    evil = {"origin": "https://evil.example"}
    assert (await api.error("POST", "/v1beta/interactions", json={}, headers=evil))[0] == 403
    preflight = await api.client.options(
        "/v1beta/interactions", headers={**evil, "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in preflight.headers
    answer = await api.client.get("/v1beta/environments", headers={"host": "evil.example"})
    assert answer.status_code == 403


async def test_with_keys_any_page_may_call(api: Api) -> None:
    ours = await add_key(api, "ours", "crl_ours")
    page = {"origin": "https://app.example"}
    preflight = await api.client.options(
        "/v1beta/interactions", headers={**page, "access-control-request-method": "POST"}
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "x-goog-api-key" in preflight.headers["access-control-allow-headers"]
    answer = await api.client.get("/v1beta/environments", headers={**page, **ours})
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_server_that_closes_is_not_ready(api: Api) -> None:
    api.services.closing.set()
    answer = await api.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "closing"})
    assert (await api.client.get("/healthz")).status_code == 200
