"""Runs that are recorded and played back, and interactions that are run once more, over HTTP."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.config import ProviderSettings
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, ServerProcess, running
from tests.fakes.model_servers import Answer, OpenAIServer
from tests.fakes.runs import bash, scripted

pytestmark = pytest.mark.anyio

KEY = "crl_" + "aZ09_-" * 7 + "b"
STORY = scripted(
    {"thought": "Look first.", "text": "I look.", "calls": [bash("echo $((6 * 7)); exit 3")]},
    {"calls": [bash("echo kept >a.txt"), {"tool": "read_file", "arguments": {"path": "a.txt"}}]},
    {"text": "It said {{last}}"},
)
RANDOM = scripted({"calls": [bash("echo same"), bash("head -c 16 /dev/urandom | od -An -tx1")]}, {"text": "Done."})


def playing(name: str) -> dict[str, Any]:
    return {"agent_config": {"type": "antigravity", "model": f"replay:{name}"}}


def without_ids(interaction: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps that the run made, with calls by their order."""
    order: dict[str, str] = {}
    steps = [dict(step) for step in interaction["steps"] if step["type"] != "user_input"]
    for step in steps:
        for name in ("id", "call_id"):
            if name in step:
                step[name] = order.setdefault(step[name], f"call {len(order)}")
    return steps


async def replayed(server: RunningServer, interaction_id: str) -> dict[str, Any]:
    answer = await server.client.post(f"/v1beta/interactions/{interaction_id}/replay")
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "in_progress"
    return await server.ended(answer.json()["id"])


def recordings(folder: Path) -> list[Path]:
    return sorted(folder.glob("prj_*/*.jsonl"))


# recorded


async def test_a_recorded_run_gives_the_same_steps_again(tmp_path: Path, sandboxes: Path) -> None:
    async with running(tmp_path / "data", LocalDriver(sandboxes), record=True) as server:
        first = await server.create(STORY, environment="remote")
        (file,) = recordings(tmp_path / "data" / "cassettes")
        assert file.name == f"{first['id']}.jsonl"
        again = await server.create(STORY, environment="remote", **playing(file.name))
    assert (first["status"], again["status"]) == ("completed", "completed")
    assert [step["type"] for step in first["steps"]][:2] == ["thought", "model_output"]
    assert without_ids(again) == without_ids(first)
    assert again["usage"] == first["usage"]


async def test_a_cassette_goes_to_another_server(tmp_path: Path, sandboxes: Path) -> None:
    """As a file in a repository does: another data folder, another project, a shared folder of recordings."""
    async with running(tmp_path / "one", LocalDriver(sandboxes), record=True) as server:
        first = await server.create(STORY, environment="remote")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "story.jsonl").write_bytes(recordings(tmp_path / "one" / "cassettes")[0].read_bytes())
    settings: dict[str, Any] = {"cassettes_dir": shared, "model": "replay:story.jsonl"}
    async with running(tmp_path / "two", LocalDriver(sandboxes), **settings) as server:
        again = await server.create(STORY, environment="remote")
    assert without_ids(again) == without_ids(first)
    assert recordings(shared) == []


async def test_a_run_that_leaves_its_recording_fails_and_says_where(tmp_path: Path, sandboxes: Path) -> None:
    async with running(tmp_path / "data", LocalDriver(sandboxes), record=True) as server:
        first = await server.create(STORY, environment="remote")
        name = f"{first['id']}.jsonl"
        created = await server.create(f"{STORY}\nBe quick.", environment="remote", background=True, **playing(name))
        other_input = await server.ended(created["id"])
        created = await server.create(
            STORY, environment="remote", background=True, system_instruction="Be slow.", **playing(name)
        )
        other_system = await server.ended(created["id"])
        created = await server.create("x", background=True, **playing("../x"))
        nowhere = await server.ended(created["id"])
    (error,) = other_input["errors"]
    assert (other_input["status"], error["code"]) == ("failed", "replay_diverged")
    assert error["message"].startswith(
        f"The run leaves its recording '{name}' at turn 0: history[0] (user_input).content[0] (text).text: recorded "
    )
    assert "Be quick." in error["message"]
    (error,) = other_system["errors"]
    assert error["code"] == "replay_diverged"
    assert "at turn 0: system: recorded " in error["message"]
    assert "Be slow." in error["message"]
    (error,) = nowhere["errors"]
    assert error["code"] == "replay_not_found"
    assert "'../x'" in error["message"]


