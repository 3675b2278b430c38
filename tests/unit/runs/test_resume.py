"""A run is a function of its log: taken up from every prefix of it, and cancelled at every point."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import StoreError
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import Event, NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.steps import CodeExecutionCall, FunctionCall, ModelOutput
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.rows import environment_row, interaction_row
from tests.fakes.runs import RunWorld, assert_ended_once, assert_matched, bash, bodies, kinds, scripted, without_ids
from tests.fakes.sandboxes import Asked, FakeSandbox, done, outcome

pytestmark = pytest.mark.anyio

STORY = scripted(
    {"thought": "Look first.", "text": "I look.", "calls": [bash("ls"), bash("pwd")], "chunk": 4},
    {"calls": [{"tool": "write_file", "arguments": {"path": "x", "content": "text"}}, {"tool": "nothing"}]},
    {"calls": [{"tool": "code_execution", "arguments": {"language": "ruby", "code": "puts 1"}}]},
    {"text": "Done: {{last}}", "chunk": 9},
)


async def answer(asked: Asked) -> CallOutcome:
    if asked.verb == "write":
        return done(path="/workspace/x", size_bytes=4, created=True)
    return outcome(f"output of {asked.what}\n")


@asynccontextmanager
async def opened_store(path: Path) -> AsyncGenerator[SqliteStore, None]:
    store = SqliteStore(path, SystemClock())
    await store.open()
    yield store
    await assert_store_consistent(store)
    await store.aclose()


@pytest.fixture
async def whole(tmp_path: Path) -> tuple[list[Event], list[str]]:
    """The log of an undisturbed run, and the ids of the calls that its sandbox carried out."""
    async with opened_store(tmp_path / "whole.db") as store:
        world = RunWorld(store, FakeSandbox(answer))
        row = await world.run(STORY)
        assert row.status == "completed"
        return await store.read(row.id), world.sandbox.carried_out


def results_of(events: Sequence[Event]) -> set[str]:
    """Calls whose result is stored."""
    return {
        delta["delta"]["call_id"]
        for delta in bodies(events, "step.delta")
        if "call_id" in delta["delta"]
    } | {start["step"]["call_id"] for start in bodies(events, "step.start") if "call_id" in start["step"]}  # fmt: skip


async def taken_up(store: SqliteStore, prefix: Sequence[Event], sandbox: FakeSandbox) -> tuple[RunWorld, str]:
    """A run whose holder was lost after `prefix`, run to its end by the next holder."""
    project = await store.default_project()
    now = SystemClock().now()
    environment = environment_row(project.id, created=now, updated=now)
    await store.create_environment(environment)
    request = json.dumps({"agent": "general", "input": STORY})
    row = interaction_row(project.id, environment_id=environment.id, request=request, created=now, updated=now)
    await store.create_interaction(row, [NewEvent(event.kind, event.body) for event in prefix])
    world = RunWorld(store, sandbox, generation=2)
    await world.supervisor.open()
    async with asyncio.timeout(20):
        await world.supervisor.wait(row.id)
    return world, row.id


@pytest.mark.parametrize("has_guest_the_call", [True, False], ids=["the guest has the call", "it never arrived"])
async def test_from_every_prefix_no_call_is_made_twice_and_the_end_is_the_same(
    tmp_path: Path, whole: tuple[list[Event], list[str]], has_guest_the_call: bool
) -> None:
    events, carried_out = whole
    final = without_ids_of(events)
    for length in range(2, len(events)):
        prefix = events[:length]
        sandbox = FakeSandbox(answer)
        begun = {entry["call_id"] for entry in bodies(prefix, "tool.started")}
        unanswered = begun - results_of(prefix)
        if has_guest_the_call:
            for call_id in unanswered & set(carried_out):
                await sandbox.remember(call_id, whole_outcome(call_id, events))
        async with opened_store(tmp_path / f"{length}.db") as store:
            world, interaction_id = await taken_up(store, prefix, sandbox)
            log = await store.read(interaction_id)
            context = f"prefix of {length} events, the last is {prefix[-1].kind}"
            assert [event.body for event in log[:length]] == [event.body for event in prefix], context
            assert_ended_once(log, "completed")
            steps = await world.steps(interaction_id)
            assert_matched(steps)
            # Nothing that had a result is done again; what the guest has is followed and not repeated.
            assert not set(sandbox.carried_out) & results_of(prefix), context
            if has_guest_the_call:
                assert not set(sandbox.carried_out) & unanswered, context
            assert len(sandbox.carried_out) == len(set(sandbox.carried_out)), context
            if is_between_turns(prefix):
                assert [step.content for step in steps if isinstance(step, ModelOutput)][-1] == final["answer"], context
                assert without_ids(steps) == final["steps"], context
                assert bodies(log, "interaction.completed")[0]["interaction"]["usage"] == final["usage"], context


def without_ids_of(events: Sequence[Event]) -> dict[str, Any]:
    from orchestrator.wire.events import fold

    steps = fold((event.kind, event.body) for event in events)
    answers = [step.content for step in steps if isinstance(step, ModelOutput)]
    usage = bodies(events, "interaction.completed")[0]["interaction"]["usage"]
    return {"steps": without_ids(steps), "answer": answers[-1], "usage": usage}


def whole_outcome(call_id: str, events: Sequence[Event]) -> CallOutcome:
    """What the guest kept of a call: the same that the first holder would have read."""
    started = next(entry for entry in bodies(events, "tool.started") if entry["call_id"] == call_id)
    if started["tool"] == "write_file":
        return done(path="/workspace/x", size_bytes=4, created=True)
    return outcome(f"output of {started['arguments']['code']}\n")


def is_between_turns(prefix: Sequence[Event]) -> bool:
    """No turn was under way that had shown something: it is asked again, and what it showed stays."""
    shown = False
    for event in prefix:
        if event.kind == "turn.started":
            shown = False
        elif event.kind == "step.start":
            shown = True
        elif event.kind == "turn.ended":
            shown = False
    under_way = kinds(prefix).count("turn.started") > kinds(prefix).count("turn.ended")
    # A result whose step was begun and not ended cannot be taken up, either: it is written again.
    is_open = kinds(prefix).count("step.start") > kinds(prefix).count("step.stop")
    return not (under_way and shown) and not is_open


async def test_a_restarted_guest_is_told_to_the_model_and_the_run_goes_on(
    tmp_path: Path, whole: tuple[list[Event], list[str]]
) -> None:
    events, _ = whole
    started = next(at for at, event in enumerate(events) if event.kind == "tool.started")
    sandbox = FakeSandbox(answer, guest_id="another")
    async with opened_store(tmp_path / "restarted.db") as store:
        world, interaction_id = await taken_up(store, events[: started + 1], sandbox)
        log = await store.read(interaction_id)
        assert_ended_once(log, "completed")
        steps = await world.steps(interaction_id)
        assert_matched(steps)
        assert "started again" in str(steps)
        (call_id,) = {entry["call_id"] for entry in bodies(events[: started + 1], "tool.started")}
        assert call_id not in sandbox.carried_out


async def test_an_ended_run_is_not_taken_up(tmp_path: Path, whole: tuple[list[Event], list[str]]) -> None:
    events, _ = whole
    async with opened_store(tmp_path / "ended.db") as store:
        project = await store.default_project()
        now = SystemClock().now()
        later = now + timedelta(minutes=1)
        row = interaction_row(project.id, status="completed", created=now, updated=later)
        await store.create_interaction(row, [NewEvent(event.kind, event.body) for event in events])
        world = RunWorld(store, generation=2)
        await world.supervisor.open()
        assert world.supervisor.running == []


async def test_a_run_whose_agent_or_model_is_gone_is_ended(tmp_path: Path) -> None:
    async with opened_store(tmp_path / "gone.db") as store:
        world = RunWorld(store)
        for agent in ("no-such-agent", "lost"):
            row = await world.row("x", agent=agent)
            assert (await world.finish(row)).status == "failed"
            assert_ended_once(await store.read(row.id), "failed")
        row = await world.row("x", agent="no-such-agent", status="in_progress")
        world.supervisor.start(row)
        await world.supervisor.cancel(row.id)
        assert (await world.stored(row.id)).status == "cancelled", "cancelled before its first step"


# cancel


class CancelsAt(SqliteStore):
    """Has the run cancelled when append number `at` comes, or just after it."""

    def __init__(self, path: Path, at: int, *, is_after: bool) -> None:
        super().__init__(path, SystemClock())
        self.at = at
        self.is_after = is_after
        self.appends = 0
        self.world: RunWorld | None = None
        self.cancelling: asyncio.Task[None] | None = None

    async def append(self, interaction_id: str, events: Sequence[NewEvent], **fields: Any) -> None:
        number, self.appends = self.appends, self.appends + 1
        if number == self.at and not self.is_after:
            self._cancel(interaction_id)
        await super().append(interaction_id, events, **fields)
        if number == self.at and self.is_after:
            self._cancel(interaction_id)

    def _cancel(self, interaction_id: str) -> None:
        assert self.world is not None
        self.cancelling = asyncio.ensure_future(self.world.supervisor.cancel(interaction_id))


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
async def test_cancelled_at_every_point_a_run_leaves_matched_calls(tmp_path: Path, is_after: bool) -> None:
    statuses = []
    for at in range(100):
        store = CancelsAt(tmp_path / f"{at}.db", at, is_after=is_after)
        await store.open()
        sandbox = FakeSandbox(answer)
        store.world = world = RunWorld(store, sandbox)
        row = await world.run(STORY)
        if store.cancelling is None:
            await store.aclose()
            break
        await store.cancelling
        row = await world.stored(row.id)
        assert row.status in ("cancelled", "completed"), f"append {at}"
        assert_ended_once(await store.read(row.id), row.status)
        steps = await world.steps(row.id)
        assert_matched(steps)
        made = {step.id for step in steps if isinstance(step, CodeExecutionCall | FunctionCall)}
        assert set(sandbox.carried_out) <= made
        assert world.supervisor.running == []
        await assert_store_consistent(store)
        await store.aclose()
        statuses.append(row.status)
    assert len(statuses) > 10
    assert "cancelled" in statuses


async def test_cancelling_again_and_what_has_ended_changes_nothing(tmp_path: Path) -> None:
    async def hangs(_asked: Asked) -> CallOutcome:
        await asyncio.sleep(60)
        raise AssertionError

    async with opened_store(tmp_path / "x.db") as store:
        sandbox = FakeSandbox(hangs)
        world = RunWorld(store, sandbox)
        row = await world.row(scripted({"calls": [bash("sleep 60")]}))
        world.supervisor.start(row)
        while not sandbox.asked:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(world.supervisor.cancel(row.id) for _ in range(3)))
        before = await store.read(row.id)
        assert_ended_once(before, "cancelled")
        await world.supervisor.cancel(row.id)
        await world.supervisor.cancel("v1_unknown")
        assert await store.read(row.id) == before
        assert sandbox.cancelled == sandbox.carried_out


# letting go


async def test_a_server_that_ends_leaves_its_runs_to_the_next(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def waits(asked: Asked) -> CallOutcome:
        await release.wait()
        return outcome(f"output of {asked.what}\n")

    async with opened_store(tmp_path / "x.db") as store:
        sandbox = FakeSandbox(waits)
        first = RunWorld(store, sandbox)
        row = await first.row(scripted({"calls": [bash("slow")]}, {"text": "{{last}}"}))
        first.supervisor.start(row)
        while not sandbox.asked:
            await asyncio.sleep(0.01)
        await first.supervisor.aclose()
        assert first.environments.has_let_go
        assert (await first.stored(row.id)).status == "in_progress"
        second = RunWorld(store, sandbox, generation=2)
        await second.supervisor.open()
        release.set()
        async with asyncio.timeout(5):
            await second.supervisor.wait(row.id)
        assert (await second.stored(row.id)).status == "completed"
        assert sandbox.carried_out == [asked.call_id for asked in sandbox.asked[:1]]
        assert "output of slow" in str((await second.steps(row.id))[-1])
        assert_ended_once(await store.read(row.id), "completed")


async def test_a_stale_holder_stops_quietly_and_writes_nothing(tmp_path: Path, logged: list[Any]) -> None:
    release = asyncio.Event()

    async def waits(asked: Asked) -> CallOutcome:
        await release.wait()
        return outcome("late")

    async with opened_store(tmp_path / "x.db") as store:
        stale = RunWorld(store, FakeSandbox(waits), generation=1)
        row = await stale.row(scripted({"calls": [bash("slow")]}))
        stale.supervisor.start(row)
        while not stale.sandbox.asked:
            await asyncio.sleep(0.01)
        await store.claim(row.id, 2)
        before = await store.read(row.id)
        release.set()
        async with asyncio.timeout(5):
            await stale.supervisor.wait(row.id)
        assert await store.read(row.id) == before
        assert "run_lease_lost" in [line["event"] for line in logged]
        await RunWorld(store, FakeSandbox(answer), generation=2).finish(row)


# a database that refuses


class RefusesFor(SqliteStore):
    """Refuses appends number `first` to `last`."""

    def __init__(self, path: Path, first: int, last: int) -> None:
        super().__init__(path, SystemClock())
        self.refused = range(first, last)
        self.appends = 0

    async def append(self, interaction_id: str, events: Sequence[NewEvent], **fields: Any) -> None:
        number, self.appends = self.appends, self.appends + 1
        if number in self.refused:
            raise StoreError("the disk is full", code="store_full", retryable=True)
        await super().append(interaction_id, events, **fields)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.runs.supervisor._FIRST_STORE_WAIT_S", 0.01)


@pytest.mark.usefixtures("quick")
async def test_a_run_waits_for_a_database_that_refuses_and_makes_no_call_twice(tmp_path: Path) -> None:
    for first in range(12):
        store = RefusesFor(tmp_path / f"{first}.db", first, first + 2)
        await store.open()
        sandbox = FakeSandbox(answer)
        world = RunWorld(store, sandbox)
        row = await world.run(STORY)
        assert row.status == "completed", first
        assert_ended_once(await store.read(row.id), "completed")
        assert_matched(await world.steps(row.id))
        assert len(sandbox.carried_out) == len(set(sandbox.carried_out))
        await assert_store_consistent(store)
        await store.aclose()


@pytest.mark.usefixtures("quick")
async def test_a_cancel_holds_also_while_the_database_refuses(tmp_path: Path) -> None:
    store = RefusesFor(tmp_path / "x.db", 1, 6)
    await store.open()
    sandbox = FakeSandbox(answer)
    world = RunWorld(store, sandbox)
    row = await world.row(STORY)
    world.supervisor.start(row)
    while store.appends < 3:
        await asyncio.sleep(0.001)
    async with asyncio.timeout(10):
        await world.supervisor.cancel(row.id)
    assert (await world.stored(row.id)).status == "cancelled"
    assert_ended_once(await store.read(row.id), "cancelled")
    assert world.supervisor.running == []
    await store.aclose()
