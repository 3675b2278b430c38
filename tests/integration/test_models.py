"""Runs with models of providers: over HTTP to the server, and from it over HTTP to a provider."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import ProviderSettings
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, running
from tests.fakes.model_servers import SERVERS, Answer, ModelServer, RateLimited, WrongKey

pytestmark = pytest.mark.anyio

KEY = "canary-0123456789"
CALL = ("code_execution", json.dumps({"language": "bash", "code": "echo from inside"}))
UNREADABLE = [("code_execution", '{"language": "bash"'), ("code_execution", "not json"), ("code_execution", "[1, 2]")]
MALFORMED = [
    *UNREADABLE,
    ("code_execution", '{"language": ["bash"], "code": 1}'),
    ("code_execution", "{}"),
    ("read_file", '{"path": {"a": 1}}'),
    ("read_file", '{"path": "x", "more": true}'),
    ("functions.read file", '{"path": "x"}'),
]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nx").decode()
SIGNATURE = base64.b64encode(b"signed").decode()


class Playing:
    """Answers its first call with one thing, the next ones with another."""

    def __init__(self, server: ModelServer, *turns: Any) -> None:
        self.server, self.turns = server, list(turns)
        inner = server.model

        def model(path: str, body: dict[str, Any]) -> str:
            name = inner(path, body)
            if name == "agent":
                server.replies[name] = self.turns.pop(0)
            return name

        server.model = model  # type: ignore[method-assign]


@asynccontextmanager
async def world(
    kind: str, folder: Path, sandboxes: Path, *turns: Any
) -> AsyncGenerator[tuple[RunningServer, Any], None]:
    provider = SERVERS[kind]({"wrong": WrongKey(KEY)})
    Playing(provider, *turns)
    async with provider.running():
        given = ProviderSettings(kind=kind, base_url=provider.url, api_key=KEY)
        settings = {"providers": {"local": given}, "model": "local:agent"}
        async with running(folder / "data", LocalDriver(sandboxes), **settings) as server:
            yield server, provider


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_an_agent_calls_a_tool_and_reads_what_came_of_it(kind: str, tmp_path: Path, sandboxes: Path) -> None:
    turns = (Answer(text=("First.",), calls=(CALL,)), Answer(text=("It ", "said it.")))
    async with world(kind, tmp_path, sandboxes, *turns) as (server, provider):
        done = await server.create("Go.", environment="remote")
    assert done["status"] == "completed"
    assert [step["type"] for step in done["steps"]] == [
        "model_output",
        "code_execution_call",
        "code_execution_result",
        "model_output",
    ]
    assert done["steps"][-1]["content"][0]["text"] == "It said it."
    assert "from inside" in json.dumps(provider.requests[1])
    assert done["usage"]["total_input_tokens"] == 200
    assert done["usage"]["total_cached_tokens"] == 80


@pytest.mark.parametrize(
    ("kind", "call"),
    [(kind, call) for kind in sorted(SERVERS) for call in MALFORMED if not (kind == "gemini" and call in UNREADABLE)],
)
async def test_calls_that_are_malformed_are_told_to_the_model(
    kind: str, call: tuple[str, str], tmp_path: Path, sandboxes: Path
) -> None:
    turns = (Answer(calls=(call, CALL)), Answer(text=("Sorry.",)))
    async with world(kind, tmp_path, sandboxes, *turns) as (server, provider):
        done = await server.create("Go.", environment="remote")
    assert done["status"] == "completed", done.get("errors")
    assert len(provider.requests) == 2
    refused, fine = [step for step in done["steps"] if step["type"].endswith("_result")]
    assert (refused["is_error"], fine.get("is_error", False)) == (True, False)
    told = json.dumps(provider.requests[1], ensure_ascii=False)
    told_refused = refused["result"] if isinstance(refused["result"], str) else json.dumps(refused["result"])
    assert told_refused.split("\n")[0].split('"')[0] in told
    assert "from inside" in told


@pytest.mark.parametrize("call", UNREADABLE)
async def test_gemini_is_asked_again_for_a_call_that_it_does_not_tell_itself(
    call: tuple[str, str], tmp_path: Path, sandboxes: Path
) -> None:
    turns = (Answer(calls=(call,)), Answer(text=("Sorry.",)))
    async with world("gemini", tmp_path, sandboxes, *turns) as (server, provider):
        done = await server.create("Go.", environment="remote")
    assert (done["status"], len(provider.requests)) == ("completed", 2)


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_a_conversation_with_calls_goes_on_without_tools(kind: str, tmp_path: Path, sandboxes: Path) -> None:
    turns = (Answer(calls=(CALL,)), Answer(text=("Done.",)), Answer(text=("Only words.",)))
    async with world(kind, tmp_path, sandboxes, *turns) as (server, _):
        first = await server.create("Go.", environment="remote")
        more = {"model": "local:agent", "input": "Talk.", "previous_interaction_id": first["id"]}
        answer = await server.client.post(
            "/v1beta/interactions", json={**more, "generation_config": {"tool_choice": "none"}}
        )
    done = answer.json()
    assert done["status"] == "completed", done.get("errors")
    assert done["steps"][-1]["content"][0]["text"] == "Only words."


@pytest.mark.parametrize("kind", ["gemini", "openai"])
async def test_a_model_that_answers_with_an_image_reads_it_again(kind: str, tmp_path: Path, sandboxes: Path) -> None:
    turns = (Answer(text=("Here:",), images=((PNG, SIGNATURE),), after=("Nice?",)), Answer(text=("Thanks.",)))
    async with world(kind, tmp_path, sandboxes, *turns) as (server, provider):
        drawn = await server.create("Draw.")
        done = await server.create("Well done.", previous_interaction_id=drawn["id"])
    blocks = [block for step in drawn["steps"] for block in step.get("content", ())]
    assert [block.get("text") or block["data"] for block in blocks] == ["Here:", PNG, "Nice?"]
    assert done["status"] == "completed", done.get("errors")
    told = json.dumps(provider.requests[1])
    assert PNG in told
    assert (SIGNATURE in told) is (kind == "gemini")


async def test_a_provider_that_is_busy_is_asked_again(tmp_path: Path, sandboxes: Path) -> None:
    turns = (RateLimited("0"), Answer(text=("Now.",)))
    async with world("anthropic", tmp_path, sandboxes, *turns) as (server, provider):
        done = await server.create("Go.")
    assert (done["status"], len(provider.requests)) == ("completed", 2)


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_a_failure_is_readable_in_the_interaction_and_has_no_key(
    kind: str, tmp_path: Path, sandboxes: Path, logged: list[Any]
) -> None:
    async with world(kind, tmp_path, sandboxes) as (server, _):
        request = {"model": "local:wrong", "input": "Go.", "background": True}
        created = (await server.client.post("/v1beta/interactions", json=request)).json()
        done = await server.ended(created["id"])
    assert done["status"] == "failed"
    assert done["errors"][0]["code"] == "model_auth"
    assert "Incorrect key [key] provided." in done["errors"][0]["message"]
    assert KEY not in json.dumps(logged, default=repr)


async def test_a_model_that_nobody_has_names_what_to_set(tmp_path: Path, sandboxes: Path) -> None:
    async with world("openai", tmp_path, sandboxes) as (server, _):
        answer = await server.client.post("/v1beta/interactions", json={"model": "gemini:x", "input": "Go."})
    assert answer.status_code == 404
    assert "GEMINI_API_KEY" in answer.text
