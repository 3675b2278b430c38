"""Runs with models of providers: over HTTP to the server, and from it over HTTP to a provider."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import PriceSettings, ProviderSettings
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, event_of, frames, running
from tests.fakes.model_servers import SERVERS, Answer, Cut, ModelServer, RateLimited, TooLong, WrongKey

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
    kind: str, folder: Path, sandboxes: Path, *turns: Any, **more: Any
) -> AsyncGenerator[tuple[RunningServer, Any], None]:
    provider = SERVERS[kind]({"wrong": WrongKey(KEY)})
    Playing(provider, *turns)
    async with provider.running():
        given = ProviderSettings(kind=kind, base_url=provider.url, api_key=KEY)
        settings = {"providers": {"local": given}, "model": "local:agent", **more}
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


async def test_tokens_and_costs_are_the_same_in_answers_streams_and_counters(tmp_path: Path, sandboxes: Path) -> None:
    told = {
        "promptTokenCount": 100,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": "IMAGE", "tokenCount": 30}],
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 30,
        "thoughtsTokenCount": 12,
        "toolUsePromptTokenCount": 8,
    }
    turns = (Answer(text=("First.",), calls=(CALL,), usage=told), Answer(text=("Done.",), usage=told))
    price = PriceSettings(input_mtok=2, output_mtok=10, cached_input_mtok=1)
    cost = 0.000596  # of a call: 60 and 8 at 2, 40 at 1, 42 at 10
    async with world("gemini", tmp_path, sandboxes, *turns, *turns, model_prices={"local:agent": price}) as (server, _):
        unary = await server.create("Go.", environment="remote")
        begun = await server.create("Go.", environment="remote", background=True)
        events = [event_of(frame) for frame in frames(await server.stream(begun["id"]))[:-1]]
        read = await server.read(begun["id"])
        counters = (await server.client.get("/metrics")).text
    assert unary["usage"] == {
        "total_input_tokens": 200,
        "total_cached_tokens": 80,
        "total_output_tokens": 60,
        "total_thought_tokens": 24,
        "total_tool_use_tokens": 16,
        "total_tokens": 300,
        "initial_input_tokens": 100,
        "input_tokens_by_modality": [{"modality": "text", "tokens": 140}, {"modality": "image", "tokens": 60}],
        "cost_usd": 2 * cost,
    }
    assert events[-1]["interaction"]["usage"] == read["usage"] == unary["usage"]
    stops = [event for event in events if event["event_type"] == "step.stop"]
    assert [stop.get("step_usage", {}).get("cost_usd") for stop in stops] == [None, cost, None, cost]
    assert [stop["usage"].get("cost_usd") for stop in stops] == [None, cost, cost, 2 * cost]
    counted = {
        line.partition(" ")[0]: float(line.partition(" ")[2]) for line in counters.splitlines() if line[0] != "#"
    }
    assert counted['corral_model_cost_usd_total{model="local:agent"}'] == pytest.approx(4 * cost)
    assert counted['corral_model_calls_total{model="local:agent",outcome="ok"}'] == 4
    for kind in ("input", "cached", "output", "thought", "tool_use"):
        told_tokens = unary["usage"][f"total_{kind}_tokens"]
        assert counted[f'corral_model_tokens_total{{kind="{kind}",model="local:agent"}}'] == 2 * told_tokens


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


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_an_answer_that_is_cut_stays_and_is_given_again(kind: str, tmp_path: Path, sandboxes: Path) -> None:
    whole = Answer(text=("The answer ", "is 42", "."))
    async with world(kind, tmp_path, sandboxes, Cut(whole, 3), whole) as (server, provider):
        created = await server.create("Go.", background=True)
        done = await server.ended(created["id"])
        stream = await server.client.get(f"/v1beta/interactions/{created['id']}?stream=true")
    assert done["status"] == "completed"
    *_, partial, again = done["steps"]
    assert partial["is_partial"]
    assert "broke off here" in partial["content"][0]["text"]
    assert again["content"][0]["text"] == done["output_text"] == "The answer is 42."
    assert stream.text.count('"is_partial":true') == 1
    assert len(provider.requests) == 2
    assert "broke off" not in json.dumps(provider.requests[1])


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_a_conversation_that_the_provider_finds_too_long_is_shortened(
    kind: str, tmp_path: Path, sandboxes: Path
) -> None:
    loud = Answer(calls=(("code_execution", json.dumps({"language": "bash", "code": "seq 5000"})),))
    turns = (loud, loud, loud, TooLong(), Answer(text=("They were numbers.",)))
    async with world(kind, tmp_path, sandboxes, *turns) as (server, provider):
        done = await server.create("Go.", environment="remote")
    assert done["status"] == "completed", done
    assert done["output_text"] == "They were numbers."
    whole, shorter = (json.dumps(request, ensure_ascii=False) for request in provider.requests[-2:])
    assert len(shorter) < len(whole) / 2
    assert shorter.count("characters left out") == 3  # the latest one has more room, not all
    assert done["steps"][1]["result"].endswith("5000\n")  # what was stored is whole
    assert "left out" not in json.dumps(done, ensure_ascii=False)
