"""Streams from any point, for many readers, across restarts, and at the server's end."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, ServerProcess, event_of, frames, running
from tests.fakes.runs import bash, scripted

STORY = scripted(
    {"thought": "Look first.", "text": "I look around.", "calls": [bash("echo one; sleep 0.1; echo two")], "chunk": 5},
    {"calls": [bash("sleep 0.2; echo three"), {"tool": "list_files"}]},
    {"text": "Done: {{last}}", "chunk": 7},
)


@pytest.mark.anyio
async def test_resuming_after_every_event_gives_the_same_bytes(server: RunningServer) -> None:
    begun = await server.create(STORY, environment="remote", background=True)
    live = await server.stream(begun["id"])
    found = frames(live)
    for at, frame in enumerate(found[:-1], 1):
        rest = await server.stream(begun["id"], event_of(frame)["event_id"])
        assert rest == b"".join(found[at:])


@pytest.mark.anyio
async def test_resuming_while_it_runs_gives_the_same_bytes(server: RunningServer) -> None:
    """Whoever comes back at any moment continues exactly where it stopped."""
    begun = await server.create(STORY, environment="remote", background=True)
    collected = b""
    last = ""
    rounds = 0
    params: dict[str, str] = {"stream": "true"}
    while b"[DONE]" not in collected:
        rounds += 1
        got = b""
        path = f"/v1beta/interactions/{begun['id']}"
        async with server.client.stream("GET", path, params={**params, "last_event_id": last}) as answer:
            async for piece in answer.aiter_raw():
                got += piece
                if got.count(b"\n\n") >= 3:
                    break
        whole = frames(got[: got.rfind(b"\n\n") + 2])
        collected += b"".join(whole)
        last = event_of(whole[-1])["event_id"] if b"[DONE]" not in whole[-1] else last
    assert rounds > 5
    assert collected == b"".join(frames(await server.stream(begun["id"])))


@pytest.mark.anyio
async def test_two_hundred_readers_see_the_same(server: RunningServer) -> None:
    begun = await server.create(STORY, environment="remote", background=True)

    async def read(number: int) -> bytes:
        await asyncio.sleep(number * 0.002)
        return b"".join(frames(await server.stream(begun["id"])))

    async with asyncio.timeout(30):
        seen = await asyncio.gather(*(read(number) for number in range(200)))
    assert len(set(seen)) == 1
    assert seen[0].endswith(b"event: done\ndata: [DONE]\n\n")


@pytest.mark.anyio
async def test_a_reader_of_a_deleted_interaction_sees_its_end(server: RunningServer) -> None:
    begun = await server.create("```bash\nsleep 30\n```", environment="remote", background=True)
    reading = asyncio.ensure_future(server.stream(begun["id"]))
    await asyncio.sleep(0.2)
    answer = await server.client.delete(f"/v1beta/interactions/{begun['id']}")
    assert answer.status_code == 200
    async with asyncio.timeout(5):
        stream = await reading
    assert event_of(frames(stream)[-2])["interaction"]["status"] == "cancelled"


@pytest.mark.anyio
async def test_a_run_goes_on_after_an_orderly_restart_and_its_command_is_not_repeated(
    tmp_path: Path, sandboxes: Path
) -> None:
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as first:
        begun = await first.create(
            "```bash\necho begun >> count; sleep 1.2; cat count\n```", environment="remote", background=True
        )
        reading = asyncio.ensure_future(first.stream(begun["id"]))
        (folder,) = await appearing(sandboxes, "*/workspace/count")
    before = frames(await reading)
    assert b"[DONE]" not in before[-1], "the stream ended with the server, not with the interaction"
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as second:
        after = await second.stream(begun["id"], event_of(before[-1])["event_id"])
        ended = await second.read(begun["id"])
        assert ended["status"] == "completed"
        assert [step["result"] for step in ended["steps"] if step["type"] == "code_execution_result"] == ["begun\n"]
        assert folder.read_text() == "begun\n"
        assert [*before, *frames(after)] == frames(await second.stream(begun["id"]))


async def appearing(folder: Path, pattern: str) -> list[Path]:
    async with asyncio.timeout(10):
        while not (found := list(folder.glob(pattern))):
            await asyncio.sleep(0.02)
    return found


@pytest.mark.parametrize(
    "story",
    [
        "```bash\nsleep 60\n```",
        scripted({"text": "x" * 400_000, "chunk": 1}),
    ],
    ids=["quiet", "busy"],
)
def test_sigterm_ends_open_streams_between_events_within_a_second(process: ServerProcess, story: str) -> None:
    begun = process.create(story)
    path = f"{process.url}/v1beta/interactions/{begun['id']}?stream=true"
    with httpx2.stream("GET", path, timeout=30) as answer:
        pieces = answer.iter_raw()
        got = next(pieces)
        assert process.process is not None
        started = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        for piece in pieces:
            got += piece
        took_s = time.monotonic() - started
    assert took_s < 1.0
    found = frames(got)
    assert [event_of(frame)["event_id"] for frame in found]
    process.process.wait(10)
    assert time.monotonic() - started < 3.0


def test_kill_9_loses_no_event_that_was_shown_and_repeats_no_command(process: ServerProcess, sandboxes: Path) -> None:
    begun = process.create("```bash\necho begun >> count; sleep 1.5; cat count\n```")
    path = f"{process.url}/v1beta/interactions/{begun['id']}?stream=true"
    deadline = time.monotonic() + 10
    while not list(sandboxes.glob("*/workspace/count")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with httpx2.stream("GET", path, timeout=30) as answer:
        got = next(answer.iter_raw())
        process.end(signal.SIGKILL)
    before = frames(got[: got.rfind(b"\n\n") + 2])
    process.start()
    ended = process.ended(begun["id"])
    assert ended["status"] == "completed", ended
    assert [step["result"] for step in ended["steps"] if step["type"] == "code_execution_result"] == ["begun\n"]
    whole = frames(httpx2.get(path, timeout=30).content)
    assert whole[: len(before)] == before


def test_runs_that_were_left_are_going_again_two_seconds_after_the_start(process: ServerProcess) -> None:
    begun = [process.create("```bash\nsleep 0.8; echo done\n```") for _ in range(8)]
    process.end(signal.SIGKILL)
    process.start()
    started = time.monotonic()
    for each in begun:
        assert process.ended(each["id"])["status"] == "completed"
    assert time.monotonic() - started < 8
