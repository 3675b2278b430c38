"""A project's agents over loopback: their environments begin clean, and a run keeps the version that it began with."""

from __future__ import annotations

import json
import signal
from typing import Any

import httpx2
import pytest

from tests.fakes.local_server import RunningServer, ServerProcess

AGENTS = "/v1beta/agents"


def base(text: str) -> dict[str, Any]:
    return {"sources": [{"type": "inline", "target": "workspace/rules.md", "content": text}]}


def script(*turns: dict[str, Any]) -> str:
    return f"```script\n{json.dumps({'turns': turns})}\n```"


def bash(code: str) -> dict[str, Any]:
    return {"calls": [{"tool": "code_execution", "arguments": {"language": "bash", "code": code}}]}


def results(interaction: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for step in interaction["steps"] if step["type"] == "code_execution_result"]


@pytest.mark.anyio
async def test_every_run_begins_with_the_files_of_its_version(server: RunningServer) -> None:
    answer = await server.client.post(AGENTS, json={"id": "clerk", "base_environment": base("one")})
    assert answer.status_code == 200, answer.text
    read = "```bash\ncat rules.md; echo mine > rules.md\n```"

    async def seen(agent: str) -> tuple[str, int]:
        ran = await server.create(read, agent=agent, environment="remote")
        (result,) = results(ran)
        return result["result"], ran["agent_version"]

    assert [await seen("clerk") for _ in range(2)] == [("one", 1)] * 2
    answer = await server.client.patch(f"{AGENTS}/clerk", json={"base_environment": base("two")})
    assert answer.status_code == 200, answer.text
    assert await seen("clerk") == ("two", 2)
    assert await seen("clerk@1") == ("one", 1)
    answer = await server.client.post(AGENTS, json={"id": "child", "base_agent": "clerk@1"})
    assert answer.status_code == 200, answer.text
    assert await seen("child") == ("one", 1)


@pytest.mark.anyio
async def test_what_setup_made_is_there_in_every_run_and_is_refused_in_calls(server: RunningServer) -> None:
    environment = {**base("one"), "setup": ["cat rules.md rules.md > twice.md"]}
    answer = await server.client.post(AGENTS, json={"id": "clerk", "base_environment": environment})
    assert answer.status_code == 200, answer.text
    for _ in range(2):
        ran = await server.create("```bash\ncat twice.md; rm twice.md\n```", agent="clerk", environment="remote")
        assert [result["result"] for result in results(ran)] == ["oneone"]
    call = {"agent": "clerk", "input": "x", "environment": {"type": "remote", "setup": ["true"]}}
    refused = await server.client.post("/v1beta/interactions", json=call)
    assert refused.status_code == 400
    assert "environment.setup" in refused.text


@pytest.mark.anyio
async def test_an_agents_budget_ends_its_runs(server: RunningServer) -> None:
    config = {"type": "antigravity", "max_total_tokens": 1}
    assert (await server.client.post(AGENTS, json={"id": "clerk", "agent_config": config})).status_code == 200
    turn = {"text": "a", "usage": {"input_tokens": 5, "output_tokens": 5}, **bash("true")}
    ran = await server.create(script(turn, turn), agent="clerk", environment="remote")
    assert (ran["status"], ran["errors"][0]["code"]) == ("incomplete", "max_total_tokens")


def test_a_run_that_is_taken_up_has_the_version_that_it_began_with(process: ServerProcess) -> None:
    made = httpx2.post(f"{process.url}{AGENTS}", json={"id": "clerk"}).json()
    assert made["version"] == 1
    begun = process.create(
        script(bash("until [ -e go ]; do sleep 0.05; done; echo first"), bash("echo second"), {"text": "done"}),
        agent="clerk",
    )
    assert begun["agent_version"] == 1
    without_tools = httpx2.patch(f"{process.url}{AGENTS}/clerk", json={"tools": []}).json()
    assert without_tools["version"] == 2
    assert httpx2.delete(f"{process.url}{AGENTS}/clerk").status_code == 200
    assert httpx2.get(f"{process.url}{AGENTS}/clerk").status_code == 404
    process.end(signal.SIGKILL)
    process.start()
    process.create("```bash\ntouch go\n```", environment=begun["environment_id"])
    ended = process.ended(begun["id"])
    assert (ended["status"], ended["agent"], ended["agent_version"]) == ("completed", "clerk", 1)
    assert [result["result"].strip() for result in results(ended)] == ["first", "second"]
