"""Create calls that come again over real connections: cut, killed, repeated, at once."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import RunningServer, ServerProcess, event_of, frames, running

PATH = "/v1beta/interactions"


def counting(seconds: float) -> dict[str, Any]:
    """A run that says in a file that it began, and then takes its time."""
    return {
        "agent": "general",
        "input": f"```bash\necho begun >> count; sleep {seconds}; wc -l < count\n```",
        "environment": "remote",
    }


def results(interaction: dict[str, Any]) -> list[str]:
    return [step["result"] for step in interaction["steps"] if step["type"] == "code_execution_result"]


async def listed(server: RunningServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.client.get(PATH)).json()["interactions"]
    return found


def count_of(sandboxes: Path) -> int:
    """How often a command began, in all sandboxes together."""
    return sum(file.read_text().count("begun") for file in sandboxes.rglob("count"))


async def until(is_true: Any) -> None:
    async with asyncio.timeout(20):
        while not is_true():
            await asyncio.sleep(0.01)


class Raw:
    """A connection with one request on it, to be cut at any time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def cut(self) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)


def request_bytes(body: dict[str, Any], key: str | None = None) -> bytes:
    encoded = json.dumps(body).encode()
    headers = [f"POST {PATH} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    headers += [f"content-length: {len(encoded)}", *([f"idempotency-key: {key}"] if key else [])]
    return "\r\n".join(headers).encode() + b"\r\n\r\n" + encoded


@asynccontextmanager
async def posted(url: str, body: dict[str, Any], key: str | None = None) -> AsyncGenerator[Raw, None]:
    address = httpx2.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request_bytes(body, key))
    await writer.drain()
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


# connections that are cut


@pytest.mark.anyio
async def test_who_is_cut_off_while_waiting_finds_the_run_again(server: RunningServer, sandboxes: Path) -> None:
    body = counting(1)
    for _ in range(3):
        async with posted(server.url, body) as caller:
            await until(lambda: count_of(sandboxes))
            await caller.cut()
        await until(lambda: not server.services.replies._losses)
    answer = (await server.client.post(PATH, json=body)).json()
    assert answer["status"] == "completed"
    assert results(answer) == ["1\n"]
    assert [each["id"] for each in await listed(server)] == [answer["id"]]
    assert count_of(sandboxes) == 1


@pytest.mark.anyio
async def test_who_comes_back_at_once_finds_the_run_again(server: RunningServer, sandboxes: Path) -> None:
    body = counting(0.5)
    async with posted(server.url, body) as caller:
        await until(lambda: count_of(sandboxes))
        await caller.cut()
        answer = (await server.client.post(PATH, json=body)).json()
    assert results(answer) == ["1\n"]
    assert len(await listed(server)) == 1


@pytest.mark.anyio
async def test_who_is_cut_off_and_comes_back_when_the_run_has_ended_gets_its_answer(
    server: RunningServer, sandboxes: Path
) -> None:
    body = counting(0.2)
    async with posted(server.url, body) as caller:
        await until(lambda: count_of(sandboxes))
        await caller.cut()
    await until(lambda: not server.services.supervisor.running)
    answer = (await server.client.post(PATH, json=body)).json()
    assert results(answer) == ["1\n"]
    third = (await server.client.post(PATH, json=body)).json()
    assert third["id"] != answer["id"], "the answer was delivered: this is another run"
    assert len(await listed(server)) == 2


@pytest.mark.anyio
async def test_two_callers_that_were_cut_off_find_a_run_each(server: RunningServer, sandboxes: Path) -> None:
    body = counting(0.5)
    async with posted(server.url, body) as one, posted(server.url, body) as other:
        await until(lambda: count_of(sandboxes) == 2)
        await one.cut()
        await other.cut()
    await until(lambda: not server.services.supervisor.running)
    answers = await asyncio.gather(*(server.client.post(PATH, json=body) for _ in range(2)))
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert count_of(sandboxes) == 2


@pytest.mark.anyio
async def test_a_stream_whose_beginning_arrived_is_not_repeated(server: RunningServer, sandboxes: Path) -> None:
    body = {**counting(0.3), "stream": True}
    async with posted(server.url, body) as caller:
        head = await caller.reader.readuntil(b"event: interaction.status_update")
        assert b"interaction.created" in head
        await until(lambda: count_of(sandboxes))
        await caller.cut()
    again = await server.client.post(PATH, json=body)
    first, second = (event["id"] for event in reversed(await listed(server)))
    assert event_of(frames(again.content)[0])["interaction"]["id"] == second != first


@pytest.mark.anyio
async def test_two_equal_calls_at_once_are_two_runs(server: RunningServer, sandboxes: Path) -> None:
    body = counting(0.2)
    answers = await asyncio.gather(*(server.client.post(PATH, json=body) for _ in range(2)))
    found = [answer.json() for answer in answers]
    assert found[0]["id"] != found[1]["id"]
    assert found[0]["environment_id"] != found[1]["environment_id"]
    assert [results(each) for each in found] == [["1\n"]] * 2
    assert count_of(sandboxes) == 2


