"""Who runs when: slots, limits, waiting, and one run's trouble that is not another's."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.errors import LimitExceeded, LogDamaged
from orchestrator.runs.record import read_interaction
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import NewEvent
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.runs import RunWorld, assert_ended_once, bash, bodies, kinds, scripted
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio

SLOW = scripted({"calls": [bash("slow")]}, {"text": "done"})


class Gate:
    """Calls wait until it opens."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def __call__(self, asked: Asked) -> CallOutcome:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.is_open.wait()
        self.inside -= 1
        return outcome("fine")


async def until(is_true: object) -> None:
    async with asyncio.timeout(5):
        while not is_true():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_the_limits_of_an_agent_are_its_own(store: SqliteStore) -> None:
    world = RunWorld(store)
    await world.run(SLOW)
    await world.run(SLOW, agent="brief", request={"agent": "brief"})
    plain, brief = ({**asked.fields} for asked in world.sandbox.asked)
    assert (plain["timeout_s"], plain["output_limit_bytes"]) == (600.0, 1 << 20)
    assert (brief["timeout_s"], brief["output_limit_bytes"]) == (7, 2048)


async def test_the_time_of_a_run_is_its_agents(store: SqliteStore) -> None:
    world = RunWorld(store, FakeSandbox(Gate()))
    row = await world.run(SLOW, agent="brief", request={"agent": "brief"})
    assert row.status == "incomplete"


async def test_no_more_run_at_once_than_there_are_slots(store: SqliteStore) -> None:
    gate = Gate()
    world = RunWorld(store, FakeSandbox(gate), slots=3)
    rows = [await world.row(SLOW) for _ in range(8)]
    for row in rows:
        world.supervisor.start(row)
    await until(lambda: gate.inside == 3)
    await asyncio.sleep(0.05)
    assert gate.most == 3
    assert sorted(world.supervisor.running) == sorted(row.id for row in rows)
    gate.is_open.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*(world.supervisor.wait(row.id) for row in rows))
    assert [(await world.stored(row.id)).status for row in rows] == ["completed"] * 8
    assert world.supervisor.running == []


async def test_a_run_that_waits_for_a_slot_can_be_cancelled(store: SqliteStore) -> None:
    gate = Gate()
    world = RunWorld(store, FakeSandbox(gate), slots=1)
    first, second = await world.row(SLOW), await world.row(SLOW)
    world.supervisor.start(first)
    await until(lambda: gate.inside == 1)
    world.supervisor.start(second)
    async with asyncio.timeout(5):
        await world.supervisor.cancel(second.id)
    assert (await world.stored(second.id)).status == "cancelled"
    assert_ended_once(await store.read(second.id), "cancelled")
    gate.is_open.set()
    await world.supervisor.wait(first.id)
    assert (await world.stored(first.id)).status == "completed"


async def test_a_project_has_a_limit_of_runs_and_another_its_own(store: SqliteStore) -> None:
    gate = Gate()
    world = RunWorld(store, FakeSandbox(gate), per_project=2)
    rows = [await world.row(SLOW) for _ in range(2)]
    project = rows[0].project_id
    for row in rows:
        world.supervisor.check_room(project)
        world.supervisor.start(row)
    with pytest.raises(LimitExceeded):
        world.supervisor.check_room(project)
    world.supervisor.check_room("prj_other")
    await world.supervisor.cancel(rows[0].id)
    world.supervisor.check_room(project)
    gate.is_open.set()
    await world.supervisor.wait(rows[1].id)


async def test_waiting_for_what_does_not_run_returns_at_once(store: SqliteStore) -> None:
    world = RunWorld(store)
    async with asyncio.timeout(1):
        await world.supervisor.wait("v1_nothing")