async def test_a_result_that_differs_is_where_the_run_leaves_it(tmp_path: Path, sandboxes: Path) -> None:
    async with running(tmp_path / "data", LocalDriver(sandboxes), record=True) as server:
        first = await server.create(RANDOM, environment="remote")
        name = f"{first['id']}.jsonl"
        created = await server.create(RANDOM, environment="remote", background=True, **playing(name))
        again = await server.ended(created["id"])
        (file,) = (file for file in recordings(tmp_path / "data" / "cassettes") if file.name == name)
        header, _, rest = file.read_text().partition("\n")
        file.write_text(json.dumps({**json.loads(header), "compare": ["system", "tools"]}) + "\n" + rest)
        tolerant = await server.create(RANDOM, environment="remote", **playing(name))
    (error,) = again["errors"]
    assert "at turn 1: history[4] (code_execution_result).result: recorded " in error["message"]
    assert tolerant["status"] == "completed"


async def test_secrets_are_scrubbed_and_come_from_the_run_that_plays(tmp_path: Path, sandboxes: Path) -> None:
    story = scripted({"text": f"I use {KEY}.", "calls": [bash("echo $TOKEN; echo then-secret")]}, {"text": "Done."})
    asked = {"type": "remote", "env": {"TOKEN": "then-secret"}}
    async with running(tmp_path / "data", LocalDriver(sandboxes), record=True) as server:
        first = await server.create(story, environment=asked)
        (file,) = recordings(tmp_path / "data" / "cassettes")
        written = file.read_text()
        then = story.replace("then-secret", "now-secret")
        now = {"type": "remote", "env": {"TOKEN": "now-secret"}}
        again = await server.create(then, environment=now, **playing(file.name))
    assert "then-secret" in json.dumps(first)
    assert KEY not in written
    assert "then-secret" not in written
    assert "I use [redacted]." in written
    assert "[redacted:TOKEN]" in written
    assert again["status"] == "completed", again.get("errors")
    (result,) = [step["result"] for step in again["steps"] if step["type"] == "code_execution_result"]
    assert result == "now-secret\nnow-secret\n"


async def test_a_real_provider_is_recorded_and_not_needed_again(tmp_path: Path, sandboxes: Path) -> None:
    call = ("code_execution", json.dumps({"language": "bash", "code": "echo from inside"}))
    turns = [Answer(text=("First.",), calls=(call,)), Answer(text=("It ", "said it."))] * 2
    provider = OpenAIServer({})
    inner = provider.model

    def model(path: str, body: dict[str, Any]) -> str:
        name = inner(path, body)
        provider.replies[name] = turns.pop(0)
        return name

    provider.model = model  # type: ignore[method-assign]
    shared = {"cassettes_dir": tmp_path / "cassettes"}
    async with provider.running():
        given = ProviderSettings(kind="openai", base_url=provider.url, api_key="canary-0123456789")
        settings: dict[str, Any] = {**shared, "providers": {"local": given}, "model": "local:agent", "record": True}
        async with running(tmp_path / "data", LocalDriver(sandboxes), **settings) as server:
            first = await server.create("Go.", environment="remote")
            told = await server.create("The key is canary-0123456789.", environment="remote")
    async with running(tmp_path / "data", LocalDriver(sandboxes), **shared) as server:
        again = await server.create("Go.", environment="remote", **playing(f"{first['id']}.jsonl"))
        once_more = await replayed(server, first["id"])
    assert (first["status"], told["status"], again["status"]) == ("completed", "completed", "completed")
    assert without_ids(again) == without_ids(first)
    assert again["usage"] == first["usage"]
    assert without_ids(once_more) == without_ids(first)
    written = "".join(file.read_text() for file in recordings(tmp_path / "cassettes"))
    assert "The key is [redacted]." in written
    assert "canary" not in written


async def test_nothing_is_recorded_unless_it_is_wanted(server: RunningServer, tmp_path: Path) -> None:
    await server.create(STORY, environment="remote")
    assert not (tmp_path / "data" / "cassettes").exists()


# once more


