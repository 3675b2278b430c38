"""However a run ends, nothing of it goes on inside, and nothing that it began is begun again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import EngineUnavailable, SandboxGone, StoreError
from orchestrator.policy.limits import Limits
from orchestrator.runs.context import spent_s
from orchestrator.runs.supervisor import Supervisor
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import Event, InteractionRow, NewEvent
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.clock import ManualClock
from tests.fakes.rows import START
from tests.fakes.runs import RunWorld, assert_ended_once, assert_matched, bash, bodies, kinds, scripted
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio

SLOW = scripted({"calls": [bash("slow")]}, {"text": "done"})


async def hangs(_asked: Asked) -> CallOutcome:
    await asyncio.sleep(60)
    raise AssertionError


async def until(is_true: object) -> None:
    async with asyncio.timeout(5):
        while not is_true():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def in_a_call(store: SqliteStore, **fields: Any) -> tuple[RunWorld, InteractionRow]:
    """A run whose call goes on inside."""
    world = RunWorld(store, FakeSandbox(hangs), **fields)
    row = await world.row(SLOW)
    world.supervisor.start(row)
    await until(lambda: world.sandbox.asked)
    return world, row


async def left_in_a_call(store: SqliteStore) -> tuple[RunWorld, InteractionRow]:
    """A run whose server went away in the middle of a call, which goes on inside."""
    world, row = await in_a_call(store)
    await world.supervisor.aclose()
    assert world.sandbox.running == world.sandbox.carried_out
    return world, row


async def assert_ended(world: RunWorld, row: InteractionRow, status: str) -> None:
    assert (await world.stored(row.id)).status == status
    log = await world.log(row.id)
    assert_ended_once(log, status)
    assert_matched(await world.steps(row.id))
    assert world.sandbox.running == []
    assert len(world.sandbox.carried_out) == 1


async def test_a_cancelled_call_is_ended_inside_before_the_end_is_written(store: SqliteStore) -> None:
    world, row = await in_a_call(store)
    await world.supervisor.cancel(row.id)
    await assert_ended(world, row, "cancelled")
    assert world.sandbox.acknowledged == []


async def test_a_run_that_is_over_its_time_leaves_nothing_inside(store: SqliteStore) -> None:
    world, row = await in_a_call(store, limits=Limits(run_timeout_s=1.5))
    await world.supervisor.wait(row.id)
    await assert_ended(world, row, "incomplete")


async def test_a_run_that_fails_leaves_nothing_inside(store: SqliteStore) -> None:
    async def cut(_asked: Asked) -> CallOutcome:
        world.environments.given = SandboxGone("gone for good")
        raise SandboxGone("cut")

    class Cut(FakeSandbox):
        async def _call(self, asked: Asked, on_output: Any) -> CallOutcome:
            call = asyncio.ensure_future(super()._call(asked, on_output))
            await asyncio.sleep(0)
            call.cancel()
            return await cut(asked)

    world = RunWorld(store, Cut(hangs))
    row = await world.run(SLOW)
    await assert_ended(world, row, "failed")


@pytest.mark.parametrize("trouble", [EngineUnavailable("away"), None], ids=["away", "hangs"])
async def test_a_cancel_ends_the_call_also_while_it_is_reached_again(
    store: SqliteStore, trouble: Exception | None
) -> None:
    first, row = await left_in_a_call(store)
    second = RunWorld(store, first.sandbox, generation=2)
    asked: list[str] = []

    async def out_of_reach(environment_id: str) -> Any:
        asked.append(environment_id)
        if trouble is not None:
            raise trouble
        await asyncio.sleep(60)

    second.environments.sandbox = out_of_reach  # type: ignore[method-assign]
    await second.supervisor.open()
    await until(lambda: asked)
    await second.supervisor.cancel(row.id)
    await assert_ended(second, row, "cancelled")
    await second.supervisor.aclose()


async def test_a_cancel_ends_the_call_of_a_run_that_waits_for_its_turn(store: SqliteStore) -> None:
    first, row = await left_in_a_call(store)
    second = RunWorld(store, first.sandbox, generation=2, slots=0)
    await second.supervisor.open()
    await second.supervisor.cancel(row.id)
    await assert_ended(second, row, "cancelled")
    await second.supervisor.aclose()


async def test_a_cancel_outlives_the_server_that_was_asked(store: SqliteStore) -> None:
    first, row = await in_a_call(store)

    async def never(_call_id: str, _verdict: str = "") -> bool:
        await asyncio.sleep(60)
        return False

    stop, first.sandbox.stop = first.sandbox.stop, never  # type: ignore[method-assign, assignment]
    cancelling = asyncio.ensure_future(first.supervisor.cancel(row.id))
    await until(lambda: first.sandbox.cancelled)
    await first.supervisor.aclose()
    await cancelling
    assert (await first.stored(row.id)).status == "in_progress"
    first.sandbox.stop = stop  # type: ignore[method-assign]
    second = RunWorld(store, first.sandbox, generation=2, slots=0)
    await second.supervisor.open()
    await second.supervisor.wait(row.id)
    await assert_ended(second, row, "cancelled")
    await second.supervisor.aclose()


@pytest.mark.parametrize("trouble", [SandboxGone("cut"), EngineUnavailable("away")])
async def test_a_sandbox_out_of_reach_does_not_keep_a_run_from_its_end(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    monkeypatch.setattr("orchestrator.runs.supervisor._STOP_PATIENCE_S", 0.3)
    world, row = await in_a_call(store)

    async def running(_environment_id: str) -> Any:
        raise trouble

    world.environments.running = running  # type: ignore[method-assign, assignment]
    await world.supervisor.cancel(row.id)
    assert (await world.stored(row.id)).status == "cancelled"


async def test_a_call_is_ended_inside_over_the_next_link_if_this_one_is_cut(store: SqliteStore) -> None:
    world, row = await in_a_call(store)
    stop, cuts = world.sandbox.stop, [SandboxGone("cut"), SandboxGone("cut")]

    async def is_cut(call_id: str, verdict: str = "cancelled") -> bool:
        if cuts:
            raise cuts.pop()
        return await stop(call_id, verdict)

    world.sandbox.stop = is_cut  # type: ignore[method-assign]
    await world.supervisor.cancel(row.id)
    await assert_ended(world, row, "cancelled")


async def test_nothing_is_started_to_end_a_call_of_a_guest_that_is_gone(store: SqliteStore) -> None:
    world, row = await in_a_call(store)
    world.environments.inside = FakeSandbox(guest_id="another")
    await world.supervisor.cancel(row.id)
    assert world.environments.inside.stopped == []
    assert (await world.stored(row.id)).status == "cancelled"


class RefusesEnds(SqliteStore):
    """Refuses the end of a run so often."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path, SystemClock())
        self.times = times

    async def append(self, interaction_id: str, events: Sequence[NewEvent], **fields: Any) -> None:
        if fields.get("status") and self.times:
            self.times -= 1
            raise StoreError("the disk is full", code="store_full", retryable=True)
        await super().append(interaction_id, events, **fields)


