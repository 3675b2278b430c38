"""Ends of connections and of servers: runs outlast their callers; streams end between events and go on elsewhere."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx2
import pytest

from tests.fakes.runs import bash, scripted
from tests.stress.conftest import UsualServer
from tests.stress.reading import connect, crowd, eventually, held_back, let_go, stream_path, whole_stream

READERS = 200
_TURN = {"text": "All work and no play makes Jack a dull boy. " * 200, "chunk": 20, "calls": [bash("sleep 0.2")]}
STORY = scripted(*[_TURN] * 15)
"""Says something for some seconds."""
_LEFT_PATH = "/v1beta/interactions"
_REQUEST = {"agent": "general", "environment": "remote", "input": held_back({"text": "Done.", "chunk": 2})}


@pytest.mark.anyio
async def test_a_run_outlasts_the_caller_who_streams_it(process: UsualServer, sandboxes: Path) -> None:
    caller = await connect(process.port, _LEFT_PATH, body={**_REQUEST, "stream": True}, keeps=True)
    await caller.has_begun
    caller.leave()
    await caller.is_over
    frame = bytes(caller.frames.kept).split(b"\n\n", 1)[0]
    interaction_id = json.loads(frame.split(b"data: ", 1)[1])["interaction"]["id"]
    await let_go(sandboxes)
    assert process.ended(interaction_id)["status"] == "completed"
    whole = await whole_stream(process.port, interaction_id)
    assert whole.kept.startswith(caller.frames.kept)


@pytest.mark.anyio
async def test_a_run_outlasts_the_caller_who_waits_for_it(process: UsualServer, sandboxes: Path) -> None:
    caller = await connect(process.port, _LEFT_PATH, body=_REQUEST)
    await eventually(lambda: len(list(sandboxes.glob("*/workspace/here"))) == 1)
    (running,) = httpx2.get(f"{process.url}/ops/ps").json()["interactions"]
    caller.leave()
    await caller.is_over
    await let_go(sandboxes)
    assert process.ended(running["id"])["status"] == "completed"
    assert (await whole_stream(process.port, running["id"])).has_end


@pytest.mark.anyio
async def test_sigterm_ends_all_streams_between_events_and_the_next_server_goes_on(process: UsualServer) -> None:
    begun = process.create(STORY)
    async with crowd(process.port, [stream_path(begun["id"])] * READERS, keeps=True) as readers:
        await eventually(lambda: all(reader.frames.count > 300 for reader in readers))
        assert process.process is not None
        process.process.send_signal(signal.SIGTERM)
        before = [await reader.read_all() for reader in readers]
    assert all(frames.partial == b"" and frames.is_complete and not frames.has_end for frames in before)
    process.process.wait(15)
    process.start()
    paths = [stream_path(begun["id"], frames.last_id) for frames in before]
    async with crowd(process.port, paths, keeps=True) as readers:
        after = [await reader.read_all() for reader in readers]
    whole = await whole_stream(process.port, begun["id"])
    assert {bytes(first.kept + second.kept) for first, second in zip(before, after, strict=True)} == {bytes(whole.kept)}


@pytest.mark.anyio
async def test_sigterm_ends_streams_of_stored_runs_between_events_too(process: UsualServer, sandboxes: Path) -> None:
    """Slow readers of much: by far not all of it can be sent before the server is gone."""
    begun = process.create(held_back({"text": "{{last}}" * 300, "chunk": 2000}, says_bytes=100_000))
    await let_go(sandboxes)
    process.ended(begun["id"])
    async with crowd(process.port, [stream_path(begun["id"])] * 50, keeps=True, stalls=True) as readers:
        assert process.process is not None
        process.process.send_signal(signal.SIGTERM)
        for reader in readers:
            reader.go_on()
        before = [await reader.read_all() for reader in readers]
    assert all(frames.partial == b"" and frames.is_complete for frames in before)
    assert not all(frames.has_end for frames in before)
    process.process.wait(15)
    process.start()
    whole = await whole_stream(process.port, begun["id"])
    assert all(whole.kept.startswith(frames.kept) for frames in before)


@pytest.mark.anyio
async def test_a_quiet_stream_is_kept_alive_even_while_the_journal_grows(process: UsualServer, sandboxes: Path) -> None:
    """What a command prints is stored as it comes and shown at its end: until then its stream is quiet, too."""
    noisy = scripted({"calls": [bash("touch here; until [ -e go ]; do echo more; sleep 0.3; done")]})
    paths = [stream_path(process.create(text)["id"]) for text in (held_back(), noisy)]
    async with crowd(process.port, paths, keeps=True) as readers:
        await eventually(lambda: all(reader.frames.heartbeats for reader in readers), within_s=40)
        await let_go(sandboxes, 2)
        seen = await asyncio.gather(*(reader.read_all() for reader in readers))
    assert all(frames.has_end and b"keep-alive" not in frames.kept for frames in seen)
