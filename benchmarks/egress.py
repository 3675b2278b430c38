"""The way out: requests over TLS from inside a sandbox, read and given a header, or passed on unread.

Baseline: the same client on the host, connected to the same server directly. Server, way out and client share the
machine's processors.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import uvloop

from benchmarks import tls_server
from benchmarks.figures import Goal, Row, Summary, Unit, at_most_above, p50_at_most, summarize
from benchmarks.memory_use import resident_bytes
from benchmarks.plan import Plan
from benchmarks.sandbox import open_sandboxes
from orchestrator.clock import SystemClock
from orchestrator.egress.audit import Audit
from orchestrator.egress.certificates import Authority
from orchestrator.egress.connector import Resolver
from orchestrator.egress.entry import Entry
from orchestrator.egress.gates import EgressSettings, Gates
from orchestrator.egress.interception import Interception
from orchestrator.policy.network import HostList, Refusal
from orchestrator.policy.secrets import CredentialSecret, header_secret
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.store.records import NewEvent
from orchestrator.wire.network import AllowedDomain, NetworkRules

_CLIENT = Path(__file__).with_name("tls_client.py").read_text()
_REQUESTS = 50
_AT_ONCE = 100
_LARGE_BYTES = 128 << 20
_SANDBOXES, _QUICK = 100, 10
_MIB = 1 << 20
_TIMEOUT_S = 120.0
_HOLD_S = 300
_READ = NetworkRules(allowlist=[AllowedDomain(domain=tls_server.NAME, credential="bench")])
_UNREAD = NetworkRules(allowlist=[AllowedDomain(domain=tls_server.NAME)])
_DIRECT = "direct connection"
_P99_MS = Goal("p99 ≤ 15 above it", lambda row: (row.ours.p99 or 0) - (row.baseline.p99 or 0) <= 15)

_ids = (f"egress-{number}" for number in count())


@dataclass(frozen=True, slots=True)
class _World:
    gates: Gates
    port: int
    outside_pem: str
    """Who signs for the server."""
    inside_pem: str
    """Who signs for it where requests are read."""


def run(plan: Plan) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="egress-", dir=plan.output) as folder:
        return uvloop.run(_measure(plan, Path(folder)))


async def _measure(plan: Plan, folder: Path) -> list[Row]:
    samples: dict[tuple[str, str], list[float]] = {}
    jobs = {"new": _REQUESTS, "kept": _REQUESTS, "parallel": _AT_ONCE, "large": _LARGE_BYTES}
    async with _world(folder) as world:
        memory = await _memory(plan, world, _QUICK if plan.is_quick else _SANDBOXES)
        async with open_sandboxes(plan, 2) as (read, unread):
            await _let_out(world, read, "read", _READ)
            await _let_out(world, unread, "unread", _UNREAD)
            for _ in range(max(2, plan.rounds // 2)):
                for job, size in jobs.items():
                    for way, taken in (
                        ("direct", await asyncio.to_thread(_on_host, world, job, size)),
                        ("read", await _inside(read, world.inside_pem, world, job, size)),
                        ("unread", await _inside(unread, world.outside_pem, world, job, size)),
                    ):
                        samples.setdefault((way, job), []).extend(taken)
    return [*_rows(samples), memory]


def _rows(samples: Mapping[tuple[str, str], Sequence[float]]) -> list[Row]:
    rows = []
    for way, shown in (("read", "with a header put in"), ("unread", "passed on unread")):
        for job, name, unit, goals in (
            ("new", f"request over TLS, {shown}", Unit.MS, (at_most_above(3), _P99_MS)),
            ("kept", f"the same on a kept connection, {shown}", Unit.MS, (at_most_above(3), _P99_MS)),
            ("parallel", f"{_AT_ONCE} connections at once, {shown}", Unit.MS, ()),
            ("large", f"large download, {shown}", Unit.MIB_PER_S, ()),
        ):
            ours, direct = (summarize(samples[each, job], unit) for each in (way, "direct"))
            rows.append(Row(name, unit, ours, _DIRECT, direct, goals))
    return rows


async def _memory(plan: Plan, world: _World, sandboxes: int) -> Row:
    """Of the server's process, for so many sandboxes of which each holds a connection that is read."""
    async with open_sandboxes(plan, sandboxes) as opened:
        before = resident_bytes(os.getpid())
        names = [f"held-{number}" for number in range(sandboxes)]
        for name, each in zip(names, opened, strict=True):
            await _let_out(world, each, name, _READ)
        gates = [world.gates.gate(name, _READ) for name in names]
        held = asyncio.gather(*(_inside(each, world.inside_pem, world, "hold", _HOLD_S) for each in opened))
        async with asyncio.timeout(_TIMEOUT_S):
            while sum(each.connections for each in gates) < sandboxes:  # noqa: ASYNC110 - nothing tells of that
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        grown = (resident_bytes(os.getpid()) - before) / _MIB
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
    name = f"memory of the server for {sandboxes} sandboxes with a read connection each"
    return Row(name, Unit.MIB, Summary(grown, None, 1), "none", Summary(0.0, None, 1), (p50_at_most(100),))


async def _let_out(world: _World, sandbox: Sandbox, name: str, rules: NetworkRules) -> None:
    def trouble(reason: str) -> None:
        raise RuntimeError(f"the guest does not listen: {reason}")

    await sandbox.let_out(Entry(world.gates.gate(name, rules)), world.gates.port, trouble)


async def _inside(sandbox: Sandbox, pem: str, world: _World, job: str, size: int) -> list[float]:
    argv = ["python3", "-c", _CLIENT, str(world.port), job, str(size)]
    outcome = await sandbox.execute(
        next(_ids), argv, pem.encode(), timeout_s=_TIMEOUT_S + _HOLD_S, output_limit_bytes=1 << 20
    )
    if outcome.exit_code != 0:
        raise RuntimeError(f"{job}: {(outcome.head + outcome.tail).decode()[-500:]}")
    return list(map(float, json.loads(outcome.head + outcome.tail)))


def _on_host(world: _World, job: str, size: int) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT, str(world.port), job, str(size)],
        input=world.outside_pem,
        env={},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{job}: {done.stderr[-500:]}")
    return list(map(float, json.loads(done.stdout)))


@asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[_World]:
    """Gates as a server has them, with one name, and one credential."""
    outside = Authority.open(folder / tls_server.AUTHORITY, SystemClock())
    ours = Authority.open(folder / "own", SystemClock())

    async def note(_log_id: str, _events: Sequence[NewEvent]) -> None:
        pass

    async def find(_project_id: str, ids: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
        return {each: header_secret(each, "Authorization", "Bearer", "t0ken") for each in ids}

    settings = EgressSettings(exceptions=HostList.parse(["127.0.0.1"]))
    tls = ssl.create_default_context(cadata=outside.pem)
    gates = Gates(
        settings,
        Audit(note, SystemClock()),
        Resolver(lambda _host, _port: ["127.0.0.1"]),
        Interception(ours, tls),
        find,
    )
    gates.open()
    try:
        with _server(folder) as port:
            yield _World(gates, port, outside.pem, ours.pem)
    finally:
        await gates.aclose()


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.tls_server", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
