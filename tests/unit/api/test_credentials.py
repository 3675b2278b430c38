"""Routes of credentials, and fields of requests that name them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from orchestrator.sandboxes.specs import read_spec, variables_of
from tests.fakes.api import Api
from tests.fakes.rows import key_row

pytestmark = pytest.mark.anyio

CREDENTIALS = "/v1beta/credentials"
BEARER = {"type": "bearer_token", "token": "canary-token"}
VARIABLE = {
    "type": "environment_variable",
    "value": "canary-value",
    "injection_location": ["header"],
    "trusted_domains": ["crm.example.com"],
}


async def create(api: Api, credential_id: str = "crm", **fields: Any) -> dict[str, Any]:
    answer = await api.client.post(CREDENTIALS, json={"id": credential_id, **(fields or VARIABLE)})
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def test_answers_have_metadata_only(api: Api) -> None:
    made = await create(api)
    assert made == {
        "id": "crm",
        "type": "environment_variable",
        "status": "active",
        "create_time": made["create_time"],
        "update_time": made["create_time"],
    }
    for version in ("v1beta", "v1", "v1alpha"):
        for path in ("crm", "credentials/crm"):
            assert (await api.client.get(f"/{version}/credentials/{path}")).json() == made
    listed = (await api.client.get(CREDENTIALS)).json()
    assert listed == {"credentials": [made]}
    body = {"type": "environment_variable", "value": "canary-2", "injection_location": "query"}
    changed = (await api.client.patch(f"{CREDENTIALS}/crm", params={"update_mask": "value"}, json=body)).json()
    assert changed["update_time"] > made["update_time"]
    assert {**changed, "update_time": made["update_time"]} == made
    answer = await api.client.delete(f"{CREDENTIALS}/crm")
    assert (answer.status_code, answer.json()) == (200, {})
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", ":revoke"), ("POST", "/revoke")):
        status, code, message = await api.error(method, f"{CREDENTIALS}/crm{path}", json={})
        assert (status, code, message) == (404, "not_found", "Credential 'crm' not found.")
    assert (await api.client.post(CREDENTIALS, json=BEARER)).json()["id"].startswith("cred-")


async def test_an_id_is_given_once(api: Api) -> None:
    await create(api)
    assert await api.error("POST", CREDENTIALS, json={"id": "crm", **BEARER}) == (
        409,
        "aborted",
        "Credential 'crm' exists already.",
    )


async def test_a_revoked_credential_is_there_and_cannot_be_changed(api: Api) -> None:
    made = await create(api)
    for path in (":revoke", "/revoke"):
        revoked = (await api.client.post(f"{CREDENTIALS}/crm{path}")).json()
        assert (revoked["status"], revoked["create_time"]) == ("revoked", made["create_time"])
    status, code, message = await api.error("PATCH", f"{CREDENTIALS}/crm", json={"value": "x"})
    assert (status, code) == (400, "invalid_request")
    assert "is revoked" in message
    assert (await api.error("POST", CREDENTIALS, json={"id": "crm", **BEARER}))[:2] == (409, "aborted")


async def test_lists_have_pages(api: Api) -> None:
    for number in range(5):
        await create(api, f"c{number}")
    for size, token in (("page_size", "page_token"), ("pageSize", "pageToken")):
        found: list[str] = []
        page: dict[str, Any] = (await api.client.get(CREDENTIALS, params={size: 2})).json()
        while True:
            found += [each["id"] for each in page["credentials"]]
            if "next_page_token" not in page:
                break
            assert len(page["credentials"]) == 2
            page = (await api.client.get(CREDENTIALS, params={size: 2, token: page["next_page_token"]})).json()
        assert sorted(found) == [f"c{number}" for number in range(5)]
    for query in ("page_token=nothing", "page_size=0", "parent=x"):
        assert (await api.error("GET", f"{CREDENTIALS}?{query}"))[:2] == (400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("POST", "", {**BEARER, "header_name": "a b"}, "'header_name'"),
        ("POST", "", {**BEARER, "token": "canary\r\nX: y"}, "'token'"),
        ("POST", "", {**BEARER, "header_name": "Content-Length"}, "'header_name'"),
        ("POST", "", {**VARIABLE, "trusted_domains": ["a.example", "canary/"]}, "'trusted_domains[1]'"),
        ("POST", "", {**VARIABLE, "injection_location": "cookie"}, "'injection_location[0]'"),
        ("POST", "", {"type": "basic"}, "'basic'"),
        ("POST", "", [], "expected an object"),
        ("PATCH", "/crm", {"type": "bearer_token"}, "'type'"),
        ("PATCH", "/crm?update_mask=token", {}, "'update_mask'"),
        ("PATCH", "/crm?mask=token", {}, "'mask'"),
        ("PATCH", "/crm", {"trusted_domains": ["*"]}, "'trusted_domains[0]'"),
    ],
)
async def test_what_is_wrong_is_400_with_its_path(api: Api, method: str, path: str, body: Any, told: str) -> None:
    await create(api)
    status, code, message = await api.error(method, f"{CREDENTIALS}{path}", json=body)
    assert (status, code) == (400, "invalid_request")
    assert told in message
    assert "canary\r" not in message


async def test_another_projects_credentials_are_unknown(api: Api) -> None:
    for name in ("ours", "theirs"):
        project = await api.store.ensure_project(name)
        await api.store.create_key(key_row(project.id), hashlib.sha256(name.encode()).digest())
    ours, theirs = ({"x-goog-api-key": name} for name in ("ours", "theirs"))
    answer = await api.client.post(CREDENTIALS, json={"id": "crm", **VARIABLE}, headers=ours)
    assert answer.status_code == 200, answer.text
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", ":revoke")):
        foreign = await api.error(method, f"{CREDENTIALS}/crm{path}", json={}, headers=theirs)
        unknown = await api.error(method, f"{CREDENTIALS}/nothing{path}", json={}, headers=theirs)
        assert foreign[2].replace("crm", "nothing") == unknown[2]
        assert foreign[:2] == unknown[:2] == (404, "not_found")
    assert (await api.client.get(CREDENTIALS, headers=theirs)).json() == {"credentials": []}
    body = {"env": {"A": {"credential": "crm"}}}
    status, _, message = await api.error("POST", "/v1beta/environments", json=body, headers=theirs)
    assert (status, message) == (400, "Invalid value at 'env.A.credential': Credential 'crm' not found.")
    # And it may have one of the same name.
    answer = await api.client.post(CREDENTIALS, json={"id": "crm", **BEARER}, headers=theirs)
    assert answer.json()["type"] == "bearer_token"
    assert (await api.client.get(f"{CREDENTIALS}/crm", headers=ours)).json()["type"] == "environment_variable"


NAMED = [
    ("/v1beta/environments", "", lambda environment: environment),
    (
        "/v1beta/interactions",
        "environment.",
        lambda environment: {"agent": "general", "input": "x", "environment": environment},
    ),
    ("/v1beta/agents", "base_environment.", lambda environment: {"id": "clerk", "base_environment": environment}),
]
every_place = pytest.mark.parametrize(("path", "lead", "body_of"), NAMED, ids=["environment", "interaction", "agent"])


@every_place
async def test_what_is_named_must_be_there(api: Api, path: str, lead: str, body_of: Any) -> None:
    await create(api)
    await create(api, "revoked")
    await api.client.post(f"{CREDENTIALS}/revoked:revoke")
    await create(api, "bearer", **BEARER)
    for name, told in (
        ("nobody", "Credential 'nobody' not found."),
        ("credentials/nobody", "Credential 'nobody' not found."),
        ("revoked", "Credential 'revoked' is revoked."),
        (
            "bearer",
            "Credential 'bearer' is of the type 'bearer_token'; expected one of the type 'environment_variable'.",
        ),
    ):
        environment = {"env": {"B": "x", "A": {"credential": name}}}
        status, code, message = await api.error("POST", path, json=body_of(environment))
        assert (status, code) == (400, "invalid_request")
        assert message == f"Invalid value at '{lead}env.A.credential': {told}"
    assert (await api.client.get("/v1beta/environments")).json() == {"environments": []}


async def test_a_sandbox_has_a_placeholder(api: Api) -> None:
    await create(api)
    body = {"env": {"TOKEN": {"credential": "crm"}, "MODE": "test"}}
    answer = await api.client.post("/v1beta/environments", json=body)
    assert answer.status_code == 200, answer.text
    row = await api.store.environment(None, answer.json()["id"])
    assert row is not None
    assert variables_of(read_spec(row)) == {"TOKEN": "__GEMINI_CRED_crm__", "MODE": "test"}
    assert json.loads(row.spec)["env"]["TOKEN"] == {"credential": "crm"}


async def test_variables_that_are_added_to_an_environment_are_checked(api: Api) -> None:
    made = (await api.client.post("/v1beta/environments", json={})).json()
    environment = {"type": "remote", "environment_id": made["id"], "env": {"A": {"credential": "crm"}}}
    body = {"agent": "general", "input": "x", "environment": environment}
    status, _, message = await api.error("POST", "/v1beta/interactions", json=body)
    assert (status, message) == (400, "Invalid value at 'environment.env.A.credential': Credential 'crm' not found.")
    fork = {"from_environment": made["id"], "env": {"A": {"credential": "crm"}}}
    status, _, message = await api.error("POST", "/v1beta/environments", json=fork)
    assert (status, message) == (400, "Invalid value at 'env.A.credential': Credential 'crm' not found.")


async def test_what_an_agent_brings_along_is_looked_for_at_each_call(api: Api) -> None:
    await create(api)
    base = {"env": {"A": {"credential": "crm"}}}
    answer = await api.client.post("/v1beta/agents", json={"id": "clerk", "base_environment": base})
    assert answer.status_code == 200, answer.text
    await api.client.delete(f"{CREDENTIALS}/crm")
    body = {"agent": "clerk", "input": "x", "environment": "remote"}
    status, _, message = await api.error("POST", "/v1beta/interactions", json=body)
    assert (status, message) == (400, "Invalid value at 'environment.env.A.credential': Credential 'crm' not found.")
    status, _, message = await api.error("PATCH", "/v1beta/agents/clerk", json={"base_environment": base})
    assert (status, message) == (
        400,
        "Invalid value at 'base_environment.env.A.credential': Credential 'crm' not found.",
    )
