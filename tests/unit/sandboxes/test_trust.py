"""Which sandboxes trust the server's authority, since when, and what becomes of those that cannot."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.egress.audit import Audit
from orchestrator.egress.certificates import Authority
from orchestrator.egress.gates import EgressSettings, Gates
from orchestrator.egress.interception import Interception
from orchestrator.errors import SandboxGone, SandboxStartFailed
from orchestrator.guest import frames
from orchestrator.sandboxes import handle, lifecycle, outlet
from orchestrator.sandboxes.driver import SandboxRef
from orchestrator.sandboxes.handle import Sandbox
from tests.fakes.lives import World, eventually, says, spec_of, used
from tests.fakes.local_driver import LocalDriver, TrustsNobody
from tests.fakes.scripted_guest import linked

pytestmark = pytest.mark.anyio

READ = {"type": "remote", "network": {"allowlist": [{"domain": "a.example", "methods": ["GET"]}]}}
"""Rules for which TLS has to be opened."""
UNREAD = {"type": "remote", "network": {"allowlist": [{"domain": "a.example"}]}}
SHOW = "tail -n 3 $NODE_EXTRA_CA_CERTS </dev/null"
"""The end of what is trusted, or nothing."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority", SystemClock())


@pytest.fixture
async def gates(world: World, authority: Authority) -> AsyncIterator[Gates]:
    made = gates_of(world, authority)
    made.open()
    yield made
    await made.aclose()


def gates_of(world: World, authority: Authority, port: int = 0) -> Gates:
    interception = Interception(authority, ssl.create_default_context())
    return Gates(EgressSettings(port=port), Audit(world.store.note, SystemClock()), interceptor=interception)


def end_of(authority: Authority) -> str:
    return "".join(authority.pem.splitlines(keepends=True)[-3:])


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_only_sandboxes_whose_tls_is_opened_trust_it(
    world: World, gates: Gates, authority: Authority, pool_size: int
) -> None:
    environments = await world.server(pool_size=pool_size, gates=gates)
    _, read = await used(world, environments, READ)
    _, unread = await used(world, environments, UNREAD)
    assert await says(read, SHOW) == end_of(authority)
    assert await says(unread, SHOW) == ""


async def test_it_does_again_after_a_restart_of_the_server_and_of_the_sandbox(
    world: World, gates: Gates, authority: Authority
) -> None:
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments, READ)
    trusted = Path(sandbox.ref.token) / "trust" / "authority.pem"
    await environments.aclose()
    trusted.unlink()  # in a container it is in memory
    environments = await world.server(gates=gates)
    again = await environments.sandbox(row.id)
    assert await says(again, SHOW) == end_of(authority)
    await LocalDriver(world.root).stop(sandbox.ref)
    await asyncio.wait_for(again.link.ended.wait(), 10)
    trusted.unlink()
    assert await says(await environments.sandbox(row.id), SHOW) == end_of(authority)


async def test_other_rules_make_one_that_runs_trust_it(world: World, gates: Gates, authority: Authority) -> None:
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments, UNREAD)
    await environments.change(row, spec_of(READ))
    assert await says(sandbox, SHOW) == end_of(authority)


async def test_other_rules_make_a_paused_one_trust_it_when_it_goes_on(
    world: World, gates: Gates, authority: Authority
) -> None:
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments, UNREAD)
    await _paused(world, row.id, sandbox)
    async with asyncio.timeout(5):
        await environments.change(row, spec_of(READ))
    assert await says(await environments.sandbox(row.id), SHOW) == end_of(authority)


async def _paused(world: World, environment_id: str, sandbox: Sandbox) -> None:
    """As somebody outside does it, who tells nobody: a while later the server has noticed."""
    await LocalDriver(world.root).pause(sandbox.ref)

    async def is_noticed() -> bool:
        return await world.status(environment_id) == "paused"

    await eventually(is_noticed)


async def test_other_rules_that_one_that_runs_cannot_follow_are_said(world: World, gates: Gates) -> None:
    environments = await world.server(TrustsNobody(world.root), gates=gates)
    row, sandbox = await used(world, environments, UNREAD)
    with pytest.raises(SandboxStartFailed, match="trust in the server's authority"):
        await environments.change(row, spec_of(READ))
    assert await says(sandbox, SHOW) == ""


async def test_what_cannot_trust_it_does_not_start_and_leaves_nothing(world: World, gates: Gates) -> None:
    environments = await world.server(TrustsNobody(world.root), gates=gates)
    row = await environments.create(world.project, spec_of(READ))
    with pytest.raises(SandboxStartFailed, match="trust in the server's authority cannot be set up inside") as caught:
        await environments.sandbox(row.id)
    assert caught.value.stage == "network"
    assert await world.owned() == set()
    assert "sandbox.gone" in await world.kinds(row.id)


