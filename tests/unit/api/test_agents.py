"""Routes of agents, and interactions with agents of the project."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from orchestrator.wire.environments import EnvironmentSpec
from tests.fakes.api import Api
from tests.fakes.rows import key_row

pytestmark = pytest.mark.anyio

AGENTS = "/v1beta/agents"
RULES = {"type": "inline", "target": "workspace/rules.md", "content": "Be brief."}


async def create(api: Api, agent_id: str = "clerk", **fields: Any) -> dict[str, Any]:
    answer = await api.client.post(AGENTS, json={"id": agent_id, **fields})
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def get(api: Api, path: str, **params: Any) -> dict[str, Any]:
    answer = await api.client.get(f"{AGENTS}{path}", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_an_agent_is_created_read_and_deleted(api: Api) -> None:
    base = {"type": "remote", "sources": [RULES], "env": {"TOKEN": "s3cr3t"}}
    made = await create(api, instructions="Be brief.", base_agent="general", base_environment=base)
    assert made == {
        "id": "clerk",
        "base_agent": "general",
        "system_instruction": "Be brief.",
        "base_environment": {"type": "remote", "sources": [RULES]},
        "owner": "project",
        "version": 1,
        "created": made["created"],
        "updated": made["created"],
    }
    assert await get(api, "/clerk") == made
    assert await api.error("POST", AGENTS, json={"name": "clerk"}) == (
        409,
        "aborted",
        "Agent 'clerk' exists already.",
    )
    answer = await api.client.delete(f"{AGENTS}/clerk")
    assert (answer.status_code, answer.json()) == (200, {})
    assert (await api.error("GET", f"{AGENTS}/clerk"))[:2] == (404, "not_found")
    assert (await api.error("DELETE", f"{AGENTS}/clerk"))[:2] == (404, "not_found")
    assert (await create(api))["version"] == 1


async def test_lists_have_the_projects_agents_and_then_the_servers(api: Api) -> None:
    for number in range(3):
        await create(api, f"a{number}", base_environment={"sources": [RULES]})
    for size, token, following in (
        ("page_size", "page_token", "next_page_token"),
        ("pageSize", "pageToken", "nextPageToken"),
    ):
        listed: list[dict[str, Any]] = []
        page: dict[str, Any] = await get(api, "", **{size: 2})
        while following in page:
            assert len(page["agents"]) == 2
            listed += page["agents"]
            page = await get(api, "", **{size: 2, token: page[following]})
        listed += page["agents"]
        assert sorted(agent["id"] for agent in listed[:3]) == ["a0", "a1", "a2"]
        assert [agent["id"] for agent in listed[3:]] == ["brief", "general", "lost"]
        assert [agent["owner"] for agent in listed] == ["project"] * 3 + ["server"] * 3
        assert "Be brief." not in str(listed)
    whole = await get(api, "")
    assert whole["agents"] == listed
    assert "next_page_token" not in whole
    assert (await api.error("GET", f"{AGENTS}?page_token=nothing"))[:2] == (400, "invalid_request")
    assert (await api.error("GET", f"{AGENTS}?parent=x"))[:2] == (400, "not_supported")


async def test_agents_of_the_server_are_read_and_not_changed(api: Api) -> None:
    assert await get(api, "/general") == {"id": "general", "tools": [{"type": "code_execution"}], "owner": "server"}
    for method, path, body in (("PATCH", "", {}), ("DELETE", "", None), ("POST", ":rollback", {"version": 1})):
        status, code, message = await api.error(method, f"{AGENTS}/general{path}", json=body)
        assert (status, code) == (403, "permission_denied")
        assert "one of the server" in message
    assert (await api.error("GET", f"{AGENTS}/general/versions"))[:2] == (403, "permission_denied")


async def test_changes_are_versions(api: Api) -> None:
    await create(api, instructions="one", description="d", tools=[])
    changed = (await api.client.patch(f"{AGENTS}/clerk", json={"instructions": "two", "description": None})).json()
    assert (changed["version"], changed["system_instruction"], changed["tools"]) == (2, "two", [])
    assert "description" not in changed
    for path in ("/clerk:rollback", "/clerk/rollback"):
        back = (await api.client.post(f"{AGENTS}{path}", json={"version": 1})).json()
        assert (back["version"], back["system_instruction"], back["description"]) == (3, "one", "d")
    page = await get(api, "/clerk/versions", page_size=2)
    rest = await get(api, "/clerk/versions", page_token=page["nextPageToken"])
    found = page["agentVersions"] + rest["agentVersions"]
    assert [each["name"] for each in found] == [f"agents/clerk/versions/{number}" for number in (3, 2, 1)]
    assert [each["system_instruction"] for each in found] == ["one", "two", "one"]
    assert "nextPageToken" not in rest
    second = await get(api, "/clerk/versions/2")
    assert second == {**changed, "name": "agents/clerk/versions/2"}
    for path in ("/clerk/versions/4", "/clerk/versions/0", "/clerk/versions/-1", "/nobody/versions", "/nobody"):
        assert (await api.error("GET", f"{AGENTS}{path}"))[:2] == (404, "not_found"), path
    for path in ("/clerk/versions/x", "/clerk/versions?page_token=x"):
        assert (await api.error("GET", f"{AGENTS}{path}"))[:2] == (400, "invalid_request"), path


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"base_agnt": "general"}, "invalid_request", "'base_agnt' (closest known name: 'base_agent')"),
        ({"tools": [{"type": "computer_use"}]}, "not_supported", "'tools[0].type' 'computer_use'"),
        ({"agent_config": {"type": "deep-research"}}, "not_supported", "'agent_config.type' 'deep-research'"),
        (
            {"base_environment": {"env": {"A": {"credential": "c"}}}},
            "invalid_request",
            "'base_environment.env.A.credential': Credential 'c' not found",
        ),
        (
            {"base_environment": {"environment_id": "0" * 32, "setup": ["true"]}},
            "not_supported",
            "'base_environment.setup' together with 'environment_id'",
        ),
    ],
)
async def test_what_is_not_offered_is_refused_when_it_is_defined(
    api: Api, fields: dict[str, Any], code: str, named: str
) -> None:
    status, found, message = await api.error("POST", AGENTS, json={"id": "clerk", **fields})
    assert (status, found) == (400, code)
    assert named in message
    await create(api)
    assert (await api.error("PATCH", f"{AGENTS}/clerk", json=fields))[:2] == (400, code)
    assert (await get(api, "/clerk"))["version"] == 1


async def test_other_projects_agents_are_404(api: Api) -> None:
    for name in ("ours", "theirs"):
        project = await api.store.ensure_project(name)
        await api.store.create_key(key_row(project.id), hashlib.sha256(name.encode()).digest())
    ours, theirs = ({"x-goog-api-key": name} for name in ("ours", "theirs"))
    answer = await api.client.post(AGENTS, json={"id": "clerk"}, headers=ours)
    assert answer.status_code == 200, answer.text
    for method, path, body in (
        ("GET", "/clerk", None),
        ("PATCH", "/clerk", {}),
        ("DELETE", "/clerk", None),
        ("GET", "/clerk/versions", None),
        ("GET", "/clerk/versions/1", None),
        ("POST", "/clerk:rollback", {"version": 1}),
    ):
        assert (await api.error(method, f"{AGENTS}{path}", json=body, headers=theirs))[0] == 404, path
    call = {"agent": "clerk", "input": "hello"}
    assert (await api.error("POST", "/v1beta/interactions", json=call, headers=theirs))[0] == 404
    assert (await api.client.get(AGENTS, headers=theirs)).json()["agents"][0]["owner"] == "server"
    assert (await api.client.post(AGENTS, json={"id": "clerk"}, headers=theirs)).status_code == 200


# calls


async def test_an_interaction_tells_the_version_that_it_ran(api: Api) -> None:
    await create(api, instructions="one")
    await api.client.patch(f"{AGENTS}/clerk", json={"instructions": "two"})
    for name, version in (("clerk", 2), ("clerk@1", 1), ("agents/clerk@2", 2)):
        for field in ("agent", "model"):
            target: dict[str, Any] = {"agent": None, field: name}
            ran = await api.create(**target)
            assert (ran["status"], ran["agent"], ran["agent_version"]) == ("completed", "clerk", version)
            read = (await api.client.get(f"/v1beta/interactions/{ran['id']}")).json()
            assert (read["agent"], read["agent_version"]) == ("clerk", version)
    listed = (await api.client.get("/v1beta/interactions?agent=clerk")).json()["interactions"]
    assert [each["agent_version"] for each in listed].count(1) == 2
    assert "agent_version" not in await api.create()
    await api.client.delete(f"{AGENTS}/clerk")
    assert (await api.client.get(f"/v1beta/interactions/{ran['id']}")).json() == read


@pytest.mark.parametrize(("field", "value"), [("model", "scripted"), ("max_total_tokens", 5)])
async def test_what_an_agent_is_configured_to_is_not_for_calls(api: Api, field: str, value: Any) -> None:
    await create(api)
    call = {"agent": "clerk", "input": "hello", "agent_config": {"type": "antigravity", field: value}}
    status, code, message = await api.error("POST", "/v1beta/interactions", json=call)
    assert (status, code) == (400, "invalid_request")
    assert message.startswith(f"Invalid value at 'agent_config.{field}': it is fixed by agent 'clerk'")
    assert (await api.create(agent="clerk", agent_config={"type": "antigravity"}))["status"] == "completed"
    assert (await api.create(agent="general", agent_config=call["agent_config"]))["agent"] == "general"


async def test_a_new_environment_has_rules_and_variables_of_the_base_unless_the_call_says_otherwise(api: Api) -> None:
    base = {"network": "disabled", "env": {"A": "base", "B": "base"}, "sources": [RULES]}
    await create(api, base_environment=base)

    async def spec(environment: Any) -> tuple[EnvironmentSpec, str | None]:
        from orchestrator.sandboxes.specs import read_spec

        ran = await api.create("hello", agent="clerk", environment=environment)
        row = await api.store.environment(None, ran["environment_id"])
        assert row is not None
        return read_spec(row), row.template

    plain, template = await spec("remote")
    assert plain.network == "disabled"
    assert {name: variable.value for name, variable in plain.env.items()} == {"A": "base", "B": "base"}
    own, same = await spec({"type": "remote", "env": {"B": "own", "C": "own"}})
    assert {name: variable.value for name, variable in own.env.items()} == {"A": "base", "B": "own", "C": "own"}
    assert plain.sources == own.sources == []
    assert template is not None
    assert template == same
    other = {**RULES, "content": "Be kind."}
    await api.client.patch(f"{AGENTS}/clerk", json={"base_environment": {"sources": [other]}})
    changed, its = await spec("remote")
    assert (changed.network, changed.env) == (None, {})
    assert its not in (None, template)