async def test_an_interaction_is_run_once_more_and_its_results_are_those_of_now(server: RunningServer) -> None:
    for text, is_same in ((STORY, True), (RANDOM, False)):
        first = await server.create(text, environment="remote")
        again = await replayed(server, first["id"])
        assert again["status"] == first["status"] == "completed"
        assert again["environment_id"] != first["environment_id"]
        assert [step["type"] for step in without_ids(again)] == [step["type"] for step in without_ids(first)]
        assert (without_ids(again) == without_ids(first)) is is_same
        assert again["usage"] == first["usage"]


async def test_files_of_the_request_are_there_again_and_those_of_the_run_are_not(server: RunningServer) -> None:
    source = {"type": "inline", "target": "workspace/a.txt", "content": "asked"}
    text = scripted({"calls": [bash("cat a.txt; ls; echo made > made.txt")]}, {"text": "Done."})
    first = await server.create(text, environment={"type": "remote", "sources": [source]})
    second = await server.create(text, environment=first["environment_id"])
    assert "made.txt" in json.dumps(second["steps"])
    for each in (first, second):
        again = await replayed(server, each["id"])
        (result,) = [step["result"] for step in again["steps"] if step["type"] == "code_execution_result"]
        assert result == "askeda.txt\n"


async def test_one_that_waits_for_its_client_waits_again(server: RunningServer) -> None:
    tools = [{"type": "function", "name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}]
    text = scripted({"calls": [{"tool": "weather", "arguments": {"city": "Bonn"}}]}, {"text": "It is {{last}}."})
    first = await server.create(text, tools=tools)
    assert first["status"] == "requires_action"
    again = await replayed(server, first["id"])
    assert again["status"] == "requires_action"
    assert without_ids(again) == without_ids(first)
    (call,) = without_ids(first)
    result = {"type": "function_result", "call_id": first["steps"][0]["id"], "name": "weather", "result": "sunny"}
    body = {"agent": "general", "input": [result], "previous_interaction_id": first["id"]}
    second = (await server.client.post("/v1beta/interactions", json=body)).json()
    assert second["output_text"] == "It is sunny."
    answered = await replayed(server, second["id"])
    assert answered["output_text"] == "It is sunny."
    assert call["name"] == "weather"


async def test_what_cannot_be_replayed_is_refused(server: RunningServer) -> None:
    created = await server.create("```bash\nsleep 20\n```", environment="remote", background=True)
    for identity, status, code in ((created["id"], 400, "invalid_request"), ("v1_x", 404, "not_found")):
        answer = await server.client.post(f"/v1beta/interactions/{identity}/replay")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert identity in answer.json()["error"]["message"]
    await server.cancel(created["id"])
    await server.client.delete(f"/v1beta/environments/{created['environment_id']}")
    answer = await server.client.post(f"/v1beta/interactions/{created['id']}/replay")
    assert answer.status_code == 200, "it asked for a new one, and gets one"
    await server.cancel(answer.json()["id"])
    kept = (await server.create("x", environment="remote"))["environment_id"]
    first = await server.create("x", environment=kept)
    await server.client.delete(f"/v1beta/environments/{kept}")
    answer = await server.client.post(f"/v1beta/interactions/{first['id']}/replay")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "aborted")
    assert kept in answer.json()["error"]["message"]


def test_a_server_that_is_killed_takes_up_replays_and_recordings(new_process: ServerProcess, tmp_path: Path) -> None:
    new_process._env["CORRAL_RECORD"] = "1"
    new_process.start()
    text = scripted({"calls": [bash("date +%N")]}, {"calls": [bash("sleep 1; echo slept")]}, {"text": "Done."})
    first = new_process.ended(new_process.create(text)["id"])
    answer = httpx2.post(f"{new_process.url}/v1beta/interactions/{first['id']}/replay", timeout=30).json()
    deadline = time.monotonic() + 20
    while "date" not in httpx2.get(f"{new_process.url}/ops/logs/{answer['id']}").text:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    new_process.end(signal.SIGKILL)
    new_process.start()
    again = new_process.ended(answer["id"])
    assert again["status"] == "completed"
    assert [step["type"] for step in without_ids(again)] == [step["type"] for step in without_ids(first)]
    written = next(file for file in recordings(tmp_path / "data" / "cassettes") if file.stem == answer["id"])
    turns = [json.loads(line).get("turn") for line in written.read_text().splitlines()]
    assert sorted({turn for turn in turns if turn is not None}) == [0, 1, 2]