# keys


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fields", [{}, {"background": True}, {"stream": True}, {"stream": True, "background": True}], ids=str
)
async def test_calls_with_one_key_are_one_run(server: RunningServer, sandboxes: Path, fields: dict[str, Any]) -> None:
    body, headers = {**counting(0.2), **fields}, {"Idempotency-Key": "once"}

    async def call() -> str:
        answer = await server.client.post(PATH, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        if "stream" in fields:
            return str(event_of(frames(answer.content)[0])["interaction"]["id"])
        return str(answer.json()["id"])

    found = {*(await asyncio.gather(*(call() for _ in range(3)))), await call()}
    assert len(found) == 1
    await server.ended(found.pop())
    assert count_of(sandboxes) == 1
    assert len(await listed(server)) == 1
    other = await server.client.post(PATH, json={**body, "input": "another"}, headers=headers)
    assert other.status_code == 400
    assert "Idempotency-Key" in other.json()["error"]["message"]


@pytest.mark.anyio
async def test_a_key_holds_when_its_caller_is_cut_off(server: RunningServer, sandboxes: Path) -> None:
    body = counting(0.3)
    async with posted(server.url, body, key="once") as caller:
        await until(lambda: count_of(sandboxes))
        await caller.cut()
    for _ in range(2):
        answer = await server.client.post(PATH, json=body, headers={"Idempotency-Key": "once"})
        assert results(answer.json()) == ["1\n"]
    assert len(await listed(server)) == 1


# what is not stored


@pytest.mark.anyio
async def test_who_is_cut_off_from_what_is_not_stored_finds_it_again(server: RunningServer, sandboxes: Path) -> None:
    body = {**counting(0.5), "store": False}
    async with posted(server.url, body) as caller:
        await until(lambda: count_of(sandboxes))
        await caller.cut()
    await until(lambda: not server.services.replies._losses)
    answer = (await server.client.post(PATH, json=body)).json()
    assert "id" not in answer
    assert results(answer) == ["1\n"]
    assert await listed(server) == []


@pytest.mark.anyio
async def test_who_is_cut_off_in_a_stream_of_what_is_not_stored_gets_it_again_from_its_beginning(
    server: RunningServer, sandboxes: Path, logged: list[Any]
) -> None:
    body = {**counting(0.5), "store": False, "stream": True}
    async with posted(server.url, body) as caller:
        await caller.reader.readuntil(b"event: interaction.status_update")
        await until(lambda: count_of(sandboxes))
        await caller.cut()
    await until(lambda: "caller_left" in [line["event"] for line in logged])
    answer = await server.client.post(PATH, json=body)
    found = frames(answer.content)
    assert event_of(found[0])["interaction"]["id"] == ""
    assert event_of(found[-2])["interaction"]["status"] == "completed"
    assert count_of(sandboxes) == 1


# servers that end


@pytest.mark.anyio
async def test_after_an_orderly_end_a_key_is_still_known(tmp_path: Path, sandboxes: Path) -> None:
    body, headers = counting(0.1), {"Idempotency-Key": "once"}
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as server:
        first = (await server.client.post(PATH, json=body, headers=headers)).json()
        assert results(first) == ["1\n"]
    async with running(tmp_path / "data", LocalDriver(sandboxes)) as server:
        again = (await server.client.post(PATH, json=body, headers=headers)).json()
        assert again == first
        assert count_of(sandboxes) == 1


def left_waiting(process: ServerProcess, body: dict[str, Any], key: str | None, sandboxes: Path) -> socket.socket:
    """A caller whose command has begun."""
    caller = socket.create_connection(("127.0.0.1", process.port))
    caller.sendall(request_bytes(body, key))
    deadline = time.monotonic() + 20
    while not count_of(sandboxes):
        assert time.monotonic() < deadline, process.log
        time.sleep(0.01)
    return caller


@pytest.mark.parametrize("key", [None, "once"])
@pytest.mark.parametrize("fields", [{}, {"store": False}], ids=["stored", "not stored"])
def test_killed_before_it_answers_a_server_does_not_run_the_call_twice(
    process: ServerProcess, sandboxes: Path, key: str | None, fields: dict[str, Any]
) -> None:
    body = {**counting(1.5), **fields}
    headers = {} if key is None else {"Idempotency-Key": key}
    with left_waiting(process, body, key, sandboxes) as caller:
        process.end(signal.SIGKILL)
        assert caller.recv(100) == b""
    process.start()
    answer = httpx2.post(f"{process.url}{PATH}", json=body, headers=headers, timeout=30).json()
    assert answer["status"] == "completed"
    assert results(answer) == ["1\n"]
    assert count_of(sandboxes) == 1
    found = httpx2.get(f"{process.url}{PATH}").json()["interactions"]
    assert [each["id"] for each in found] == ([answer["id"]] if "store" not in fields else [])
    if key is None:
        again = httpx2.post(f"{process.url}{PATH}", json=body, timeout=30).json()
        assert again["status"] == "completed"
        assert count_of(sandboxes) == 2, "the answer was delivered: this is another run"


def test_killed_in_a_stream_a_server_goes_on_with_the_run_that_the_stream_named(
    process: ServerProcess, sandboxes: Path
) -> None:
    body = {**counting(1), "stream": True}
    with left_waiting(process, body, None, sandboxes) as caller:
        began = b""
        while b"interaction.status_update" not in began:
            began += caller.recv(4096)
        process.end(signal.SIGKILL)
    process.start()
    named = event_of(began[began.index(b"event: ") :].split(b"\n\n")[0])["interaction"]["id"]
    ended = process.ended(named)
    assert results(ended) == ["1\n"]
    assert count_of(sandboxes) == 1
