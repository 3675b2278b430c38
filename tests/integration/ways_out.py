"""Sandboxes with a way out, for tests: the real guest as a plain process, a gate of the test's rules, its own names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.clock import SystemClock
from orchestrator.egress.addresses import OwnAddresses
from orchestrator.egress.audit import Audit
from orchestrator.egress.certificates import Authority
from orchestrator.egress.connector import Resolver
from orchestrator.egress.entry import Entry
from orchestrator.egress.gate import Gate, GateLimits
from orchestrator.egress.gates import EgressSettings, Gates
from orchestrator.egress.interception import Interception
from orchestrator.policy.network import HostList, Refusal
from orchestrator.policy.secrets import CredentialSecret
from orchestrator.sandboxes.driver import SandboxRef, SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link
from orchestrator.store.records import NewEvent
from orchestrator.wire.environments import parse_environment
from orchestrator.wire.network import Network
from tests.fakes.local_driver import IMAGE, LocalDriver

ENVIRONMENT = "e" * 32
PROJECT = "project"


def network(rules: Any) -> Network | None:
    """As a request has it."""
    spec = parse_environment({"type": "remote", "network": rules} if rules is not None else {"type": "remote"})
    assert spec is not None
    return spec.network


@dataclass
class WayOut:
    """A sandbox, its gate, and what was told of it."""

    sandbox: Sandbox
    gates: Gates
    gate: Gate
    audit: Audit
    told: list[tuple[str, dict[str, Any]]]
    troubles: list[str]
    driver: LocalDriver
    others: list[Sandbox]
    authority: Path
    """The certificate that the sandbox's programs trust beside others."""
    news: asyncio.Event
    """Set whenever something was told."""
    _calls: int = 0

    async def another(self) -> Sandbox:
        """A sandbox that has no way out yet."""
        refs = [ref async for ref in self.driver.create(SandboxSpec("another", IMAGE))]
        return await self._link(refs[-1])

    async def linked_again(self) -> Sandbox:
        """The sandbox over a new link, without a way out."""
        return await self._link(self.sandbox.ref)

    async def _link(self, ref: SandboxRef) -> Sandbox:
        self.others.append(Sandbox(ref, await Link.open(await self.driver.connect(ref), 1), {}))
        return self.others[-1]

    async def bash(self, code: str) -> str:
        """What a command wrote."""
        self._calls += 1
        outcome = await self.sandbox.bash(f"c{self._calls}", code, timeout_s=30, output_limit_bytes=1 << 20)
        return (outcome.head + outcome.tail).decode()

    async def port(self) -> int:
        return int((await self.bash("echo ${http_proxy##*:}")).strip())

    async def proxied(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the way out, as a program inside has it."""
        return await asyncio.open_connection("127.0.0.1", await self.port())

    async def entries(self, at_least: int = 0) -> list[tuple[str, dict[str, Any]]]:
        """What the environment's log says, once it says so much: a program knows of its connection's end first."""
        await self.audit.flush()
        async with asyncio.timeout(10):
            while len(self.told) < at_least:
                self.news.clear()
                await self.news.wait()
        return self.told

    async def exchange(self, data: bytes) -> bytes:
        """What comes back for bytes that are sent to the way out."""
        reader, writer = await self.proxied()
        writer.write(data)
        async with asyncio.timeout(10):
            answer = await reader.read(-1)
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def way_out(
    folder: Path,
    rules: Any = None,
    *,
    names: dict[str, Sequence[str]] | None = None,
    exceptions: Iterable[str] = ("127.0.0.1",),
    denied: Iterable[str] = (),
    limits: GateLimits | None = None,
    own_ports: Iterable[int] = (),
    ca: Path | None = None,
    credentials: dict[str, CredentialSecret | Refusal] | None = None,
    variables: Iterable[str] = (),
) -> AsyncGenerator[WayOut, None]:
    """A sandbox whose programs get out. `names` are all the names that there are, `credentials` all credentials; `ca`
    has signed the servers' certificates.
    """
    known = credentials if credentials is not None else {}
    told: list[tuple[str, dict[str, Any]]] = []
    troubles: list[str] = []
    news = asyncio.Event()

    async def note(log_id: str, events: Sequence[NewEvent]) -> None:
        assert log_id == ENVIRONMENT
        told.extend((event.kind, json.loads(event.body)) for event in events)
        news.set()

    def lookup(host: str, _port: int) -> list[str]:
        if names is None or host not in names:
            raise OSError(0, "no such name in this test")
        return list(names[host])

    async def find(project_id: str, ids: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
        assert project_id == PROJECT
        return {each: known.get(each, Refusal(f"there is no credential {each!r}")) for each in ids}

    authority = await asyncio.to_thread(Authority.open, folder.with_name(f"{folder.name}.authority"), SystemClock())
    audit = Audit(note, SystemClock())
    settings = EgressSettings(
        limits or GateLimits(),
        HostList.parse(exceptions),
        HostList.parse(denied, "network_denied"),
        OwnAddresses(set(own_ports)),
        port=0,
    )
    interception = Interception(authority, ssl.create_default_context(cafile=ca))
    gates = Gates(settings, audit, Resolver(lookup), interception, find)
    gates.open()
    driver = LocalDriver(folder)
    refs = [ref async for ref in driver.create(SandboxSpec("one", IMAGE))]
    sandbox = Sandbox(refs[-1], await Link.open(await driver.connect(refs[-1]), 1), {})
    await sandbox.trust(authority.pem)
    gate = gates.gate(ENVIRONMENT, network(rules), PROJECT, tuple(variables))
    await sandbox.let_out(Entry(gate), gates.port, troubles.append)
    others: list[Sandbox] = []
    try:
        yield WayOut(
            sandbox,
            gates,
            gate,
            audit,
            told,
            troubles,
            driver,
            others,
            Path(refs[-1].token) / "trust" / "authority.pem",
            news,
        )
    finally:
        for each in (sandbox, *others):
            await each.aclose()
        await gates.aclose()
        await asyncio.to_thread(driver.kill_all)
