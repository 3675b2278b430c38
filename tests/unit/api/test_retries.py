"""What becomes of the answer to a create call decides whether an equal call is a repetition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.api.delivery import AnswerOfCreate, StreamOfCreate
from orchestrator.clock import SystemClock
from orchestrator.errors import StoreError
from orchestrator.runs.replies import Replies
from orchestrator.store.records import InteractionRow
from orchestrator.wire.events import DONE_FRAME
from tests.fakes.api import Api
from tests.fakes.rows import interaction_row
from tests.fakes.runs import scripted

pytestmark = pytest.mark.anyio

PATH = "/v1beta/interactions"


class Noted(Replies):
    """Remembers what it was told instead of storing it."""

    def __init__(self) -> None:
        super().__init__(None, SystemClock(), 1, 1.0)  # type: ignore[arg-type]
        self.told: list[str] = []

    def delivered(self, row: InteractionRow) -> None:
        self.told.append("delivered")

    def lost(self, row: InteractionRow) -> None:
        self.told.append("lost")


class Connection:
    """A caller's side of one request, as an ASGI server shows it."""

    def __init__(self, *, leaves_after: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self._left = asyncio.Event()
        self._leaves_after = leaves_after
        self._note()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        self._note()
        await asyncio.sleep(0)

    def _note(self) -> None:
        if self._leaves_after is not None and len(self.sent) >= self._leaves_after:
            self._left.set()

    async def take(self, response: Any) -> None:
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST", "headers": []}
        await response(scope, self.receive, self.send)


async def frames(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


# one answer


async def test_who_takes_an_answer_has_it() -> None:
    replies, caller = Noted(), Connection()
    await caller.take(AnswerOfCreate({"id": "x"}, interaction_row("p"), replies))
    assert caller.body == b'{"id":"x"}'
    assert replies.told == ["delivered"]


async def test_who_has_left_gets_none() -> None:
    replies, caller = Noted(), Connection(leaves_after=0)
    await caller.take(AnswerOfCreate({"id": "x"}, interaction_row("p"), replies))
    assert caller.sent == []
    assert replies.told == ["lost"]


async def test_an_answer_that_breaks_in_sending_is_lost() -> None:
    class Breaks(Connection):
        async def send(self, message: Any) -> None:
            raise OSError("broken pipe")

    replies = Noted()
    with pytest.raises(OSError, match="broken pipe"):
        await Breaks().take(AnswerOfCreate({"id": "x"}, interaction_row("p"), replies))
    assert replies.told == ["lost"]


# streams


async def test_who_has_the_beginning_of_a_stream_has_its_name() -> None:
    replies, caller = Noted(), Connection(leaves_after=3)
    await caller.take(StreamOfCreate(frames(b"one", b"two", b"three", DONE_FRAME), interaction_row("p"), replies))
    assert b"one" in caller.body
    assert replies.told == ["delivered"]


async def test_who_leaves_before_the_beginning_of_a_stream_has_nothing() -> None:
    replies, caller = Noted(), Connection(leaves_after=0)
    held = asyncio.Event()

    async def waits() -> AsyncIterator[bytes]:
        await held.wait()
        yield b"one"

    await caller.take(StreamOfCreate(waits(), interaction_row("p"), replies))
    assert b"one" not in caller.body
    assert replies.told == ["lost"]


async def test_what_is_not_stored_is_delivered_at_its_end_and_not_before() -> None:
    row = interaction_row("p", is_stored=False)
    replies, caller = Noted(), Connection()
    await caller.take(StreamOfCreate(frames(b"one", b"two", DONE_FRAME), row, replies))
    assert caller.body == b"onetwo" + DONE_FRAME
    assert replies.told == ["delivered"]
    replies, caller = Noted(), Connection(leaves_after=2)

    async def waits() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.Event().wait()

    await caller.take(StreamOfCreate(waits(), row, replies))
    assert replies.told == ["lost"]


async def test_what_is_not_stored_is_lost_when_its_stream_ends_early() -> None:
    """As the streams of a server that closes do: without the end marker."""
    replies, caller = Noted(), Connection()
    await caller.take(StreamOfCreate(frames(b"one", b"two"), interaction_row("p", is_stored=False), replies))
    assert replies.told == ["lost"]


async def test_a_stream_that_ends_without_a_word_is_lost() -> None:
    replies = Noted()
    await Connection().take(StreamOfCreate(frames(), interaction_row("p"), replies))
    assert replies.told == ["lost"]


# over the routes


async def post(api: Api, text: str = "hello", key: str | None = None, **fields: Any) -> dict[str, Any]:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"agent": "general", "input": text, **fields}
    answer = await api.client.post(PATH, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_two_equal_calls_are_two_runs(api: Api) -> None:
    first, second = await asyncio.gather(post(api), post(api))
    third = await post(api)
    assert len({each["id"] for each in (first, second, third)}) == 3


@pytest.mark.parametrize("fields", [{}, {"background": True}], ids=["unary", "background"])
async def test_a_key_makes_them_one(api: Api, fields: dict[str, Any]) -> None:
    found = await asyncio.gather(*(post(api, key="k", **fields) for _ in range(3)))
    again = await post(api, key="k", **fields)
    assert len({each["id"] for each in (*found, again)}) == 1
    assert len(await api.store.interactions(None)) == 1
    await api.world.supervisor.wait(again["id"])
    assert (await post(api, key="k", **fields))["status"] == "completed"


async def test_a_key_gives_the_same_stream_again_from_its_beginning(api: Api) -> None:
    body = {"agent": "general", "input": "hello", "stream": True}
    answers = [await api.client.post(PATH, json=body, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert answers[0].content.startswith(b"event: interaction.created\n")
    assert answers[0].content.endswith(DONE_FRAME)
    assert len(await api.store.interactions(None)) == 1


@pytest.mark.parametrize("other", [{"input": "bye"}, {"stream": True}, {"background": True}, {"labels": {"a": "b"}}])
async def test_a_key_with_another_body_is_refused(api: Api, other: dict[str, Any]) -> None:
    await post(api, key="k")
    body = {"agent": "general", "input": "hello", **other}
    status, code, message = await api.error("POST", PATH, json=body, headers={"Idempotency-Key": "k"})
    assert (status, code) == (400, "invalid_request")
    assert "Idempotency-Key" in message
    assert len(await api.store.interactions(None)) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\u00e9\u0001".encode()])
async def test_a_key_that_is_none_is_refused(api: Api, key: str | bytes) -> None:
    headers = {"Idempotency-Key": key}
    status, code, message = await api.error("POST", PATH, json={"agent": "general", "input": "x"}, headers=headers)
    assert (status, code) == (400, "invalid_request")
    assert "Idempotency-Key" in message
    assert await api.store.interactions(None) == []


@pytest.mark.parametrize("key", ["x" * 255, "0f8c-4711 with spaces", "\u00fc".encode("latin-1")])
async def test_any_printable_key_will_do(api: Api, key: Any) -> None:
    first, second = await post(api, key=key), await post(api, key=key)
    assert first["id"] == second["id"]


async def test_a_refused_call_leaves_its_key_free(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    status, _, _ = await api.error("POST", PATH, json={"agent": "nobody", "input": "x"}, headers=headers)
    assert status == 404
    assert (await post(api, key="k"))["status"] == "completed"


@pytest.mark.parametrize("fields", [{}, {"background": True}], ids=["unary", "background"])
async def test_after_an_error_for_an_answer_a_client_that_tries_again_finds_its_run(
    api: Api, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """Clients repeat calls that were answered with 5xx; what was stored by then must not run twice."""

    async def fails(*_arguments: Any, **_fields: Any) -> Any:
        raise StoreError("the database is busy", code="store_busy", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.api.interactions.read_interaction", fails)
        answer = await api.client.post(PATH, json={"agent": "general", "input": "hello", **fields})
        assert answer.status_code >= 500
    (row,) = await api.store.interactions(None)
    assert (await post(api, **fields))["id"] == row.id
    assert (await post(api, **fields))["id"] != row.id, "now it was delivered"


async def test_a_repetition_is_told_how_far_the_run_is(api: Api) -> None:
    begun = await post(api, scripted({"text": "done", "sleep_ms": 100}), key="k", background=True)
    assert begun["status"] == "in_progress"
    await api.world.supervisor.wait(begun["id"])
    again = await post(api, scripted({"text": "done", "sleep_ms": 100}), key="k", background=True)
    assert (again["id"], again["status"], again["output_text"]) == (begun["id"], "completed", "done")
