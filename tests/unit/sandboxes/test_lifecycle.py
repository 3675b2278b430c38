"""Sandboxes that nobody uses, that end unseen, that hang, and servers that die over them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import SandboxGone, SandboxStartFailed, StoreError
from orchestrator.sandboxes import environments as environments_module
from orchestrator.sandboxes import lifecycle
from orchestrator.sandboxes.driver import (
    DriverInfo,
    Found,
    GuestStream,
    SandboxRef,
    SandboxSpec,
    SandboxState,
    SandboxStatus,
)
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.stages import StageSettings
from orchestrator.store.records import EnvironmentRow
from tests.fakes.lives import WITH_SOURCE, World, eventually, says, spec_of, used
from tests.fakes.local_driver import IMAGE, EngineAway, FailsDuringCreate, LocalDriver, SlowToStart

pytestmark = pytest.mark.anyio

QUICK = StageSettings(pause_after_s=0.3, stop_after_s=0, delete_after_s=0, sweep_interval_s=0.05)
STOPS = replace(QUICK, pause_after_s=0, stop_after_s=0.3)


def has(world: World, row: EnvironmentRow, status: str) -> Callable[[], Awaitable[bool]]:
    async def is_it() -> bool:
        return await world.status(row.id) == status

    return is_it


def state_of(world: World, sandbox: Sandbox) -> Awaitable[SandboxStatus]:
    return LocalDriver(world.root).inspect(sandbox.ref)


# unused


async def test_an_unused_sandbox_is_paused_and_the_next_use_goes_on_where_it_was(world: World) -> None:
    environments = await world.server(stages=QUICK)
    row = await environments.create(world.project, spec_of())
    with environments.hold(row.id):
        sandbox = await environments.sandbox(row.id)
        await sandbox.python("x", "x = 41", timeout_s=10, output_limit_bytes=100)
    await eventually(has(world, row, "paused"))
    assert (await state_of(world, sandbox)).state is SandboxState.PAUSED
    with environments.hold(row.id):
        again = await environments.sandbox(row.id)
        assert again is sandbox, "its link was kept"
        cell = await again.python("y", "print(x + 1)", timeout_s=10, output_limit_bytes=100)
        assert cell.head == b"42\n"
        assert await world.status(row.id) == "active"
    assert (await world.row(row.id)).target is None


async def test_an_unused_sandbox_is_stopped_and_the_next_use_finds_its_files(world: World) -> None:
    environments = await world.server(stages=STOPS)
    row = await environments.create(world.project, spec_of())
    with environments.hold(row.id):
        sandbox = await environments.sandbox(row.id)
        await says(sandbox, "echo kept > f")
    await eventually(has(world, row, "stopped"))
    assert (await state_of(world, sandbox)).state is SandboxState.EXITED
    assert not sandbox.is_connected
    with environments.hold(row.id):
        again = await environments.sandbox(row.id)
        assert await says(again, "cat f") == "kept\n"
        assert again.guest_id != sandbox.guest_id
        assert (await world.row(row.id)).guest_id == again.guest_id
    assert await world.kinds(row.id) == [
        "environment.created",
        "sandbox.starting",
        "sandbox.started",
        "sandbox.stopped",
        "sandbox.restored",
    ]


async def test_from_paused_to_stopped_to_deleted(world: World) -> None:
    stages = StageSettings(pause_after_s=0.2, stop_after_s=0.6, delete_after_s=1.0, sweep_interval_s=0.05)
    environments = await world.server(stages=stages)
    row, _ = await used(world, environments)
    await eventually(has(world, row, "paused"))
    await eventually(has(world, row, "stopped"))

    async def is_gone() -> bool:
        return await world.store.environment(None, row.id) is None and await world.owned() == set()

    await eventually(is_gone)


async def test_what_is_held_stays_as_it_is(world: World) -> None:
    stages = StageSettings(pause_after_s=0.1, stop_after_s=0.2, delete_after_s=0.2, sweep_interval_s=0.02)
    environments = await world.server(stages=stages)
    row = await environments.create(world.project, spec_of())
    with environments.hold(row.id):
        sandbox = await environments.sandbox(row.id)
        await asyncio.sleep(1.0)
        assert await world.status(row.id) == "active"
        assert await says(sandbox, "echo fine") == "fine\n"


async def test_what_has_calls_of_a_run_that_waits_for_its_turn_stays_as_it_is(world: World) -> None:
    environments = await world.server(stages=STOPS)
    row = await environments.create(world.project, spec_of())
    wanted = {"call"}

    async def claims(_environment_id: str) -> set[str]:
        return wanted

    environments.claims = claims
    await environments.sandbox(row.id)
    await asyncio.sleep(1.0)
    assert await world.status(row.id) == "active"
    wanted.clear()
    await eventually(has(world, row, "stopped"))


async def test_uses_and_stages_at_the_same_time(world: World) -> None:
    """However they meet, a use finds a sandbox that answers."""
    stages = StageSettings(pause_after_s=0.02, stop_after_s=0.1, delete_after_s=0, sweep_interval_s=0.01)
    environments = await world.server(stages=stages)
    row = await environments.create(world.project, spec_of())
    for number in range(25):
        with environments.hold(row.id):
            sandbox = await environments.sandbox(row.id)
            assert await says(sandbox, f"echo {number} >> f; tail -n 1 f") == f"{number}\n"
        await asyncio.sleep(number % 5 * 0.03)
    with environments.hold(row.id):
        assert await says(await environments.sandbox(row.id), "wc -l < f") == "25\n"


async def test_one_that_was_paused_from_outside_goes_on_when_it_is_needed(world: World) -> None:
    environments = await world.server(stages=replace(QUICK, pause_after_s=0))
    row, sandbox = await used(world, environments)
    await LocalDriver(world.root).pause(sandbox.ref)
    await eventually(has(world, row, "paused"))
    assert await says(await environments.sandbox(row.id), "echo thawed") == "thawed\n"


@pytest.mark.parametrize("target", ["paused", "stopped"])
@pytest.mark.parametrize("has_done_it", [False, True])
async def test_a_change_that_a_crash_cut_off_is_finished(world: World, target: str, has_done_it: bool) -> None:
    first = await world.server()
    row, sandbox = await used(world, first)
    await says(sandbox, "echo kept > f")
    await first.aclose()
    await world.store.update_environment(row.id, target=target)
    driver = LocalDriver(world.root)
    if has_done_it:
        await (driver.pause(sandbox.ref) if target == "paused" else driver.stop(sandbox.ref))
    second = await world.server(stages=replace(QUICK, pause_after_s=0))
    await eventually(has(world, row, target))

    async def is_settled() -> bool:
        return (await world.row(row.id)).target is None

    await eventually(is_settled)
    assert await says(await second.sandbox(row.id), "cat f") == "kept\n"


# ends that nobody saw


async def test_a_sandbox_that_ended_while_no_server_ran_is_known_to_have_ended(world: World) -> None:
    first = await world.server()
    (ended, sandbox), (gone, other) = [await used(world, first) for _ in range(2)]
    await first.aclose()
    driver = LocalDriver(world.root)
    await driver.stop(sandbox.ref)
    await driver.destroy(other.ref)
    await world.server()
    await eventually(has(world, ended, "stopped"))
    await eventually(has(world, gone, "lost"))
    assert (await state_of(world, sandbox)).state is SandboxState.EXITED, "nobody needed it"


async def test_the_end_of_a_sandbox_without_a_link_is_noticed(world: World) -> None:
    first = await world.server()
    row, sandbox = await used(world, first)
    await first.aclose()
    second = await world.server()
    await eventually(_once_round(second))
    await LocalDriver(world.root).stop(sandbox.ref)
    await eventually(has(world, row, "stopped"))
    assert await second.running(row.id) is None
    assert (await state_of(world, sandbox)).state is SandboxState.EXITED


def _once_round(environments: Environments) -> Callable[[], Awaitable[bool]]:
    async def is_listening() -> bool:
        await asyncio.sleep(0.2)
        return True

    return is_listening


async def test_a_silent_engine_ends_nothing(world: World) -> None:
    driver = EngineAway(world.root)
    driver.is_away = False
    environments = await world.server(driver)
    row, sandbox = await used(world, environments)
    driver.is_away = True
    await environments._stages.look_at(row.id)
    assert await world.status(row.id) == "active"
    assert sandbox.is_connected


async def test_an_engine_that_restarts_has_ended_its_sandboxes(world: World) -> None:
    driver = EngineAway(world.root)
    driver.is_away = False
    environments = await world.server(driver)
    made = [await used(world, environments) for _ in range(3)]
    await says(made[0][1], "echo kept > f")
    driver.is_away = True
    for _, sandbox in made:
        await LocalDriver(world.root).stop(sandbox.ref)
    await asyncio.sleep(0.2)
    assert [await world.status(row.id) for row, _ in made] == ["active"] * 3, "nobody knows"
    driver.is_away = False
    for row, _ in made:
        await eventually(has(world, row, "stopped"))
    assert await says(await environments.sandbox(made[0][0].id), "cat f") == "kept\n"


async def test_running_finds_what_runs_and_starts_nothing(world: World) -> None:
    first = await world.server()
    row, sandbox = await used(world, first)
    fresh = await first.create(world.project, spec_of())
    assert await first.running(row.id) is sandbox
    assert await first.running(fresh.id) is None
    assert await first.running("0" * 32) is None
    await first.aclose()
    second = await world.server()
    found = await second.running(row.id)
    assert found is not None
    assert found.guest_id == sandbox.guest_id


async def test_adoption_asks_the_engine_once_for_all(world: World) -> None:
    class Counts(LocalDriver):
        asked: Counter[str] = Counter()

        async def owned(self) -> AsyncIterator[Found]:
            self.asked["owned"] += 1
            for number in range(200):
                yield Found(SandboxRef(f"s{number}", "token"), SandboxState.EXITED, has_files=True)

        async def inspect(self, ref: SandboxRef) -> SandboxStatus:
            self.asked["inspect"] += 1
            return SandboxStatus(SandboxState.EXITED, has_files=True)

    maker = await world.server(limit=300, is_open=False)
    for number in range(200):
        row = await maker.create(world.project, spec_of())
        status = "active" if number < 3 else "stopped"
        await world.store.update_environment(
            row.id, status=status, sandbox_id=f"s{number}", sandbox_ref="token", target="stopped" if number == 2 else ""
        )
    driver = Counts(world.root)
    await world.server(driver)

    async def is_adopted() -> bool:
        return all(row.status == "stopped" for row in await world.store.sandbox_rows())

    await eventually(is_adopted)
    assert driver.asked["owned"] <= 2
    assert driver.asked["inspect"] <= 8, "a look at each that differs, and what letting go of it takes"


async def test_a_server_does_not_wait_for_an_engine_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hung(LocalDriver):
        is_hung = True

        async def open(self) -> DriverInfo:
            if self.is_hung:
                await asyncio.Event().wait()
            return await super().open()

    monkeypatch.setattr(environments_module, "_FIRST_ANSWER_S", 0.1)
    driver = Hung(world.root)
    async with asyncio.timeout(2):
        await world.server(driver)


async def test_a_server_starts_without_its_disks(world: World) -> None:
    class NoDisks(LocalDriver):
        failures = 1

        async def open(self) -> DriverInfo:
            self.failures -= 1
            if self.failures >= 0:
                raise SandboxStartFailed("the pool cannot be mounted", stage="disk")
            return await super().open()

    environments = await world.server(NoDisks(world.root))
    _, sandbox = await used(world, environments)
    assert await says(sandbox, "echo fine") == "fine\n"


# what is left over


async def test_what_the_engine_finishes_after_its_server_was_killed_is_reaped(world: World) -> None:
    environments = await world.server(stages=replace(QUICK, pause_after_s=0))
    _, kept = await used(world, environments)
    async for _ in LocalDriver(world.root).create(SandboxSpec("late", IMAGE)):
        pass

    async def is_reaped() -> bool:
        return await world.owned() == {kept.ref.sandbox_id}

    await eventually(is_reaped)


async def test_what_could_not_be_removed_is_removed_by_a_later_round(world: World) -> None:
    class Stuck(LocalDriver):
        failures = 3

        async def destroy(self, ref: SandboxRef) -> None:
            self.failures -= 1
            if self.failures >= 0:
                raise SandboxStartFailed("it cannot be unmounted", stage="disk")
            await super().destroy(ref)

    async for _ in LocalDriver(world.root).create(SandboxSpec("orphan", IMAGE)):
        pass
    await world.server(Stuck(world.root), stages=replace(QUICK, pause_after_s=0))

    async def is_reaped() -> bool:
        return await world.owned() == set()

    await eventually(is_reaped)


class Dies(BaseException):
    """The server, at this point."""


async def test_a_start_that_is_undone_tells_the_store_before_the_engine(world: World) -> None:
    """Killed in between, the other way round, the row would believe in a sandbox that is gone: a fork's files lost."""

    class DiesBeforeDestroying(LocalDriver):
        async def destroy(self, ref: SandboxRef) -> None:
            raise Dies

    first = await world.server(DiesBeforeDestroying(world.root), is_open=False)
    parent, sandbox = await used(world, first)
    await says(sandbox, "echo precious > f")
    child = await first.fork(await world.row(parent.id))
    complete = first._lifecycle._complete

    async def complete_and_fail(*arguments: object) -> None:
        await complete(*arguments)  # type: ignore[arg-type]
        raise StoreError("cancelled in this very await")

    first._lifecycle._complete = complete_and_fail  # type: ignore[method-assign, assignment]
    with pytest.raises((Dies, StoreError)):
        await first.sandbox(child.id)
    stored = await world.row(child.id)
    assert (stored.status, stored.snapshot) == ("pending", child.snapshot)
    second = await world.server()
    assert await says(await second.sandbox(child.id), "cat f") == "precious\n"


