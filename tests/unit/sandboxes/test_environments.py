"""Environments on a real store and on drivers with faults."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from orchestrator.errors import (
    Conflict,
    EngineUnavailable,
    ImageMissing,
    LimitExceeded,
    NotFound,
    SandboxGone,
    SandboxStartFailed,
    StoreError,
)
from orchestrator.sandboxes import lifecycle
from orchestrator.sandboxes.driver import (
    Profile,
    Resources,
    SandboxRef,
    SandboxSpec,
    SandboxState,
    SandboxStatus,
)
from orchestrator.sandboxes.stages import StageSettings
from orchestrator.store.records import EnvironmentRow, SandboxRow
from orchestrator.wire.environments import EnvironmentSpec
from tests.fakes.lives import WITH_SOURCE, World, eventually, says, spec_of
from tests.fakes.local_driver import (
    IMAGE,
    CutsLink,
    EngineAway,
    FailsDuringCreate,
    LocalDriver,
    LosesSandbox,
    NeverAnswersHello,
    SlowToStart,
)

pytestmark = pytest.mark.anyio


# the ordinary life


async def test_a_sandbox_is_made_at_first_use_and_once(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    assert (row.status, await world.owned()) == ("pending", set())
    first, second = await asyncio.gather(*(environments.sandbox(row.id) for _ in range(2)))
    assert first is second
    stored = await world.row(row.id)
    assert (stored.status, stored.sandbox_id) == ("active", first.ref.sandbox_id)
    assert await world.owned() == {first.ref.sandbox_id}
    assert await world.kinds(row.id) == ["environment.created", "sandbox.starting", "sandbox.started"]


async def test_sources_are_there_from_the_first_call_on(world: World) -> None:
    content = bytes(range(256)) * 3000
    encoded = base64.b64encode(content).decode()
    more = {"type": "inline", "target": "/workspace/a/b.bin", "content": encoded, "encoding": "base64"}
    environments = await world.server()
    row = await environments.create(
        world.project, spec_of({"type": "remote", "sources": [*WITH_SOURCE["sources"], more]})
    )
    sandbox = await environments.sandbox(row.id)
    assert await says(sandbox, "cat data.txt; stat -c %s a/b.bin") == f"given{len(content)}\n"


async def test_variables_hold_from_the_start_and_from_each_change(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of({"type": "remote", "env": {"A": "1", "B": "x y\nz"}}))
    sandbox = await environments.sandbox(row.id)
    assert await says(sandbox, 'echo "$A|$B|$C"') == "1|x y\nz|\n"
    await environments.change(row, spec_of({"type": "remote", "env": {"A": "2", "C": "3"}}))
    assert await says(sandbox, 'echo "$A|$C"') == "2|3\n"
    stored = json.loads((await world.row(row.id)).spec)
    assert {name: each["value"] for name, each in stored["env"].items()} == {"A": "2", "B": "x y\nz", "C": "3"}


async def test_new_network_rules_replace_the_old_ones_and_files_stay(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of({**WITH_SOURCE, "env": {"A": "1"}}))
    await environments.change(row, spec_of({"type": "remote", "network": "disabled"}))
    stored = json.loads((await world.row(row.id)).spec)
    assert (stored["network"], stored["env"]["A"]["value"]) == ("disabled", "1")
    assert await says(await environments.sandbox(row.id), "cat data.txt") == "given"
    await environments.change(row, spec_of({"type": "remote", "env": {"A": "2"}}))
    assert json.loads((await world.row(row.id)).spec)["network"] == "disabled"


async def test_what_an_environment_holds_is_looked_up_while_it_runs_and_kept_when_it_stops(world: World) -> None:
    environments = await world.server(stages=StageSettings(pause_after_s=0, stop_after_s=0.3, sweep_interval_s=0.05))
    row = await environments.create(world.project, spec_of(WITH_SOURCE))
    assert (await environments.measured(row)).file_count is None
    with environments.hold(row.id):
        sandbox = await environments.sandbox(row.id)
        await says(sandbox, "mkdir d; printf 12345 > d/e; ln -s data.txt link; mkfifo pipe")
        found = await environments.measured(await world.row(row.id))
        assert (found.file_count, found.size_bytes) == (2, 10)
        await says(sandbox, "printf 123 > new")

    async def is_stopped() -> bool:
        return (await world.row(row.id)).status == "stopped"

    await eventually(is_stopped)
    kept = await world.row(row.id)
    assert (kept.file_count, kept.size_bytes) == (3, 13)
    assert await environments.measured(kept) == kept
    assert (await world.row(row.id)).status == "stopped"


async def test_prepare_starts_ahead_and_its_failure_comes_again(world: World) -> None:
    environments = await world.server(FailsDuringCreate(world.root, "create", times=1))
    row = await environments.create(world.project, spec_of())
    environments.prepare(row.id)
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == f"prepare-{row.id}"])
    assert await _has_kind(world, row.id, "sandbox.gone")
    assert await says(await environments.sandbox(row.id), "echo fine") == "fine\n"


PLACES = ("/.agents", "/workspace/AGENTS.md")


def with_files(*targets: str) -> EnvironmentSpec:
    return spec_of({"sources": [{"type": "inline", "target": target, "content": "x"} for target in targets]})


@pytest.mark.parametrize(
    ("targets", "base", "may_hold"),
    [
        ((), (), False),
        (("workspace/data.csv", "home/agent/.agents/AGENTS.md"), (), False),
        (("workspace/AGENTS.md.bak",), ("workspace/x",), False),
        (("workspace/data.csv", "/.agents//./AGENTS.md"), (), True),
        ((".agents/skills/charts/SKILL.md",), (), True),
        ((), ("workspace/AGENTS.md",), True),
    ],
)
async def test_what_a_new_environment_may_hold_its_sources_say(
    world: World, targets: tuple[str, ...], base: tuple[str, ...], may_hold: bool
) -> None:
    environments = await world.server(is_open=False)
    row = await environments.create(world.project, with_files(*targets), base=with_files(*base) if base else None)
    assert await environments.may_hold(row.id, PLACES) is may_hold


async def test_what_a_used_environment_holds_nobody_knows(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    unused = await environments.fork(row)
    await environments.sandbox(row.id)
    used = await environments.fork(row)
    held = {each.id: await environments.may_hold(each.id, PLACES) for each in (unused, row, used)}
    assert list(held.values()) == [False, True, True]
    assert await environments.may_hold("gone", PLACES)


async def test_each_use_is_remembered(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    await environments.sandbox(row.id)

    def used_since(before: EnvironmentRow) -> Callable[[], Awaitable[bool]]:
        async def is_later() -> bool:
            return (await world.row(row.id)).last_accessed > before.last_accessed

        return is_later

    started = await world.row(row.id)
    with environments.hold(row.id):
        await eventually(used_since(started))
        begun = await world.row(row.id)
    await eventually(used_since(begun))
    assert (await world.row(row.id)).updated == started.updated, "using it does not change it"


async def _has_kind(world: World, environment_id: str, kind: str) -> bool:
    return kind in await world.kinds(environment_id)


async def test_another_projects_environment_is_not_found(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    assert (await environments.find(world.project, row.id)).id == row.id
    with pytest.raises(NotFound) as foreign:
        await environments.find("prj_other", row.id)
    with pytest.raises(NotFound) as unknown:
        await environments.find(world.project, "0" * 32)
    assert foreign.value.message.replace(row.id, "ID") == unknown.value.message.replace("0" * 32, "ID")


async def test_the_limit_holds_however_many_come_at_once(world: World) -> None:
    environments = await world.server(limit=5)
    results = await asyncio.gather(
        *(environments.create(world.project, spec_of()) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(each, EnvironmentRow) for each in results) == 5
    assert sum(isinstance(each, LimitExceeded) for each in results) == 15
    other = (await world.store.ensure_project("other")).id
    await environments.create(other, spec_of())


# deletion


async def test_deleting_leaves_nothing(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await environments.delete(row)
    assert await world.owned() == set()
    assert await world.store.environment(None, row.id) is None
    with pytest.raises(NotFound):
        await environments.sandbox(row.id)
    with pytest.raises(SandboxGone):
        await says(sandbox, "true")
    await environments.delete(row)


async def test_deleting_waits_for_a_start_under_way(world: World) -> None:
    environments = await world.server(SlowToStart(world.root))
    row = await environments.create(world.project, spec_of())
    environments.prepare(row.id)
    await asyncio.sleep(0.2)
    await environments.delete(row)
    assert await world.owned() == set()


async def test_a_deletion_that_the_engine_did_not_hear_is_finished_later(world: World) -> None:
    driver = EngineAway(world.root)
    driver.is_away = False
    environments = await world.server(driver)
    row = await environments.create(world.project, spec_of())
    await environments.sandbox(row.id)
    driver.is_away = True
    with pytest.raises(EngineUnavailable):
        await environments.delete(row)
    with pytest.raises(NotFound):
        await environments.find(world.project, row.id)
    driver.is_away = False
    next_server = await world.server(driver)

    async def is_gone() -> bool:
        return await world.store.environment(None, row.id) is None and await world.owned() == set()

    await eventually(is_gone)
    await next_server.aclose()


# restarts


async def test_the_next_server_finds_the_running_sandbox(world: World) -> None:
    first = await world.server()
    row = await first.create(world.project, spec_of(WITH_SOURCE))
    sandbox = await first.sandbox(row.id)
    await says(sandbox, "echo changed > data.txt")
    await first.aclose()
    second = await world.server()
    found = await second.sandbox(row.id)
    assert found.guest_id == sandbox.guest_id, [event.body for event in await world.store.read(row.id)]
    assert await says(found, "cat data.txt") == "changed\n", "sources are put in place once"


async def test_a_stopped_sandbox_is_started_again_with_its_files(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await says(sandbox, "echo kept > file")
    await LocalDriver(world.root).stop(sandbox.ref)
    await eventually(lambda: _has_kind(world, row.id, "sandbox.stopped"))
    assert (await world.row(row.id)).status == "stopped"
    again = await environments.sandbox(row.id)
    assert again.guest_id != sandbox.guest_id
    assert await says(again, "cat file") == "kept\n"


async def test_a_start_that_a_crash_cut_off_after_the_ref_puts_the_sources_in_place(world: World) -> None:
    environments = await world.server(is_open=False)
    row = await environments.create(world.project, spec_of(WITH_SOURCE))
    refs = [ref async for ref in LocalDriver(world.root).create(SandboxSpec("cut", IMAGE))]
    await world.store.update_environment(row.id, sandbox_id="cut", sandbox_ref=refs[-1].token)
    sandbox = await environments.sandbox(row.id)
    assert await says(sandbox, "cat data.txt") == "given"
    assert (await world.row(row.id)).status == "active"


async def test_a_start_that_a_crash_cut_off_before_the_ref_was_stored_is_taken_up(world: World) -> None:
    """Else the name of the sandbox would be taken, by one that nobody knows."""

    class Crash(BaseException):
        pass

    class CrashesAfterTheFirstResource(LocalDriver):
        async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
            async for _ in super().create(spec):
                raise Crash
            yield SandboxRef("", "")

        async def destroy(self, ref: SandboxRef) -> None:
            raise Crash

    environments = await world.server(CrashesAfterTheFirstResource(world.root), is_open=False)
    row = await environments.create(world.project, spec_of())

    async def no_undo(*_arguments: object) -> None:
        """A process that is killed does not tidy up."""

    environments._lifecycle._undo = no_undo  # type: ignore[method-assign, assignment]
    with pytest.raises(Crash):
        await environments.sandbox(row.id)
    (left,) = await world.owned()
    next_server = await world.server()
    sandbox = await next_server.sandbox(row.id)
    assert sandbox.ref.sandbox_id == left
    assert await world.owned() == {left}


async def test_deleting_what_a_crash_cut_off_before_the_ref_was_stored(world: World) -> None:
    environments = await world.server(is_open=False)
    row = await environments.create(world.project, spec_of())
    async for _ in LocalDriver(world.root).create(SandboxSpec("orphan", IMAGE)):
        pass
    await world.store.update_environment(row.id, sandbox_id="orphan")
    await environments.delete(await world.row(row.id))
    assert await world.owned() == set()


async def test_what_no_row_knows_is_reaped_and_what_one_knows_is_not(world: World) -> None:
    first = await world.server()
    row = await first.create(world.project, spec_of())
    kept = (await first.sandbox(row.id)).ref.sandbox_id
    await first.aclose()
    async for _ in LocalDriver(world.root).create(SandboxSpec("orphan", IMAGE)):
        pass
    async for _ in LocalDriver(world.root, "another owner").create(SandboxSpec("foreign", IMAGE)):
        pass
    await world.server()

    async def is_reaped() -> bool:
        return "orphan" not in await world.owned()

    await eventually(is_reaped)
    assert await world.owned() == {kept}
    assert (world.root / "foreign").exists()


async def test_a_sandbox_that_is_being_made_is_not_reaped(world: World) -> None:
    driver = SlowToStart(world.root)
    environments = await world.server(driver)
    rows = [await environments.create(world.project, spec_of()) for _ in range(3)]
    starting = [asyncio.ensure_future(environments.sandbox(row.id)) for row in rows]
    for _ in range(20):
        await environments._reconciler.round()
        await asyncio.sleep(0.03)
    for sandbox in await asyncio.gather(*starting):
        assert await says(sandbox, "echo fine") == "fine\n"


# faults


@pytest.mark.parametrize(
    ("stage", "error"),
    [("image", ImageMissing), ("create", SandboxStartFailed), ("start", SandboxStartFailed)],
)
async def test_a_start_that_fails_leaves_nothing_and_may_be_repeated(
    world: World, stage: str, error: type[Exception]
) -> None:
    environments = await world.server(FailsDuringCreate(world.root, stage, times=1))
    row = await environments.create(world.project, spec_of())
    with pytest.raises(error):
        await environments.sandbox(row.id)
    assert await world.owned() == set()
    stored = await world.row(row.id)
    assert (stored.status, stored.sandbox_ref) == ("pending", None)
    assert await says(await environments.sandbox(row.id), "echo fine") == "fine\n"


async def test_a_guest_that_does_not_answer_is_a_failed_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sandboxes.link._HELLO_TIMEOUT_S", 0.1)
    environments = await world.server(NeverAnswersHello(world.root))
    row = await environments.create(world.project, spec_of())
    with pytest.raises(SandboxGone):
        await environments.sandbox(row.id)
    assert await world.owned() == set()


async def test_a_source_that_cannot_be_written_is_a_failed_start(world: World) -> None:
    in_the_way = [
        {"type": "inline", "target": "workspace/a", "content": "file"},
        {"type": "inline", "target": "workspace/a/b", "content": "below a file"},
    ]
    environments = await world.server()
    row = await environments.create(world.project, spec_of({"type": "remote", "sources": in_the_way}))
    with pytest.raises(SandboxStartFailed) as caught:
        await environments.sandbox(row.id)
    assert caught.value.stage == "sources"
    assert await world.owned() == set()


async def test_giving_up_a_start_leaves_nothing(world: World) -> None:
    environments = await world.server(SlowToStart(world.root))
    row = await environments.create(world.project, spec_of())
    starting = asyncio.ensure_future(environments.sandbox(row.id))
    await asyncio.sleep(0.3)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert await world.owned() == set()
    assert (await world.row(row.id)).sandbox_ref is None


async def test_a_silent_engine_destroys_nothing(world: World) -> None:
    driver = EngineAway(world.root)
    driver.is_away = False
    environments = await world.server(driver)
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await sandbox.link.aclose()
    driver.is_away = True
    with pytest.raises(EngineUnavailable):
        await environments.sandbox(row.id)
    assert (await world.row(row.id)).status == "active"
    driver.is_away = False
    assert await says(await environments.sandbox(row.id), "echo back") == "back\n"


async def test_an_engine_that_is_away_for_a_moment_is_waited_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_ENGINE_PATIENCE_S", 5.0)
    driver = EngineAway(world.root)
    environments = await world.server(driver)
    row = await environments.create(world.project, spec_of(WITH_SOURCE))
    starting = [asyncio.ensure_future(environments.sandbox(row.id)) for _ in range(2)]
    await asyncio.sleep(0.2)
    driver.is_away = False
    first, second = await asyncio.gather(*starting)
    assert first is second
    assert await says(first, "cat data.txt") == "given"


async def test_giving_up_leaves_the_start_to_others_who_wait(world: World) -> None:
    environments = await world.server(SlowToStart(world.root))
    row = await environments.create(world.project, spec_of())
    first, second = (asyncio.ensure_future(environments.sandbox(row.id)) for _ in range(2))
    await asyncio.sleep(0.3)
    first.cancel()
    sandbox = await second
    assert await world.owned() == {sandbox.ref.sandbox_id}
    assert await world.kinds(row.id) == ["environment.created", "sandbox.starting", "sandbox.started"]


async def test_a_server_starts_without_an_engine_and_finds_it_later(world: World) -> None:
    driver = EngineAway(world.root)
    environments = await world.server(driver)
    row = await environments.create(world.project, spec_of())
    with pytest.raises(EngineUnavailable):
        await environments.sandbox(row.id)
    driver.is_away = False
    assert await says(await environments.sandbox(row.id), "echo back") == "back\n"


async def test_a_sandbox_that_vanished_is_told_and_not_replaced(world: World) -> None:
    """Its files are gone: a new one in its place would pretend that they never were."""
    environments = await world.server(LosesSandbox(world.root))
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await sandbox.link.aclose()
    for _ in range(2):
        with pytest.raises(SandboxGone):
            await environments.sandbox(row.id)
    with pytest.raises(SandboxGone, match="files"):
        await environments.sandbox(row.id)
    assert (await world.row(row.id)).status == "lost"
    await environments.delete(await world.row(row.id))


async def test_a_cut_link_is_opened_again_and_calls_are_found(world: World) -> None:
    driver = CutsLink(world.root)
    environments = await world.server(driver)
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    call = asyncio.ensure_future(says(sandbox, "echo x >> count; sleep 0.3; cat count", "slow"))
    await asyncio.sleep(0.1)
    driver.cut()
    with pytest.raises(SandboxGone):
        await call
    again = await environments.sandbox(row.id)
    assert again.guest_id == sandbox.guest_id
    assert again.link.calls["slow"] == "running"
    assert await says(again, "echo x >> count; sleep 0.3; cat count", "slow") == "x\n"


# the pool


async def test_a_waiting_sandbox_is_claimed_and_gets_sources_and_variables(world: World) -> None:
    environments = await world.server(pool_size=1)

    async def one_waits() -> bool:
        return sum(environments._lifecycle.pools.counts.values()) == 1

    await eventually(one_waits)
    (waiting,) = await world.owned()
    row = await environments.create(world.project, spec_of({**WITH_SOURCE, "env": {"A": "1"}}))
    sandbox = await environments.sandbox(row.id)
    assert sandbox.ref.sandbox_id == waiting
    assert await says(sandbox, "echo $A; cat data.txt") == "1\ngiven"
    assert (await world.row(row.id)).sandbox_id == waiting


async def test_the_pool_is_gone_with_the_server_and_environments_stay(world: World) -> None:
    environments = await world.server(pool_size=2)
    row = await environments.create(world.project, spec_of())
    kept = (await environments.sandbox(row.id)).ref.sandbox_id

    async def two_wait() -> bool:
        return sum(environments._lifecycle.pools.counts.values()) == 2

    await eventually(two_wait)
    await environments.aclose()
    assert await world.owned() == {kept}


async def test_what_is_claimed_while_rows_are_read_is_not_reaped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = await world.server(pool_size=1)

    async def one_waits() -> bool:
        return sum(environments._lifecycle.pools.counts.values()) == 1

    await eventually(one_waits)
    row = await environments.create(world.project, spec_of())
    read_rows = world.store.sandbox_rows

    async def rows_then_claim() -> list[SandboxRow]:
        rows = await read_rows()
        await environments.sandbox(row.id)
        return rows

    monkeypatch.setattr(world.store, "sandbox_rows", rows_then_claim)
    await environments._reconciler.round()
    assert await says(await environments.sandbox(row.id), "echo fine") == "fine\n"


async def test_a_waiting_sandbox_that_ended_is_replaced(world: World) -> None:
    environments = await world.server(pool_size=1)

    async def one_waits() -> bool:
        return sum(environments._lifecycle.pools.counts.values()) == 1

    await eventually(one_waits)
    (waiting,) = environments._lifecycle.pools.sandbox_ids
    await LocalDriver(world.root).stop(SandboxRef(waiting, str(world.root / waiting)))

    async def another_waits() -> bool:
        return environments._lifecycle.pools.sandbox_ids.isdisjoint({waiting}) and await one_waits()

    await eventually(another_waits)
    assert waiting not in await world.owned()


async def test_a_claimed_sandbox_survives_the_ends_that_are_reported_late(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await environments._ended(sandbox.ref.sandbox_id)
    assert (await LocalDriver(world.root).inspect(sandbox.ref)).state is SandboxState.RUNNING
    assert await says(sandbox, "echo fine") == "fine\n"


async def test_an_end_that_is_reported_while_it_starts_again_leaves_the_new_start_alone(world: World) -> None:
    class SlowToTell(LocalDriver):
        delay_s = 0.0

        async def inspect(self, ref: SandboxRef) -> SandboxStatus:
            status = await super().inspect(ref)
            delay_s, self.delay_s = self.delay_s, 0.0
            await asyncio.sleep(delay_s)
            return status

    driver = SlowToTell(world.root)
    environments = await world.server(driver, is_open=False)
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await LocalDriver(world.root).stop(sandbox.ref)
    await sandbox.link.ended.wait()
    driver.delay_s = 1.0
    noticing = asyncio.create_task(environments._ended(sandbox.ref.sandbox_id))
    await eventually(lambda: _is(driver.delay_s == 0.0))
    again = await environments.sandbox(row.id)
    await noticing
    await asyncio.sleep(1.0)
    assert await environments.sandbox(row.id) is again
    assert (await world.row(row.id)).status == "active"
    assert await says(again, "echo fine") == "fine\n"


async def _is(fact: bool) -> bool:
    return fact


async def test_an_end_that_is_reported_late_does_not_hide_that_the_files_are_gone(world: World) -> None:
    environments = await world.server(is_open=False)
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await LocalDriver(world.root).destroy(sandbox.ref)
    await sandbox.link.ended.wait()
    with pytest.raises(SandboxGone):
        await environments.sandbox(row.id)
    await environments._ended(sandbox.ref.sandbox_id)
    await asyncio.sleep(0.1)
    assert (await world.row(row.id)).status == "lost"


# forks and templates

FORK_OF = {"type": "remote", "sources": [{"type": "inline", "target": "workspace/base.txt", "content": "base"}]}


async def test_a_fork_and_its_parent_do_not_see_each_other(world: World) -> None:
    environments = await world.server()
    parent = await environments.create(world.project, spec_of({**WITH_SOURCE, "env": {"A": "1"}}))
    sandbox = await environments.sandbox(parent.id)
    await says(sandbox, "echo before > both; (sleep 30 &) ; true")
    fork = await environments.fork(await world.row(parent.id))
    await says(sandbox, "echo parent > after; rm data.txt", "c2")
    child = await environments.sandbox(fork.id)
    assert child.ref.sandbox_id != sandbox.ref.sandbox_id
    assert await says(child, "cat both data.txt; echo $A; ls") == "before\ngiven1\nboth\ndata.txt\n"
    await says(child, "echo child > both", "c2")
    assert await says(sandbox, "cat both after", "c3") == "before\nparent\n"
    assert "environment.forked" in await world.kinds(fork.id)


async def test_a_snapshot_lasts_until_its_fork_has_started(world: World) -> None:
    environments = await world.server()
    parent = await environments.create(world.project, spec_of())
    await environments.sandbox(parent.id)
    fork, other = [await environments.fork(await world.row(parent.id)) for _ in range(2)]
    driver = LocalDriver(world.root)
    assert await driver.snapshots() == {fork.snapshot, other.snapshot}
    await environments._reconciler.round()
    assert await driver.snapshots() == {fork.snapshot, other.snapshot}
    await environments.sandbox(fork.id)

    async def only_the_other_is_left() -> bool:
        return await driver.snapshots() == {other.snapshot}

    await eventually(only_the_other_is_left)
    assert (await world.row(fork.id)).snapshot is None
    await environments.delete(await world.row(other.id))
    assert await driver.snapshots() == set()


async def test_the_fork_of_one_that_nobody_has_used_is_made_like_it(world: World) -> None:
    environments = await world.server()
    parent = await environments.create(world.project, spec_of(WITH_SOURCE))
    fork = await environments.fork(await world.row(parent.id))
    assert fork.snapshot is None
    assert await says(await environments.sandbox(fork.id), "cat data.txt") == "given"


async def test_the_fork_of_a_fork_that_has_not_started(world: World) -> None:
    environments = await world.server()
    parent = await environments.create(world.project, spec_of())
    await says(await environments.sandbox(parent.id), "echo first > file")
    child = await environments.fork(await world.row(parent.id))
    grandchild = await environments.fork(await world.row(child.id))
    assert await says(await environments.sandbox(grandchild.id), "cat file") == "first\n"


async def test_a_fork_counts_and_leaves_nothing_when_there_is_no_room(world: World) -> None:
    environments = await world.server(limit=1)
    parent = await environments.create(world.project, spec_of())
    await environments.sandbox(parent.id)
    with pytest.raises(LimitExceeded):
        await environments.fork(await world.row(parent.id))
    assert await LocalDriver(world.root).snapshots() == set()


async def test_what_has_written_more_than_it_may_is_not_copied(world: World) -> None:
    """Such a copy could fill the engine's disk: it writes out what was a hole."""

    class Watched(LocalDriver):
        async def written_bytes(self, ref: SandboxRef) -> int | None:
            return Resources().disk_bytes + 1

    environments = await world.server(Watched(world.root))
    parent = await environments.create(world.project, spec_of())
    await environments.sandbox(parent.id)
    with pytest.raises(SandboxStartFailed, match="more than its disk"):
        await environments.fork(await world.row(parent.id))
    assert await LocalDriver(world.root).snapshots() == set()


