"""What is not kept for ever: ended interactions after their project's time, what nobody wanted kept, and keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StoreError
from orchestrator.runs.retention import Retention
from orchestrator.store.records import CreateCall, InteractionRow
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.clock import ManualClock
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.rows import interaction_row
from tests.fakes.runs import RunWorld, scripted

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600.0
WINDOW_S = 300.0
STEADY_S = 300.0


class House:
    """A store whose time the test moves, and what keeps it tidy."""

    def __init__(self, store: SqliteStore, clock: ManualClock, **settings: Any) -> None:
        self.store = store
        self.clock = clock
        self.world = RunWorld(store)
        chosen: dict[str, Any] = {"retention_days": 55, "retry_window_s": WINDOW_S, "steady_s": STEADY_S, **settings}
        self.retention = Retention(store, self.world.supervisor, clock, **chosen)

    async def made(self, project: str = "", *, call: CreateCall | None = None, **fields: Any) -> InteractionRow:
        project = project or (await self.store.default_project()).id
        row = interaction_row(project, created=self.clock.now(), **{"status": "completed", **fields})
        await self.store.create_interaction(row, [], call=call)
        return row

    async def is_there(self, row: InteractionRow) -> bool:
        return await self.store.interaction(None, row.id) is not None

    async def after(self, seconds: float) -> int:
        """Time passes, steadily; what is due then is deleted. The number of interactions."""
        self.clock.advance(seconds)
        return await self.retention.look()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House, None]:
    clock = ManualClock()
    store = SqliteStore(tmp_path / "corral.db", clock)
    await store.open()
    yield House(store, clock)
    await assert_store_consistent(store)
    await store.aclose()


# by age


async def test_what_has_ended_is_deleted_after_its_time_with_its_log(house: House) -> None:
    row = await house.made()
    assert await house.after(55 * DAY_S - 60) == 0
    assert await house.is_there(row)
    assert await house.after(61) == 1
    assert not await house.is_there(row)
    assert await house.store.read(row.id) == []
    assert await house.retention.look() == 0


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete", "requires_action"])
async def test_every_end_is_one(house: House, status: str) -> None:
    row = await house.made(status=status)
    await house.after(56 * DAY_S)
    assert not await house.is_there(row)


async def test_what_runs_is_kept_however_old_it_is(house: House) -> None:
    row = await house.made(status="in_progress")
    assert await house.after(1000 * DAY_S) == 0
    assert await house.is_there(row)


async def test_what_counts_is_the_last_thing_that_was_written(house: House) -> None:
    row = await house.made(status="in_progress")
    house.clock.advance(50 * DAY_S)
    await house.store.append(row.id, [], generation=1, expected_seq=1, status="completed")
    assert await house.after(20 * DAY_S) == 0
    assert await house.is_there(row)
    assert await house.after(36 * DAY_S) == 1


async def test_each_project_has_its_own_time(house: House) -> None:
    rows = {}
    for name, days in (("short", 7), ("as the server says", None), ("for ever", 0)):
        project = await house.store.ensure_project(name)
        if days is not None:
            await house.store.set_retention(name, days)
        rows[name] = await house.made(project.id)

    async def left() -> set[str]:
        return {name for name, row in rows.items() if await house.is_there(row)}

    await house.after(7 * DAY_S + 1)
    assert await left() == {"as the server says", "for ever"}
    await house.after(48 * DAY_S)
    assert await left() == {"for ever"}
    await house.after(10_000 * DAY_S)
    assert await left() == {"for ever"}


async def test_a_server_that_keeps_everything_deletes_nothing_but_where_a_project_says_so(house: House) -> None:
    house = House(house.store, house.clock, retention_days=0)
    kept = await house.made()
    project = await house.store.ensure_project("short")
    await house.store.set_retention("short", 1)
    short = await house.made(project.id)
    assert await house.after(1000 * DAY_S) == 1
    assert (await house.is_there(kept), await house.is_there(short)) == (True, False)


@pytest.mark.parametrize("days", [1_000_000, 10**12])
async def test_a_time_longer_than_any_calendar_is_for_ever(house: House, days: int) -> None:
    house = House(house.store, house.clock, retention_days=days)
    row = await house.made()
    assert await house.after(1000 * DAY_S) == 0
    assert await house.is_there(row)


async def test_what_was_built_on_it_stays(house: House) -> None:
    parent = await house.made()
    house.clock.advance(30 * DAY_S)
    child = await house.made(previous_id=parent.id)
    assert await house.after(30 * DAY_S) == 1
    assert (await house.is_there(parent), await house.is_there(child)) == (False, True)


async def test_many_are_deleted_in_a_few_looks(house: House) -> None:
    for _ in range(450):
        await house.made()
    deleted = [await house.after(60 * DAY_S), *[await house.after(60) for _ in range(4)]]
    assert sum(deleted) == 450
    assert max(deleted) < 450, "a look does not hold the database for long"
    assert await house.store.interactions(None) == []


# clocks


async def test_nothing_is_deleted_for_its_age_before_the_clock_has_run_for_a_while(house: House) -> None:
    row = await house.made()
    house.clock.jump(100 * DAY_S)
    fresh = House(house.store, house.clock)
    assert await fresh.after(STEADY_S - 1) == 0
    assert await fresh.is_there(row)
    assert await fresh.after(2) == 1


async def test_a_clock_that_is_set_forward_and_back_deletes_nothing(house: House) -> None:
    row = await house.made()
    await house.after(2 * STEADY_S)
    house.clock.jump(1000 * DAY_S)
    for _ in range(4):
        assert await house.after(60) == 0
    house.clock.jump(-1000 * DAY_S)
    for _ in range(20):
        assert await house.after(60) == 0
    assert await house.is_there(row)


async def test_a_clock_that_was_set_for_good_is_believed_after_a_while(house: House) -> None:
    row = await house.made()
    await house.after(2 * STEADY_S)
    house.clock.jump(1000 * DAY_S)
    assert [await house.after(60) for _ in range(5)] == [0] * 5
    assert await house.after(60) == 1
    assert not await house.is_there(row)


async def test_a_clock_that_is_corrected_a_little_has_not_jumped(house: House) -> None:
    row = await house.made()
    await house.after(55 * DAY_S)
    house.clock.jump(2)
    assert await house.after(60) == 1
    assert not await house.is_there(row)


async def test_a_jump_forgets_no_key_and_drops_nothing_that_was_just_left(house: House) -> None:
    keyed = await house.made(call=CreateCall("s", "k", b"d", 1))
    left = await house.made(is_stored=False, call=CreateCall("s", None, b"e", 1))
    await house.store.note_answer(left.id, was_delivered=False)
    begun = house.clock.now()
    await house.after(10)
    house.clock.jump(10 * DAY_S)
    await house.after(10)
    assert await house.store.find_call("s", "k") == (keyed.id, b"d")
    assert await house.is_there(left)
    assert await house.store.find_unanswered("s", b"e", begun) == left.id


# what is not stored


async def test_what_is_not_stored_goes_when_it_was_delivered(house: House) -> None:
    row = await house.made(is_stored=False, call=CreateCall("s", None, b"d", 1))
    assert await house.after(100 * WINDOW_S) == 0
    assert await house.is_there(row), "its caller may still wait"
    await house.store.note_answer(row.id, was_delivered=True)
    assert await house.retention.look() == 1
    assert not await house.is_there(row)


async def test_what_is_not_stored_and_was_left_goes_when_nobody_comes_back(house: House) -> None:
    await house.after(2 * STEADY_S)
    row = await house.made(is_stored=False, call=CreateCall("s", None, b"d", 1))
    await house.store.note_answer(row.id, was_delivered=False)
    assert await house.after(WINDOW_S - 1) == 0
    assert await house.is_there(row)
    assert await house.after(2) == 1
    assert not await house.is_there(row)


async def test_a_run_that_is_not_stored_and_was_left_is_ended_first(house: House) -> None:
    await house.after(2 * STEADY_S)
    row = await house.world.row(scripted({"text": "late", "sleep_ms": 60_000}), is_stored=False)
    house.world.supervisor.start(row)
    while not any(event.kind == "turn.started" for event in await house.store.read(row.id)):
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        assert await house.after(WINDOW_S + 1) == 1
    assert house.world.supervisor.running == []
    assert not await house.is_there(row)


async def test_who_came_back_for_what_is_not_stored_is_waited_for(house: House) -> None:
    await house.after(2 * STEADY_S)
    row = await house.made(is_stored=False, call=CreateCall("s", None, b"d", 1))
    await house.store.note_answer(row.id, was_delivered=False)
    await house.store.await_answer(row.id, 1)
    assert await house.after(100 * WINDOW_S) == 0
    assert await house.is_there(row)


# keys


async def test_a_key_is_remembered_for_a_day_and_while_its_run_goes_on(house: House) -> None:
    await house.after(2 * STEADY_S)
    ended = await house.made(call=CreateCall("s", "ended", b"d", 1))
    running = await house.made(call=CreateCall("s", "running", b"d", 1), status="in_progress")
    await house.store.note_answer(ended.id, was_delivered=True)
    await house.after(DAY_S - 60)
    assert await house.store.find_call("s", "ended") == (ended.id, b"d")
    await house.after(61)
    assert await house.store.find_call("s", "ended") is None
    assert await house.store.find_call("s", "running") == (running.id, b"d")
    assert await house.is_there(ended), "only the key is forgotten"


# the task


async def test_it_looks_again_and_again_also_after_the_database_refused(
    house: House, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    house = House(house.store, house.clock, interval_s=0.001, steady_s=0.0)
    row = await house.made()
    house.clock.advance(56 * DAY_S)
    has_deleted, asked = asyncio.Event(), 0
    projects = house.store.projects
    delete = house.store.delete_interaction

    async def refuses_once() -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreError("the database is busy", code="store_busy", retryable=True)
        return await projects()

    async def tells(interaction_id: str) -> None:
        await delete(interaction_id)
        has_deleted.set()

    monkeypatch.setattr(house.store, "projects", refuses_once)
    monkeypatch.setattr(house.store, "delete_interaction", tells)
    house.retention.open()
    async with asyncio.timeout(5):
        await has_deleted.wait()
    await house.retention.aclose()
    assert not await house.is_there(row)
    assert "retention_not_swept" in [line["event"] for line in logged]


async def test_closing_what_was_never_opened_is_nothing(house: House) -> None:
    await house.retention.aclose()
    assert await house.retention.look() == 0