async def test_who_stops_waiting_leaves_the_run_alone(store: SqliteStore) -> None:
    gate = Gate()
    world = RunWorld(store, FakeSandbox(gate))
    row = await world.row(SLOW)
    world.supervisor.start(row)
    waiting = asyncio.ensure_future(world.supervisor.wait(row.id))
    await until(lambda: gate.inside == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.is_open.set()
    await world.supervisor.wait(row.id)
    assert (await world.stored(row.id)).status == "completed"


async def test_a_run_whose_record_is_deleted_stops(store: SqliteStore) -> None:
    gate = Gate()
    world = RunWorld(store, FakeSandbox(gate))
    row = await world.row(SLOW)
    world.supervisor.start(row)
    await until(lambda: gate.inside == 1)
    await store.delete_interaction(row.id)
    gate.is_open.set()
    async with asyncio.timeout(5):
        await world.supervisor.wait(row.id)
    assert await store.interaction(None, row.id) is None
    assert world.supervisor.running == []


@pytest.mark.parametrize(
    "damage",
    [
        NewEvent("step.start", b'{"event_type":"step.start","index":0}'),
        NewEvent("step.stop", b'{"event_type":"step.stop","index":7}'),
        NewEvent("turn.ended", b"{}"),
        NewEvent("tool.started", b'{"call_id"'),
    ],
)
async def test_a_run_whose_log_is_damaged_fails_once_and_says_why(store: SqliteStore, damage: NewEvent) -> None:
    world = RunWorld(store, generation=2)
    row = await world.row(SLOW)
    await store.claim(row.id, 1)
    begun = b'{"event_type":"step.start","index":0,"step":{"type":"model_output"}}'
    story = [NewEvent("step.start", begun), damage]
    await store.append(row.id, story, generation=1, expected_seq=len(await store.read(row.id)) + 1)
    assert (await world.finish(row)).status == "failed"
    log = await world.log(row.id)
    assert [kind for kind in kinds(log) if kind in ("error", "interaction.completed")] == [
        "error",
        "interaction.completed",
    ]
    told = f"The event log is damaged: a '{damage.kind}' event cannot be read."
    assert bodies(log, "error")[0]["error"] == {"code": "log_damaged", "message": told}
    shown = await read_interaction(store, await world.stored(row.id))
    assert (shown["status"], shown["errors"][0]["code"]) == ("failed", "log_damaged")
    assert world.supervisor.running == []


async def test_a_run_whose_log_is_damaged_can_be_cancelled(store: SqliteStore) -> None:
    world = RunWorld(store, slots=1)
    gate = Gate()
    world.environments.given = FakeSandbox(gate)
    first, second = await world.row(SLOW), await world.row(SLOW)
    world.supervisor.start(first)
    await until(lambda: gate.inside == 1)
    await store.append(second.id, [NewEvent("step.stop", b"{}")], generation=1, expected_seq=3)
    world.supervisor.start(second)
    await world.supervisor.cancel(second.id)
    assert (await world.stored(second.id)).status == "cancelled"
    gate.is_open.set()
    await world.supervisor.wait(first.id)


async def test_a_log_that_was_damaged_after_its_end_is_not_shown_as_whole(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.run(SLOW)
    await store.append(
        row.id, [NewEvent("step.stop", b"{}")], generation=1, expected_seq=len(await store.read(row.id)) + 1
    )
    with pytest.raises(LogDamaged):
        await read_interaction(store, row)
    child = await world.run(SLOW, previous_id=row.id)
    assert child.status == "failed"
    assert bodies(await world.log(child.id), "error")[0]["error"]["code"] == "log_damaged"


async def test_all_that_were_left_are_taken_up(store: SqliteStore) -> None:
    first = RunWorld(store)
    rows = [await first.row(scripted({"text": f"{number}"})) for number in range(250)]
    second = RunWorld(store, generation=2)
    await second.supervisor.open()
    async with asyncio.timeout(20):
        await asyncio.gather(*(second.supervisor.wait(row.id) for row in rows))
    assert {(await second.stored(row.id)).status for row in rows} == {"completed"}