async def test_what_is_lost_cannot_be_forked(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    sandbox = await environments.sandbox(row.id)
    await LocalDriver(world.root).destroy(sandbox.ref)
    await sandbox.link.ended.wait()
    with pytest.raises(SandboxGone):
        await environments.sandbox(row.id)
    with pytest.raises(Conflict):
        await environments.fork(await world.row(row.id))


async def test_a_template_is_built_once_for_all_runs_of_it(world: World) -> None:
    environments = await world.server()
    base = spec_of(FORK_OF)
    rows = [await environments.create(world.project, spec_of(WITH_SOURCE), base=base) for _ in range(3)]
    sandboxes = await asyncio.gather(*(environments.sandbox(row.id) for row in rows))
    for sandbox in sandboxes:
        assert await says(sandbox, "cat base.txt data.txt; echo mine > base.txt") == "basegiven"
    (name,) = await LocalDriver(world.root).snapshots()
    assert name.startswith("template-")
    assert await world.owned() == {sandbox.ref.sandbox_id for sandbox in sandboxes}, "what built it is gone"
    await environments._reconciler.round()
    assert await LocalDriver(world.root).snapshots() == {name}
    fresh = await environments.create(world.project, spec_of(), base=base)
    assert await says(await environments.sandbox(fresh.id), "cat base.txt") == "base"


async def test_templates_and_snapshots_that_no_row_needs_go_with_the_next_server(world: World) -> None:
    first = await world.server()
    row = await first.create(world.project, spec_of(), base=spec_of(FORK_OF))
    sandbox = await first.sandbox(row.id)
    await first.delete(await world.row(row.id))
    other = await first.create(world.project, spec_of())
    sandbox = await first.sandbox(other.id)
    await LocalDriver(world.root).snapshot(sandbox.ref, "of-a-crash")
    await first.aclose()
    await world.server()

    async def all_gone() -> bool:
        return await LocalDriver(world.root).snapshots() == set()

    await eventually(all_gone)


async def test_a_profile_of_its_own_reaches_the_driver(world: World) -> None:
    class Remembers(LocalDriver):
        async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
            seen.append(spec)
            async for ref in super().create(spec):
                yield ref

    seen: list[SandboxSpec] = []
    environments = await world.server(Remembers(world.root))
    profile = Profile(IMAGE, Resources(memory_bytes=1 << 28, pids=77), "runsc")
    row = await environments.create(world.project, spec_of(), profile=profile)
    await environments.sandbox(row.id)
    assert (seen[0].image, seen[0].resources, seen[0].runtime) == (IMAGE, profile.resources, "runsc")


# failures in between


class CannotDropYet(LocalDriver):
    """The first snapshot that is to be dropped cannot be."""

    failures = 1

    async def drop_snapshot(self, name: str) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise EngineUnavailable("the platform is away")
        await super().drop_snapshot(name)


async def test_a_fork_keeps_its_files_when_the_snapshot_cannot_be_dropped(world: World) -> None:
    environments = await world.server(CannotDropYet(world.root))
    parent = await environments.create(world.project, spec_of())
    await says(await environments.sandbox(parent.id), "echo precious > f")
    child = await environments.fork(await world.row(parent.id))
    assert await says(await environments.sandbox(child.id), "cat f") == "precious\n"
    await environments._reconciler.round()
    assert await LocalDriver(world.root).snapshots() == set()


async def test_a_fork_whose_first_start_fails_begins_with_its_files_at_the_next(world: World) -> None:
    environments = await world.server(FailsDuringCreate(world.root, "start", times=0))
    parent = await environments.create(world.project, spec_of())
    await says(await environments.sandbox(parent.id), "echo precious > f")
    child = await environments.fork(await world.row(parent.id))
    environments._driver.times = 1  # type: ignore[attr-defined]
    with pytest.raises(SandboxStartFailed):
        await environments.sandbox(child.id)
    assert await says(await environments.sandbox(child.id), "cat f") == "precious\n"


async def test_a_resumption_that_cannot_be_stored_leaves_no_link(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await world.server()
    row = await first.create(world.project, spec_of())
    await first.sandbox(row.id)
    await first.aclose()
    second = await world.server()

    async def fails(*_: object, **__: object) -> None:
        raise StoreError("full")

    monkeypatch.setattr(second._store, "update_environment", fails)
    with pytest.raises(StoreError):
        await second.sandbox(row.id)
    monkeypatch.undo()
    assert "sandbox-link" not in [task.get_name() for task in asyncio.all_tasks()]


async def test_a_start_that_was_undone_unnoticed_is_begun_anew(world: World) -> None:
    """As a crash between the platform's work and the store's leaves it."""
    environments = await world.server()
    row = await environments.create(world.project, spec_of(WITH_SOURCE))
    await world.store.update_environment(row.id, sandbox_id="0" * 32, sandbox_ref=str(world.root / ("0" * 32)))
    assert await says(await environments.sandbox(row.id), "cat data.txt") == "given"


async def test_variables_that_two_add_at_once_are_both_kept(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of())
    await asyncio.gather(
        *(environments.change(row, spec_of({"type": "remote", "env": {name: "1"}})) for name in ("A", "B"))
    )
    assert set(json.loads((await world.row(row.id)).spec)["env"]) == {"A", "B"}


async def test_one_that_cannot_be_removed_does_not_keep_the_others(world: World) -> None:
    class Stuck(LocalDriver):
        stuck = ""

        async def destroy(self, ref: SandboxRef) -> None:
            if ref.sandbox_id == self.stuck:
                raise SandboxStartFailed("it cannot be unmounted", stage="disk")
            await super().destroy(ref)

    driver = Stuck(world.root)
    first = await world.server(driver)
    bad, other = [await first.create(world.project, spec_of()) for _ in range(2)]
    driver.stuck = (await first.sandbox(bad.id)).ref.sandbox_id
    with pytest.raises(SandboxStartFailed):
        await first.delete(bad)
    await first.aclose()
    second = await world.server(driver)
    sandbox = await second.sandbox(other.id)
    await LocalDriver(world.root).stop(sandbox.ref)
    await eventually(lambda: _has_kind(world, other.id, "sandbox.stopped"))
    driver.stuck = ""


async def test_a_paused_sandbox_goes_on_when_it_is_needed(world: World) -> None:
    first = await world.server()
    row = await first.create(world.project, spec_of())
    sandbox = await first.sandbox(row.id)
    await says(sandbox, "echo kept > f")
    await first.aclose()
    await LocalDriver(world.root).pause(sandbox.ref)
    second = await world.server()
    assert await says(await second.sandbox(row.id), "cat f", "c2") == "kept\n"


# setup of templates


async def test_a_setup_runs_once_and_all_that_begin_with_it_have_what_it_made(world: World) -> None:
    environments = await world.server()
    base = spec_of({**WITH_SOURCE, "setup": ["cp data.txt copy", "echo $(cat copy) twice >> ready"]})
    rows = [await environments.create(world.project, spec_of(), base=base) for _ in range(2)]
    for row in rows:
        assert await says(await environments.sandbox(row.id), "cat ready copy") == "given twice\ngiven"
    alone = await environments.create(
        world.project, spec_of(), base=spec_of({"type": "remote", "setup": ["echo 1 > x"]})
    )
    assert await says(await environments.sandbox(alone.id), "cat x") == "1\n"


async def test_a_setup_that_fails_is_told_with_its_output_and_leaves_nothing(world: World) -> None:
    environments = await world.server()
    base = spec_of({"type": "remote", "setup": ["true", "echo no such package: x >&2; exit 100", "touch never"]})
    row = await environments.create(world.project, spec_of(), base=base)
    for _ in range(2):
        with pytest.raises(
            SandboxStartFailed, match=r"command 2 of its setup failed \(exit code 100\): no such package: x"
        ):
            await environments.sandbox(row.id)
        assert await world.owned() == set()
    assert (await world.row(row.id)).status == "pending"