@pytest.mark.parametrize("way", ["time", "cancel"])
async def test_an_end_that_cannot_be_written_at_once_makes_no_call_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("orchestrator.runs.supervisor._FIRST_STORE_WAIT_S", 0.01)
    store = RefusesEnds(tmp_path / "x.db", times=3)
    await store.open()
    world, row = await in_a_call(store, limits=Limits(run_timeout_s=1.5 if way == "time" else 60))
    if way == "cancel":
        await world.supervisor.cancel(row.id)
    async with asyncio.timeout(10):
        await world.supervisor.wait(row.id)
    await assert_ended(world, row, "incomplete" if way == "time" else "cancelled")
    await store.aclose()


# what a guest has that somebody still wants


async def test_calls_without_a_stored_result_are_claimed(store: SqliteStore) -> None:
    first, row = await left_in_a_call(store)
    assert row.environment_id is not None
    second = RunWorld(store, first.sandbox, generation=2)
    assert await second.supervisor.claims(row.environment_id) == set(first.sandbox.carried_out)
    assert second.environments.claims == second.supervisor.claims
    assert await second.supervisor.claims("another") == set()
    await second.supervisor.open()
    await second.supervisor.cancel(row.id)
    assert await second.supervisor.claims(row.environment_id) == set()
    await second.supervisor.aclose()


# runs without a task


class Breaks(Supervisor):
    """Makes a mistake outside of any run's boundary so often."""

    times = 0

    async def _claimed(self, interaction_id: str) -> InteractionRow:
        if self.times:
            self.times -= 1
            raise ZeroDivisionError
        return await super()._claimed(interaction_id)