async def test_a_template_whose_setup_cannot_trust_it_is_not_built(world: World, gates: Gates) -> None:
    environments = await world.server(TrustsNobody(world.root), gates=gates)
    row = await environments.create(world.project, spec_of(), base=spec_of({**READ, "setup": ["true"]}))
    with pytest.raises(SandboxStartFailed, match="trust in the server's authority"):
        await environments.sandbox(row.id)
    assert await world.owned() == set()


async def test_a_setup_trusts_it(world: World, gates: Gates, authority: Authority) -> None:
    environments = await world.server(gates=gates)
    base = spec_of({**READ, "setup": [f"{SHOW} > said"]})
    row = await environments.create(world.project, spec_of(), base=base)
    sandbox = await environments.sandbox(row.id)
    assert await says(sandbox, "cat said") == end_of(authority)
    assert await says(sandbox, SHOW) == "", "it is the setup's rules that needed it"


async def test_what_has_no_way_out_does_not_start(world: World, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gates = gates_of(world, authority, taken.getsockname()[1])
        gates.open()
        environments = await world.server(gates=gates)
        row = await environments.create(world.project, spec_of())
        with pytest.raises(SandboxStartFailed, match=r"the way out cannot be set up inside: .*in use"):
            await environments.sandbox(row.id)
    assert await world.owned() == set()
    assert "sandbox.started" not in await world.kinds(row.id)
    await gates.aclose()


async def test_one_of_an_earlier_release_goes_on_and_the_log_says_what_it_lacks(
    world: World, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "TRUST_SINCE", 99)
    environments = await world.server(gates=gates)
    row, sandbox = await used(world, environments, READ)
    assert "reach a.example" in await says(sandbox, "echo reach a.example; " + SHOW)

    async def is_noted() -> bool:
        return "sandbox.no_way_out" in await world.kinds(row.id)

    await eventually(is_noted)


# the handle


async def test_a_guest_is_asked_once_for_each_authority() -> None:
    async with linked() as (guest, link):
        sandbox = Sandbox(SandboxRef("one", ""), link, {})
        for pem in ("A", "B"):
            trusting = asyncio.create_task(sandbox.trust(pem))
            stream, request = await guest.hear_open()
            assert request == {"service": "trust", "authority": pem}
            guest.message(stream, {})
            guest.end(stream)
            await trusting
            await sandbox.trust(pem)  # or this would wait


async def test_a_guest_that_refuses_is_asked_again() -> None:
    async with linked() as (guest, link):
        sandbox = Sandbox(SandboxRef("one", ""), link, {})
        for _ in range(2):
            trusting = asyncio.create_task(sandbox.trust("A"))
            stream, _ = await guest.hear_open()
            guest.reset(stream, code="failed", message="no space")
            with pytest.raises(SandboxStartFailed, match="no space"):
                await trusting


async def test_a_guest_of_an_earlier_release_is_not_asked() -> None:
    async with linked(protocol=handle.TRUST_SINCE - 1) as (_, link):
        with pytest.raises(SandboxStartFailed, match="earlier release"):
            await Sandbox(SandboxRef("one", ""), link, {}).trust("A")


async def test_a_guest_of_an_earlier_release_is_not_asked_whether_it_listens() -> None:
    async with linked(protocol=outlet.ANSWERING_SINCE - 1) as (guest, link):
        sandbox, told = Sandbox(SandboxRef("one", ""), link, {}), asyncio.Queue[str]()
        await sandbox.let_out(Nowhere(), 1, told.put_nowait)
        stream, request = await guest.hear_open()
        assert request == {"service": "accept", "port": 1}
        guest.reset(stream, code="failed", message="the port is taken")
        assert "the port is taken" in await asyncio.wait_for(told.get(), 10)
        await sandbox.aclose()


async def test_a_guest_that_says_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "_ANSWER_TIMEOUT_S", 0.05)
    async with linked() as (guest, link):
        trusting = asyncio.create_task(Sandbox(SandboxRef("one", ""), link, {}).trust("A"))
        await guest.hear(frames.OPEN)
        with pytest.raises(SandboxGone, match="in time"):
            await trusting


class Nowhere:
    """A way out that nobody takes."""

    has_room = True
    unreached_count = 0

    def unreached_since(self, count: int) -> list[str]:
        return []

    async def serve(self, channel: object) -> None:
        raise AssertionError("nobody connects")
