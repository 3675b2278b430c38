"""Create calls that come again: which are one, which are two, and what is remembered of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, StoreError
from orchestrator.runs.replies import CallerKey, Replies
from orchestrator.store.records import CreateCall, InteractionRow
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.interactions import InteractionRequest, parse_interaction_request
from tests.fakes.clock import ManualClock
from tests.fakes.rows import interaction_row

pytestmark = pytest.mark.anyio

WINDOW_S = 300.0
CALLER = CallerKey("caller")


def request(text: str = "hello", **fields: Any) -> InteractionRequest:
    return parse_interaction_request({"agent": "general", "input": text, **fields})


class Desk:
    """Takes create calls as the server does, without runs."""

    def __init__(self, store: SqliteStore, clock: ManualClock, generation: int = 1) -> None:
        self.store = store
        self.clock = clock
        self.replies = Replies(store, clock, generation, WINDOW_S)
        self.made = 0

    async def call(self, wanted: InteractionRequest, caller: CallerKey = CALLER, **fields: Any) -> InteractionRow:
        """The interaction of a call: a new one, or the one that it repeats."""
        async with self.replies.creating(caller, wanted) as known:
            if isinstance(known, InteractionRow):
                return known
            assert isinstance(known, CreateCall)
            project = await self.store.default_project()
            row = interaction_row(project.id, created=self.clock.now(), **fields)
            await self.store.create_interaction(row, [], call=known)
            self.made += 1
            return row

    async def lost(self, row: InteractionRow) -> None:
        self.replies.lost(row)
        await self.replies.aclose()

    async def delivered(self, row: InteractionRow) -> None:
        self.replies.delivered(row)
        await self.replies.aclose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def desk(tmp_path: Path, clock: ManualClock) -> Any:
    store = SqliteStore(tmp_path / "corral.db", clock)
    await store.open()
    yield Desk(store, clock)
    await store.aclose()


# without a key


async def test_equal_calls_whose_callers_wait_are_runs_of_their_own(desk: Desk) -> None:
    rows = await asyncio.gather(*(desk.call(request()) for _ in range(3)))
    assert len({row.id for row in rows}) == desk.made == 3


async def test_an_equal_call_after_an_answer_is_a_run_of_its_own(desk: Desk) -> None:
    first = await desk.call(request())
    await desk.delivered(first)
    assert (await desk.call(request())).id != first.id


async def test_an_equal_call_after_a_lost_answer_is_the_same(desk: Desk) -> None:
    first = await desk.call(request())
    await desk.lost(first)
    assert (await desk.call(request())).id == first.id
    assert desk.made == 1


@pytest.mark.parametrize(
    "other",
    [
        request("hello!"),
        request(stream=True),
        request(background=True),
        request(store=False),
        request(labels={"a": "b"}),
        request(service_tier="flex"),
        request(previous_interaction_id="v1_x"),
        request(environment="remote"),
        request(tools=[]),
        request(system_instruction="hello"),
        parse_interaction_request({"model": "general", "input": "hello"}),
        parse_interaction_request({"agent": "general", "input": [{"type": "model_output", "content": "hello"}]}),
    ],
    ids=lambda each: str(sorted(each.given)),
)
async def test_a_call_that_is_not_equal_is_a_run_of_its_own(desk: Desk, other: InteractionRequest) -> None:
    first = await desk.call(request())
    await desk.lost(first)
    assert (await desk.call(other)).id != first.id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (request("hello"), request([{"type": "text", "text": "hello"}])),  # type: ignore[arg-type]
        (request(labels={"a": "1", "b": "2"}), request(labels={"b": "2", "a": "1"})),
        (request(), request(stream=False, store=True, background=False)),
        (request(system_instruction=None), request()),
        (request(service_tier="FLEX"), request(service_tier="flex")),
        (
            request(tools=[{"type": "function", "name": "f", "parameters": {"type": "object", "title": "F"}}]),
            request(tools=[{"name": "f", "parameters": {"title": "F", "type": "object"}, "type": "function"}]),
        ),
    ],
    ids=["content", "labels", "defaults", "null", "case", "parameters"],
)
async def test_calls_that_mean_the_same_are_equal_however_they_are_written(
    desk: Desk, one: InteractionRequest, other: InteractionRequest
) -> None:
    first = await desk.call(one)
    await desk.lost(first)
    assert (await desk.call(other)).id == first.id


async def test_only_the_same_caller_repeats_a_call(desk: Desk) -> None:
    first = await desk.call(request())
    await desk.lost(first)
    assert (await desk.call(request(), CallerKey("another"))).id != first.id
    assert (await desk.call(request(), CallerKey("caller", "key"))).id != first.id, "one with a key is told by it"


async def test_a_repetition_that_is_answered_was_the_last(desk: Desk) -> None:
    first = await desk.call(request())
    await desk.lost(first)
    again = await desk.call(request())
    await desk.delivered(again)
    assert (await desk.call(request())).id != first.id


async def test_a_repetition_that_is_lost_can_be_repeated(desk: Desk) -> None:
    first = await desk.call(request())
    for _ in range(4):
        await desk.lost(first)
        assert (await desk.call(request())).id == first.id
    assert desk.made == 1


async def test_two_lost_answers_are_two_runs_when_both_calls_are_repeated(desk: Desk) -> None:
    first, second = await desk.call(request()), await desk.call(request())
    await desk.lost(first)
    await desk.lost(second)
    repeated = [await desk.call(request()), await desk.call(request())]
    assert {row.id for row in repeated} == {first.id, second.id}
    assert (await desk.call(request())).id not in {first.id, second.id}, "both callers wait again"


async def test_while_a_repetition_waits_for_its_answer_an_equal_call_is_a_run_of_its_own(desk: Desk) -> None:
    first = await desk.call(request())
    await desk.lost(first)
    assert (await desk.call(request())).id == first.id
    assert (await desk.call(request())).id != first.id


async def test_what_was_lost_long_ago_is_not_meant(desk: Desk, clock: ManualClock) -> None:
    first = await desk.call(request())
    clock.advance(10 * WINDOW_S)
    await desk.lost(first)
    clock.advance(WINDOW_S - 1)
    again = await desk.call(request())
    assert again.id == first.id, "what counts is when it was lost"
    await desk.lost(again)
    clock.advance(WINDOW_S + 1)
    assert (await desk.call(request())).id != first.id


async def test_who_has_the_answer_has_it_whatever_is_noted_later(desk: Desk) -> None:
    first = await desk.call(request())
    await desk.delivered(first)
    await desk.lost(first)
    assert (await desk.call(request())).id != first.id


async def test_a_call_right_after_a_loss_was_seen_finds_it(desk: Desk) -> None:
    first = await desk.call(request())
    desk.replies.lost(first)  # not waited for
    assert (await desk.call(request())).id == first.id


async def test_a_deleted_interaction_is_repeated_by_nobody(desk: Desk) -> None:
    for caller in (CALLER, CallerKey("caller", "key")):
        first = await desk.call(request(), caller)
        await desk.lost(first)
        await desk.store.delete_interaction(first.id)
        assert (await desk.call(request(), caller)).id != first.id


# with a key


async def test_calls_with_one_key_are_one_whatever_became_of_the_answer(desk: Desk, clock: ManualClock) -> None:
    caller = CallerKey("caller", "key")
    first = await desk.call(request(), caller)
    assert (await desk.call(request(), caller)).id == first.id, "its caller waits"
    await desk.lost(first)
    assert (await desk.call(request(), caller)).id == first.id
    await desk.delivered(first)
    clock.advance(10 * WINDOW_S)
    assert (await desk.call(request(), caller)).id == first.id


async def test_calls_with_one_key_that_come_at_once_are_one(desk: Desk) -> None:
    rows = await asyncio.gather(*(desk.call(request(), CallerKey("caller", "key")) for _ in range(5)))
    assert len({row.id for row in rows}) == desk.made == 1


async def test_a_key_is_of_one_request(desk: Desk) -> None:
    caller = CallerKey("caller", "key")
    first = await desk.call(request(), caller)
    for other in (request("bye"), request(stream=True)):
        with pytest.raises(InvalidRequest, match="Idempotency-Key"):
            await desk.call(other, caller)
    assert (await desk.call(request(), caller)).id == first.id
    assert (await desk.call(request("bye"), CallerKey("another", "key"))).id != first.id


async def test_other_keys_are_other_calls(desk: Desk) -> None:
    rows = [await desk.call(request(), CallerKey("caller", key)) for key in ("a", "b", None)]
    assert len({row.id for row in rows}) == 3


async def test_a_call_that_was_refused_leaves_its_key_free(desk: Desk) -> None:
    caller = CallerKey("caller", "key")
    with pytest.raises(StoreError):
        async with desk.replies.creating(caller, request("bad")):
            raise StoreError("the disk is full", code="store_full", retryable=True)
    await desk.call(request("good"), caller)
    assert desk.made == 1


# servers that die


async def test_what_a_server_left_unanswered_is_lost_when_the_next_one_opens(desk: Desk, clock: ManualClock) -> None:
    waited, answered = await desk.call(request("waited")), await desk.call(request("answered"))
    await desk.delivered(answered)
    clock.advance(3600)
    second = Desk(desk.store, clock, generation=2)
    await second.replies.open()
    clock.advance(WINDOW_S - 1)
    assert (await second.call(request("waited"))).id == waited.id
    assert (await second.call(request("answered"))).id != answered.id


async def test_what_this_server_is_about_to_answer_is_not_lost(desk: Desk) -> None:
    first = await desk.call(request())
    await desk.replies.open()
    assert (await desk.call(request())).id != first.id


async def test_a_repetition_that_waited_for_a_server_that_died_is_lost_again(desk: Desk, clock: ManualClock) -> None:
    first = await desk.call(request())
    await desk.lost(first)
    second = Desk(desk.store, clock, generation=2)
    await second.replies.open()
    assert (await second.call(request())).id == first.id
    clock.advance(10 * WINDOW_S)
    third = Desk(desk.store, clock, generation=3)
    await third.replies.open()
    assert (await third.call(request())).id == first.id


async def test_a_note_that_cannot_be_stored_costs_no_more_than_that(desk: Desk, monkeypatch: Any) -> None:
    async def refuse(*_arguments: Any, **_fields: Any) -> None:
        raise StoreError("the disk is full", code="store_full", retryable=True)

    first = await desk.call(request())
    monkeypatch.setattr(desk.store, "note_answer", refuse)
    await desk.lost(first)
    assert (await desk.call(request())).id != first.id