async def test_a_start_whose_entry_cannot_be_written_has_succeeded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    note = environments._lifecycle.note

    async def fails(environment_id: str, kind: str, **fields: object) -> None:
        if kind == "sandbox.started":
            raise StoreError("full")
        await note(environment_id, kind, **fields)

    monkeypatch.setattr(environments._lifecycle, "note", fails)
    sandbox = await environments.sandbox(row.id)
    assert await says(sandbox, "echo fine") == "fine\n"
    assert await environments.sandbox(row.id) is sandbox


async def test_who_gives_up_when_all_is_done_leaves_no_link(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    note = environments._lifecycle.note
    is_noting = asyncio.Event()

    async def stalls(environment_id: str, kind: str, **fields: object) -> None:
        if kind == "sandbox.started":
            is_noting.set()
            await asyncio.Event().wait()
        await note(environment_id, kind, **fields)

    monkeypatch.setattr(environments._lifecycle, "note", stalls)
    starting = asyncio.ensure_future(environments.sandbox(row.id))
    await is_noting.wait()
    starting.cancel()
    await asyncio.wait([starting])
    assert "sandbox-link" not in [task.get_name() for task in asyncio.all_tasks()]
    monkeypatch.undo()
    monkeypatch.setattr(lifecycle, "_ENGINE_PATIENCE_S", 0.0)
    assert await says(await environments.sandbox(row.id), "echo fine") == "fine\n"


async def test_a_start_under_way_at_the_end_of_a_server_is_left_to_the_next(world: World) -> None:
    first = await world.server(SlowToStart(world.root))
    row = await first.create(world.project, spec_of(WITH_SOURCE))
    first.prepare(row.id)

    async def has_ref() -> bool:
        return (await world.row(row.id)).sandbox_ref is not None

    await eventually(has_ref)
    (begun,) = await world.owned()
    first.let_go()
    await first.aclose()
    assert await world.owned() == {begun}
    second = await world.server()
    sandbox = await second.sandbox(row.id)
    assert sandbox.ref.sandbox_id == begun
    assert await says(sandbox, "cat data.txt") == "given"


async def test_a_start_that_the_store_does_not_know_of_is_undone_at_the_end_of_a_server(world: World) -> None:
    environments = await world.server(pool_size=1)

    async def one_waits() -> bool:
        return sum(environments._lifecycle.pools.counts.values()) == 1

    await eventually(one_waits)
    row = await environments.create(world.project, spec_of())

    async def never(*_: object) -> Sandbox:
        await asyncio.Event().wait()
        raise AssertionError

    environments._lifecycle._bind = never  # type: ignore[method-assign, assignment]
    environments.prepare(row.id)
    await asyncio.sleep(0.2)
    environments.let_go()
    await environments.aclose()
    assert await world.owned() == set()


async def test_a_container_that_was_made_and_never_started_is_taken_up_as_a_creation(world: World) -> None:
    """Its disk may be missing, its guest not be in it: to start it is not enough."""

    class NeedsAllOfIt(LocalDriver):
        async def start(self, ref: SandboxRef) -> None:
            raise SandboxGone("there is no disk to mount")

    driver = NeedsAllOfIt(world.root)
    environments = await world.server(driver, is_open=False)
    row = await environments.create(world.project, spec_of(WITH_SOURCE))
    async with aclosing(driver.create(SandboxSpec("begun", IMAGE))) as stages:
        ref = await anext(stages)
    await world.store.update_environment(row.id, sandbox_id="begun", sandbox_ref=ref.token)
    sandbox = await environments.sandbox(row.id)
    assert sandbox.ref.sandbox_id == "begun"
    assert await says(sandbox, "cat data.txt") == "given"


# removed from outside


async def test_a_sandbox_that_was_removed_is_made_again_around_its_files(world: World) -> None:
    environments = await world.server()
    row, sandbox = await used(world, environments, WITH_SOURCE)
    await says(sandbox, "echo changed > data.txt")
    await LocalDriver(world.root).prune(sandbox.ref)
    await eventually(has(world, row, "stopped"))
    await environments._reconciler.round()
    again = await environments.sandbox(row.id)
    assert again.guest_id != sandbox.guest_id
    assert await says(again, "cat data.txt") == "changed\n"
    assert await world.status(row.id) == "active"
    assert "sandbox.restored" in await world.kinds(row.id)


async def test_a_sandbox_that_is_just_being_removed_is_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Removing(LocalDriver):
        """Between its end and its removal it cannot be started."""

        async def start(self, ref: SandboxRef) -> None:
            await self.prune(ref)
            raise SandboxStartFailed("it is marked for removal", stage="start")

    monkeypatch.setattr(lifecycle, "_ENGINE_PATIENCE_S", 5.0)
    environments = await world.server(Removing(world.root))
    row, sandbox = await used(world, environments)
    await says(sandbox, "echo kept > f")
    await LocalDriver(world.root).stop(sandbox.ref)
    await sandbox.link.ended.wait()
    assert await says(await environments.sandbox(row.id), "cat f") == "kept\n"


async def test_a_sandbox_that_was_removed_is_forked_by_its_files(world: World) -> None:
    environments = await world.server()
    row, sandbox = await used(world, environments)
    await says(sandbox, "echo kept > f")
    await LocalDriver(world.root).prune(sandbox.ref)
    await eventually(has(world, row, "stopped"))
    fork = await environments.fork(await world.row(row.id))
    assert await says(await environments.sandbox(fork.id), "cat f") == "kept\n"


async def test_a_restoration_that_fails_keeps_the_files(world: World) -> None:
    driver = FailsDuringCreate(world.root, "start", times=0)
    environments = await world.server(driver)
    row, sandbox = await used(world, environments)
    await says(sandbox, "echo kept > f")
    await driver.prune(sandbox.ref)
    await eventually(has(world, row, "stopped"))
    driver.times = 1
    with pytest.raises(SandboxStartFailed):
        await environments.sandbox(row.id)
    assert await says(await environments.sandbox(row.id), "cat f") == "kept\n"


# guests that do not answer


async def test_one_that_does_not_answer_may_be_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(LocalDriver):
        is_refusing = False

        async def connect(self, ref: SandboxRef) -> GuestStream:
            if self.is_refusing:
                raise SandboxGone("the bridge does not start")
            return await super().connect(ref)

    monkeypatch.setattr(lifecycle, "_RECONNECT_WAITS_S", (0.01, 0.01))
    driver = Refuses(world.root)
    environments = await world.server(driver)
    row, sandbox = await used(world, environments)
    await sandbox.link.aclose()
    driver.is_refusing = True
    with pytest.raises(SandboxGone) as caught:
        await environments.sandbox(row.id)
    assert caught.value.retryable
    driver.is_refusing = False
    assert (await environments.sandbox(row.id)).guest_id == sandbox.guest_id


async def test_a_database_from_a_backup_finds_its_sandboxes(world: World) -> None:
    """Their guests have served later generations than it knows of."""
    for _ in range(5):
        await world.store.next_generation()
    first = await world.server()
    row, sandbox = await used(world, first)
    await first.aclose()
    second = await world.server(is_open=False)
    second._lifecycle._generation = 2
    assert (await second.sandbox(row.id)).guest_id == sandbox.guest_id
    assert second._lifecycle._generation > first._lifecycle._generation


# calls that nobody claims


async def test_calls_that_nobody_claims_are_ended_when_a_link_is_opened(world: World) -> None:
    first = await world.server()
    row, sandbox = await used(world, first)
    code = "echo $BASHPID > $NAME; sleep 60"
    for name in ("claimed", "left"):
        asyncio.ensure_future(
            sandbox.bash(name, code.replace("$NAME", name), timeout_s=90, output_limit_bytes=100)
        ).add_done_callback(lambda call: call.cancelled() or call.exception())
    await sandbox.bash("done", "echo x", timeout_s=9, output_limit_bytes=100)
    workspace = Path(sandbox.ref.token) / "workspace"

    async def both_run() -> bool:
        return all((workspace / name).exists() and (workspace / name).read_text() for name in ("claimed", "left"))

    await eventually(both_run)
    first.let_go()
    await first.aclose()
    second = await world.server()

    async def claims(environment_id: str) -> set[str]:
        assert environment_id == row.id
        return {"claimed"}

    second.claims = claims
    again = await second.sandbox(row.id)
    pids = {name: int((workspace / name).read_text()) for name in ("claimed", "left")}
    assert Path(f"/proc/{pids['claimed']}").exists()
    assert not Path(f"/proc/{pids['left']}").exists()
    book = (await again.link.ask({"service": "calls"}))["calls"]
    assert book == {"claimed": "running"}
    await again.stop("claimed")


async def test_a_source_that_a_crash_cut_off_is_put_in_place_again(world: World) -> None:
    """Its call may be one that the guest has finished and forgotten."""
    first = await world.server()
    row, _ = await used(world, first, WITH_SOURCE)
    await first.aclose()
    await world.store.update_environment(row.id, status="pending")
    second = await world.server()

    async def nobody(_environment_id: str) -> set[str]:
        return set()

    second.claims = nobody
    assert await says(await second.sandbox(row.id), "cat data.txt") == "given"


async def test_a_use_in_the_middle_of_a_creation_that_broke_off(world: World) -> None:
    """The engine has made it, nobody was told of it."""

    class ForgetsToSay(LocalDriver):
        failures = 1

        async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
            async with aclosing(super().create(spec)) as stages:
                async for ref in stages:
                    self.failures -= 1
                    if self.failures >= 0:
                        raise SandboxStartFailed("no answer", stage="create")
                    yield ref

    environments = await world.server(ForgetsToSay(world.root))
    row = await environments.create(world.project, spec_of())
    with pytest.raises(SandboxStartFailed):
        await environments.sandbox(row.id)
    sandbox = await environments.sandbox(row.id)
    assert await world.owned() == {sandbox.ref.sandbox_id}
