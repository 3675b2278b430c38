"""`store: false`: an answer and nothing else. It has no name, and nobody finds it afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.clock import SystemClock
from orchestrator.runs.retention import Retention
from orchestrator.store.records import InteractionRow
from tests.fakes.api import Api
from tests.fakes.local_server import event_of, frames
from tests.fakes.runs import scripted

pytestmark = pytest.mark.anyio

PATH = "/v1beta/interactions"


async def only_row(api: Api) -> InteractionRow:
    (row,) = await api.store.interactions(None)
    return row


async def stream(api: Api, text: str = "hello", **fields: Any) -> bytes:
    body = {"agent": "general", "input": text, "store": False, "stream": True, **fields}
    answer = await api.client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.content


def mentions(interaction_id: str, content: bytes | str) -> bool:
    return interaction_id in (content.decode() if isinstance(content, bytes) else content)


async def test_the_answer_is_whole_and_has_no_id(api: Api) -> None:
    body = {"agent": "general", "input": scripted({"text": "fine"}), "store": False}
    answer = await api.client.post(PATH, json=body)
    found = answer.json()
    assert "id" not in found
    assert (found["object"], found["status"], found["agent"]) == ("interaction", "completed", "general")
    assert found["output_text"] == "fine"
    assert found["usage"]["total_tokens"] > 0
    row = await only_row(api)
    assert not any(mentions(row.id, told) for told in (answer.text, *answer.headers.values()))


async def test_a_stream_has_an_empty_id_wherever_one_belongs(api: Api) -> None:
    content = await stream(api, scripted({"text": "fine"}))
    events = [event_of(frame) for frame in frames(content)[:-1]]
    assert [event["interaction"]["id"] for event in events if "interaction" in event] == ["", ""]
    assert [event["interaction_id"] for event in events if "interaction_id" in event] == [""]
    assert [event["event_type"] for event in events][-1] == "interaction.completed"
    assert content.endswith(b"event: done\ndata: [DONE]\n\n")
    assert not mentions((await only_row(api)).id, content)


async def test_one_that_fails_has_no_id_either(api: Api) -> None:
    program = scripted({"error": {"code": "model_refused", "message": "no"}})
    answer = await api.client.post(PATH, json={"agent": "general", "input": program, "store": False})
    found = answer.json()
    assert ("id" in found, found["status"], found["errors"][0]["code"]) == (False, "failed", "model_refused")
    row = await only_row(api)
    assert not mentions(row.id, answer.content)


async def test_stored_is_what_it_is_unless_it_is_said(api: Api) -> None:
    for created in (await api.create(), await api.create(store=True)):
        assert (await api.client.get(f"{PATH}/{created['id']}")).status_code == 200


@pytest.mark.parametrize("is_stream", [False, True])
async def test_nobody_finds_it_by_its_id(api: Api, is_stream: bool) -> None:
    body = {"agent": "general", "input": "hello", "store": False, "stream": is_stream}
    await api.client.post(PATH, json=body)
    row = await only_row(api)
    for method, path in (
        ("GET", f"{PATH}/{row.id}"),
        ("GET", f"{PATH}/{row.id}?include_input=true"),
        ("GET", f"{PATH}/{row.id}?stream=true"),
        ("POST", f"{PATH}/{row.id}/cancel"),
        ("POST", f"{PATH}/{row.id}:cancel"),
        ("DELETE", f"{PATH}/{row.id}"),
    ):
        assert (await api.error(method, path))[:2] == (404, "not_found"), (method, path)
    assert await api.store.interaction(None, row.id) is not None, "nor can anybody delete it"


async def test_nobody_finds_it_while_it_runs(api: Api) -> None:
    body = {"agent": "general", "input": scripted({"text": "late", "sleep_ms": 300}), "store": False}
    calling = asyncio.ensure_future(api.client.post(PATH, json=body))
    while not (rows := await api.store.interactions(None)):
        await asyncio.sleep(0.005)
    assert (await api.error("POST", f"{PATH}/{rows[0].id}/cancel"))[0] == 404
    assert (await api.client.get(PATH)).json() == {"interactions": []}
    assert (await calling).json()["output_text"] == "late"


async def test_it_is_not_listed(api: Api) -> None:
    kept = await api.create()
    await api.client.post(PATH, json={"agent": "general", "input": "x", "store": False, "labels": {"a": "b"}})
    assert [each["id"] for each in (await api.client.get(PATH)).json()["interactions"]] == [kept["id"]]
    assert (await api.client.get(f"{PATH}?label=a=b")).json() == {"interactions": []}


async def test_nothing_can_be_built_on_it(api: Api) -> None:
    await api.client.post(PATH, json={"agent": "general", "input": "hello", "store": False})
    row = await only_row(api)
    body = {"agent": "general", "input": "and?", "previous_interaction_id": row.id}
    status, code, message = await api.error("POST", PATH, json=body)
    assert (status, code) == (404, "not_found")
    assert "previous_interaction_id" in message


async def test_it_can_be_built_on_what_is_stored(api: Api) -> None:
    parent = await api.create(scripted({"text": "first"}))
    body = {
        "agent": "general",
        "input": scripted({"text": "second"}),
        "store": False,
        "previous_interaction_id": parent["id"],
    }
    found = (await api.client.post(PATH, json=body)).json()
    assert (found["output_text"], found["previous_interaction_id"]) == ("second", parent["id"])


async def test_what_runs_in_the_background_must_be_stored(api: Api) -> None:
    body = {"agent": "general", "input": "x", "store": False, "background": True}
    status, code, message = await api.error("POST", PATH, json=body)
    assert (status, code) == (400, "invalid_request")
    assert "store" in message
    assert await api.store.interactions(None) == []


@pytest.mark.parametrize("is_stream", [False, True])
async def test_it_is_gone_once_it_was_delivered(api: Api, is_stream: bool) -> None:
    body = {"agent": "general", "input": "hello", "store": False, "stream": is_stream}
    await api.client.post(PATH, json=body)
    row = await only_row(api)
    await api.world.replies.aclose()
    retention = Retention(api.store, api.world.supervisor, SystemClock(), retention_days=55, retry_window_s=300)
    assert await retention.look() == 1
    assert await api.store.interactions(None) == []
    assert await api.store.read(row.id) == []


async def test_what_still_streams_stays_until_its_end(api: Api) -> None:
    reading = asyncio.ensure_future(stream(api, scripted({"text": "late", "sleep_ms": 300})))
    while not await api.store.interactions(None):
        await asyncio.sleep(0.005)
    retention = Retention(api.store, api.world.supervisor, SystemClock(), retention_days=55, retry_window_s=300)
    assert await retention.look() == 0
    assert b"late" in await reading


async def test_a_server_that_closes_gives_no_half_of_it(api: Api) -> None:
    """A caller that got half an answer without a name could never ask for the other half."""
    body = {"agent": "general", "input": scripted({"text": "late", "sleep_ms": 300}), "store": False}
    calling = asyncio.ensure_future(api.client.post(PATH, json=body))
    while not api.world.supervisor.running:
        await asyncio.sleep(0.005)
    api.services.closing.set()
    answer = await calling
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]
    api.services.closing.clear()
    again = await api.client.post(PATH, json=body)
    assert (again.status_code, again.json()["output_text"]) == (200, "late")
    assert len(await api.store.interactions(None)) == 1, "the same run"


async def test_a_server_that_closes_names_what_is_stored(api: Api) -> None:
    calling = asyncio.ensure_future(api.create(scripted({"text": "late", "sleep_ms": 300})))
    while not api.world.supervisor.running:
        await asyncio.sleep(0.005)
    api.services.closing.set()
    begun = await calling
    assert begun["status"] == "in_progress"
    await api.world.supervisor.wait(begun["id"])
    assert (await api.client.get(f"{PATH}/{begun['id']}")).json()["output_text"] == "late"