@pytest.fixture
def broken(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> RunWorld:
    monkeypatch.setattr("orchestrator.runs.supervisor._SWEEP_S", 0.01)
    monkeypatch.setattr("tests.fakes.runs.Supervisor", Breaks)
    return RunWorld(store)


async def broken_until_ended(world: RunWorld, row: InteractionRow) -> str:
    world.supervisor.start(row)
    await world.supervisor.open()
    async with asyncio.timeout(5):
        while (await world.stored(row.id)).status == "in_progress":
            await asyncio.sleep(0.01)
    await world.supervisor.aclose()
    return (await world.stored(row.id)).status


async def test_a_run_that_was_lost_by_a_mistake_is_begun_again(broken: RunWorld) -> None:
    broken.supervisor.times = 3  # type: ignore[attr-defined]
    assert await broken_until_ended(broken, await broken.row(SLOW)) == "completed"


async def test_a_run_that_is_lost_again_and_again_is_ended(broken: RunWorld) -> None:
    broken.supervisor.times = 5  # type: ignore[attr-defined]
    row = await broken.row(SLOW)
    assert await broken_until_ended(broken, row) == "failed"
    assert bodies(await broken.log(row.id), "error")[0]["error"]["code"] == "internal"
    assert broken.sandbox.asked == []


async def test_a_run_that_cannot_even_be_ended_is_left_and_can_be_cancelled(broken: RunWorld) -> None:
    broken.supervisor.times = 6  # type: ignore[attr-defined]
    row = await broken.row(SLOW)
    await broken.supervisor.open()
    broken.supervisor.start(row)
    await until(lambda: not broken.supervisor.times)  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    assert (await broken.stored(row.id)).status == "in_progress"
    await broken.supervisor.cancel(row.id)
    assert (await broken.stored(row.id)).status == "cancelled"
    await broken.supervisor.aclose()


async def test_a_run_that_lost_its_lease_by_a_mistake_is_begun_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.runs.supervisor._SWEEP_S", 0.01)
    release = asyncio.Event()

    async def waits(_asked: Asked) -> CallOutcome:
        await release.wait()
        return outcome("fine\n")

    world = RunWorld(store, FakeSandbox(waits))
    row = await world.row(SLOW)
    world.supervisor.start(row)
    await until(lambda: world.sandbox.asked)
    stray = [NewEvent("stray", b"{}")]
    await store.append(row.id, stray, generation=1, expected_seq=len(await world.log(row.id)) + 1)
    release.set()
    await world.supervisor.wait(row.id)
    assert (await world.stored(row.id)).status == "in_progress"
    assert await broken_until_ended(world, row) == "completed"
    assert_ended_once(await world.log(row.id), "completed")
    assert len(world.sandbox.carried_out) == 1


async def test_a_sandbox_waits_for_a_call_where_a_run_was_left_to_its_model(store: SqliteStore) -> None:
    row = await RunWorld(store).row(scripted({"text": "done"}))
    world = RunWorld(store, generation=2)
    await world.supervisor.open()
    await world.supervisor.wait(row.id)
    assert (world.environments.held, world.environments.prepared) == ([row.environment_id], [])
    await world.supervisor.aclose()


async def test_a_run_is_under_way_once_however_often_it_is_started(store: SqliteStore) -> None:
    world = RunWorld(store)
    row = await world.row(SLOW)
    world.supervisor.start(row)
    world.supervisor.start(row)
    await world.supervisor.wait(row.id)
    await asyncio.sleep(0.01)
    assert len(world.sandbox.asked) == 1
    assert kinds(await world.log(row.id)).count("run.started") == 1


async def test_waiting_ends_when_the_server_does(store: SqliteStore) -> None:
    world, row = await in_a_call(store)
    closing = asyncio.Event()
    waiting = asyncio.ensure_future(world.supervisor.wait(row.id, closing))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    closing.set()
    async with asyncio.timeout(1):
        await waiting
    assert world.supervisor.running == [row.id]
    await world.supervisor.aclose()


# time


def log_of(*entries: tuple[str, float]) -> list[Event]:
    return [Event(seq, START + timedelta(seconds=at), kind, b"{}") for seq, (kind, at) in enumerate(entries, 1)]


@pytest.mark.parametrize(
    ("entries", "spent"),
    [
        ([("interaction.created", 0)], 0),
        ([("interaction.created", 0), ("run.started", 10), ("turn.started", 12), ("turn.ended", 15)], 5),
        ([("run.started", 0), ("turn.started", 5), ("run.started", 500), ("tool.output", 503)], 8),
        ([("run.started", 0), ("turn.started", 5), ("turn.ended", 100_000)], 105),
        ([("run.started", 0), ("turn.started", -50_000), ("turn.ended", -49_990)], 10),
    ],
)
def test_time_is_counted_by_the_log_and_not_across_holders_or_jumps(
    entries: list[tuple[str, float]], spent: float
) -> None:
    assert spent_s(log_of(*entries), 100) == spent


async def test_a_run_has_its_time_once_and_not_again_with_each_holder(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now())
    store = SqliteStore(tmp_path / "x.db", clock)
    await store.open()
    first, row = await in_a_call(store, limits=Limits(run_timeout_s=60))
    clock.advance(59.9)
    piece = NewEvent("tool.output", b'{"call_id":"%b","text":"."}' % first.sandbox.carried_out[0].encode())
    await store.append(row.id, [piece], generation=1, expected_seq=len(await store.read(row.id)) + 1)
    await first.supervisor.aclose()
    second = RunWorld(store, first.sandbox, limits=Limits(run_timeout_s=60), generation=2)
    await second.supervisor.open()
    async with asyncio.timeout(10):
        await second.supervisor.wait(row.id)
    await assert_ended(second, row, "incomplete")
    await second.supervisor.aclose()
    await store.aclose()


async def test_a_finished_call_of_a_lost_holder_is_fetched(store: SqliteStore) -> None:
    first, row = await left_in_a_call(store)
    (call_id,) = first.sandbox.carried_out
    await first.sandbox.remember(call_id, outcome("what came of it\n"))
    second = RunWorld(store, first.sandbox, generation=2)
    await second.supervisor.open()
    await second.supervisor.wait(row.id)
    assert (await second.stored(row.id)).status == "completed"
    assert "what came of it" in str(await second.steps(row.id))
    assert bodies(await second.log(row.id), "tool.taken_up") == [{"call_id": call_id, "found": "finished"}]
    assert second.sandbox.acknowledged == [call_id]
    await second.supervisor.aclose()
