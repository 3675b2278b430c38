"""The main path over HTTP: an agent runs in a sandbox, its steps stream, and everything can be read again."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.local_driver import CutsLink, FailsDuringCreate, LocalDriver
from tests.fakes.local_server import RunningServer, event_of, frames, running
from tests.fakes.runs import bash, scripted

pytestmark = pytest.mark.anyio


def text_of(interaction: dict[str, Any]) -> str:
    return str(interaction.get("output_text", ""))


def results(interaction: dict[str, Any]) -> list[Any]:
    return [step["result"] for step in interaction["steps"] if step["type"] == "code_execution_result"]


async def test_one_call_runs_an_agent_in_a_sandbox(server: RunningServer) -> None:
    created = await server.create(
        "```bash\necho hello > file; pwd\n```\n```python\nopen('file').read()\n```", environment="remote"
    )
    assert created["status"] == "completed"
    assert len(created["environment_id"]) == 32
    assert results(created)[0].endswith("/workspace\n")
    assert results(created)[1] == "'hello\\n'\n"
    read = await server.read(created["id"])
    assert read["steps"][1:] == created["steps"]
    assert text_of(read) == text_of(created) != ""


async def test_a_stream_is_what_is_stored(server: RunningServer) -> None:
    request = {
        "agent": "general",
        "input": "```bash\necho one; sleep 0.2; echo two\n```",
        "environment": "remote",
        "stream": True,
    }
    async with server.client.stream("POST", "/v1beta/interactions", json=request) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        live = b"".join([piece async for piece in answer.aiter_raw()])
    found = frames(live)
    events = [event_of(frame) for frame in found[:-1]]
    assert found[-1] == b"event: done\ndata: [DONE]\n\n"
    assert [event["event_type"] for event in events[:2]] == ["interaction.created", "interaction.status_update"]
    assert events[-1]["event_type"] == "interaction.completed"
    assert events[-1]["interaction"]["status"] == "completed"
    interaction_id = events[0]["interaction"]["id"]
    assert frames(await server.stream(interaction_id)) == found


async def test_events_arrive_while_the_agent_works(server: RunningServer) -> None:
    request = {"agent": "general", "input": "```bash\nsleep 0.5\n```", "environment": "remote", "stream": True}
    seen: list[tuple[float, bytes]] = []
    loop = asyncio.get_running_loop()
    async with server.client.stream("POST", "/v1beta/interactions", json=request) as answer:
        async for piece in answer.aiter_raw():
            seen.append((loop.time(), piece))
    call = next(at for at, piece in seen if b"code_execution_call" in piece)
    result = next(at for at, piece in seen if b"code_execution_result" in piece)
    assert result - call > 0.4


async def test_a_run_in_the_background(server: RunningServer) -> None:
    begun = await server.create("```bash\nsleep 0.3; echo done\n```", environment="remote", background=True)
    assert begun["status"] == "in_progress"
    assert "done" in str(results(await server.ended(begun["id"])))


async def test_cancel_ends_the_command_and_the_environment_stays(server: RunningServer) -> None:
    begun = await server.create(
        "```bash\necho $$ > pid; touch begun; sleep 60\n```", environment="remote", background=True
    )
    await eventually_exists(server, begun["environment_id"], "begun")
    cancelled = await server.cancel(begun["id"])
    assert cancelled["status"] == "cancelled"
    assert "cancelled" in str(results(cancelled))
    after = await server.create(
        "```bash\nps -p $(cat pid) > /dev/null && echo alive || echo gone\n```", environment=begun["environment_id"]
    )
    assert results(after) == ["gone\n"]


async def eventually_exists(server: RunningServer, environment_id: str, name: str) -> None:
    async with asyncio.timeout(10):
        while True:
            row = await server.services.store.environment(None, environment_id)
            if row is not None and row.sandbox_ref and (Path(row.sandbox_ref) / "workspace" / name).exists():
                return
            await asyncio.sleep(0.02)


async def test_a_chain_goes_on_where_it_was(server: RunningServer) -> None:
    first = await server.create("```python\nsecret = 42\n```", environment="remote")
    second = await server.create("```python\nsecret + 1\n```", previous_interaction_id=first["id"])
    assert second["environment_id"] == first["environment_id"]
    assert results(second) == ["43\n"]
    third = await server.create("```python\nsecret + 2\n```", environment=first["environment_id"])
    assert results(third) == ["44\n"]


async def test_environments_are_apart(server: RunningServer) -> None:
    first = await server.create("```bash\necho mine > file\n```", environment="remote")
    second = await server.create("```bash\ncat file\n```", environment="remote")
    assert second["environment_id"] != first["environment_id"]
    assert "No such file" in results(second)[0]


async def test_two_interactions_use_one_environment_at_once(server: RunningServer) -> None:
    first = await server.create("```python\nn = 0\n```", environment="remote")
    both = await asyncio.gather(
        *(
            server.create(
                "```python\nimport time\nm = n; time.sleep(0.1); n = m + 1; n\n```", environment=first["environment_id"]
            )
            for _ in range(3)
        )
    )
    assert sorted(results(each)[0] for each in both) == ["1\n", "2\n", "3\n"], "cells queue"
    started = asyncio.get_running_loop().time()
    await asyncio.gather(
        *(server.create("```bash\nsleep 0.5\n```", environment=first["environment_id"]) for _ in range(3))
    )
    assert asyncio.get_running_loop().time() - started < 1.4, "commands run side by side"


async def test_sources_variables_and_file_tools(server: RunningServer) -> None:
    image = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
    environment = {
        "type": "remote",
        "sources": [
            {"type": "inline", "target": "workspace/notes/a.txt", "content": "alpha\nbeta\n"},
            {"type": "inline", "target": "workspace/p.png", "content": image, "encoding": "base64"},
        ],
        "env": {"NAME": "Ada"},
    }
    created = await server.create(
        scripted(
            {
                "calls": [
                    {"tool": "edit_file", "arguments": {"path": "notes/a.txt", "old_text": "beta", "new_text": "gamma"}}
                ]
            },
            {"calls": [{"tool": "search_files", "arguments": {"pattern": "gam+a"}}]},
            {"calls": [{"tool": "read_file", "arguments": {"path": "p.png"}}, bash("echo $NAME; cat notes/a.txt")]},
            {"text": "{{last}}"},
        ),
        environment=environment,
    )
    assert created["status"] == "completed", created
    functions = [step["result"] for step in created["steps"] if step["type"] == "function_result"]
    assert "1 replacement" in functions[0]
    assert functions[1].endswith("notes/a.txt:2: gamma\n")
    assert [block["type"] for block in functions[2]] == ["text", "image"]
    assert text_of(created) == "Ada\nalpha\ngamma\n"


async def test_a_run_without_an_environment(server: RunningServer) -> None:
    created = await server.create("hello")
    assert created["status"] == "completed"
    assert "environment_id" not in created


async def test_deleting_an_environment_ends_what_runs_in_it(server: RunningServer, sandboxes: Path) -> None:
    begun = await server.create("```bash\ntouch begun; sleep 60\n```", environment="remote", background=True)
    await eventually_exists(server, begun["environment_id"], "begun")
    answer = await server.client.delete(f"/v1beta/environments/{begun['environment_id']}")
    assert answer.json() == {}
    assert (await server.read(begun["id"]))["status"] == "cancelled"
    assert list(sandboxes.iterdir()) == []
    missing = await server.client.post(
        "/v1beta/interactions", json={"agent": "general", "input": "x", "previous_interaction_id": begun["id"]}
    )
    assert missing.status_code == 404


# clients that leave


async def test_a_reader_that_leaves_leaves_the_run_alone(server: RunningServer) -> None:
    request = {
        "agent": "general",
        "input": "```bash\nsleep 0.4; echo done\n```",
        "environment": "remote",
        "stream": True,
    }
    async with server.client.stream("POST", "/v1beta/interactions", json=request) as answer:
        first = await anext(answer.aiter_raw())
    interaction_id = event_of(frames(first)[0])["interaction"]["id"]
    assert "done" in str(results(await server.ended(interaction_id)))


async def test_a_caller_that_gives_up_leaves_the_run_alone(server: RunningServer) -> None:
    request = {"agent": "general", "input": "```bash\nsleep 0.6; echo done\n```", "environment": "remote"}
    with pytest.raises(httpx2.TimeoutException):
        await server.client.post("/v1beta/interactions", json=request, timeout=0.3)
    (row,) = await server.services.store.interactions(None)
    assert "done" in str(results(await server.ended(row.id)))


async def test_readers_that_come_and_go_leave_nothing_open(server: RunningServer) -> None:
    begun = await server.create("```bash\nsleep 5\n```", environment="remote", background=True)
    params = {"stream": "true"}
    for _ in range(100):
        async with server.client.stream("GET", f"/v1beta/interactions/{begun['id']}", params=params) as answer:
            await anext(answer.aiter_raw())
    await asyncio.sleep(0.2)
    channels = server.services.store._channels  # type: ignore[attr-defined]
    assert sum(channel.readers for channel in channels._channels.values()) == 0
    await server.cancel(begun["id"])


# faults


async def test_a_start_that_fails_fails_the_run_and_the_next_may_succeed(tmp_path: Path, sandboxes: Path) -> None:
    driver = FailsDuringCreate(sandboxes, "start")
    async with running(tmp_path / "data", driver) as server:
        failed = await server.create("```bash\necho hello\n```", environment="remote")
        assert (failed["status"], failed["errors"][0]["code"]) == ("failed", "sandbox_start_failed")
        driver.times = 0
        again = await server.create("```bash\necho hello\n```", environment=failed["environment_id"])
        assert results(again) == ["hello\n"]


async def test_a_cut_link_is_not_noticed_by_the_agent(tmp_path: Path, sandboxes: Path) -> None:
    driver = CutsLink(sandboxes)
    async with running(tmp_path / "data", driver) as server:
        begun = await server.create(
            "```bash\necho x >> count; touch begun; sleep 0.5; cat count\n```", environment="remote", background=True
        )
        await eventually_exists(server, begun["environment_id"], "begun")
        driver.cut()
        ended = await server.ended(begun["id"])
        assert (ended["status"], results(ended)) == ("completed", ["x\n"])


async def test_a_killed_guest_is_told_to_the_agent_and_files_are_kept(tmp_path: Path, sandboxes: Path) -> None:
    driver = LocalDriver(sandboxes)
    async with running(tmp_path / "data", driver) as server:
        begun = await server.create(
            "```bash\necho kept > file; touch begun; sleep 60\n```\n```bash\ncat file\n```",
            environment="remote",
            background=True,
        )
        await eventually_exists(server, begun["environment_id"], "begun")
        (ref,) = [found.ref async for found in driver.owned()]
        await driver.stop(ref)
        ended = await server.ended(begun["id"])
        assert ended["status"] == "completed"
        first, second = results(ended)
        assert "started again" in first
        assert second == "kept\n"
