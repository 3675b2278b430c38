"""How an environment's sandbox comes to its way out, keeps it, and loses it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orchestrator.clock import SystemClock
from orchestrator.egress.audit import Audit
from orchestrator.egress.gates import EgressSettings, Gates
from orchestrator.sandboxes import lifecycle
from orchestrator.wire.environments import parse_environment
from tests.fakes.lives import World, eventually, says, spec_of, used
from tests.fakes.local_driver import LocalDriver

pytestmark = pytest.mark.anyio

ASK = "curl -sS -m 10 http://a.example/"


@pytest.fixture
async def gates(world: World) -> AsyncIterator[Gates]:
    made = Gates(EgressSettings(port=0), Audit(world.store.note, SystemClock()))
    made.open()
    yield made
    await made.aclose()


def listed(*domains: str) -> object:
    return {"type": "remote", "network": {"allowlist": [{"domain": domain} for domain in domains]}}


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_every_sandbox_has_the_way_out_of_its_environment(world: World, gates: Gates, pool_size: int) -> None:
    environments = await world.server(pool_size=pool_size, gates=gates)
    _, open_one = await used(world, environments, listed("b.example"))
    _, closed = await used(world, environments, {"type": "remote", "network": "disabled"})
    assert "not in the allowlist" in await says(open_one, ASK)
    assert "lets nothing out" in await says(closed, ASK)


async def test_without_gates_there_is_none(world: World) -> None:
    environments = await world.server()
    _, sandbox = await used(world, environments)
    assert await says(sandbox, "echo [$http_proxy]") == "[]\n"
    assert environments.reach(None) == "none"


async def test_it_is_there_again_after_a_restart_of_the_server_and_of_the_sandbox(world: World, gates: Gates) -> None:
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments, listed())
    await environments.aclose()
    environments = await world.server(gates=gates)
    again = await environments.sandbox(row.id)
    assert "lets nothing out" in await says(again, ASK)
    await LocalDriver(world.root).stop(sandbox.ref)

    async def is_cut() -> bool:
        return not again.is_connected

    await eventually(is_cut)
    assert "lets nothing out" in await says(await environments.sandbox(row.id), ASK)


async def test_rules_that_are_changed_hold_in_a_sandbox_that_runs(world: World, gates: Gates) -> None:
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments)
    changed = parse_environment(listed("b.example"))
    assert changed is not None
    await environments.change(row, changed)
    assert "not in the allowlist" in await says(sandbox, ASK)
    assert (await environments.reached(row.id)) == ("allowlist", ["b.example"], [], [])


async def test_what_was_used_up_is_remembered_by_the_next_server(world: World, gates: Gates) -> None:
    environments = await world.server(gates=gates)
    row, _ = await used(world, environments)
    await world.store.note_traffic(row.id, more_bytes=1000)
    await environments.aclose()
    following = Gates(EgressSettings(port=0), Audit(world.store.note, SystemClock()))
    following.open()
    environments = await world.server(gates=following)
    await environments.sandbox(row.id)
    gate = following.living(row.id)
    assert gate is not None
    assert gate.used_bytes == 1000
    await environments.aclose()
    await following.aclose()


async def test_what_went_out_is_in_the_environments_log(world: World, gates: Gates) -> None:
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments, listed())
    await says(sandbox, ASK)

    async def is_noted() -> bool:
        return "network.denied" in await world.kinds(row.id)

    await eventually(is_noted)
    await environments.delete(await world.row(row.id))


async def test_a_guest_of_an_earlier_release_has_none_and_the_log_says_so(
    world: World, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "OUTLETS_SINCE", 99)
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments)
    assert await says(sandbox, "echo [$http_proxy]") == "[]\n"

    async def is_noted() -> bool:
        return "sandbox.no_way_out" in await world.kinds(row.id)

    await eventually(is_noted)


async def test_a_template_is_set_up_under_its_own_rules(world: World, gates: Gates) -> None:
    environments = await world.server(gates=gates)
    base = spec_of({**dict(listed()), "setup": [f"{ASK} > said"]})  # type: ignore[call-overload]
    row = await environments.create(world.project, spec_of(), base=base)
    sandbox = await environments.sandbox(row.id)
    assert "lets nothing out" in await says(sandbox, "cat said")
