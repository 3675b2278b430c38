"""Memory of an idle sandbox on the host: all its processes, the engine's shim among them, and the kernel's share.

Baseline: an idle container (`sleep`), counted in the same way. Works only where the engine runs on this machine.

Also: what many live sandboxes and many stopped ones take of the machine's memory all together, engine and kernel
included, by what the kernel says is available. `CORRAL_BENCH_STOPPED` says how many stopped ones.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import uvloop

from benchmarks.figures import Row, Summary, Unit, p50_at_most, summarize
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import open_driver, open_sandboxes, start
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.handle import Sandbox

_SANDBOXES = 4
_LIVE = 100
_STOPPED = 40
_QUICK = 10
_AT_ONCE = 6
_SETTLE_S = 3.0
_MIB = 1 << 20


def run(plan: Plan) -> list[Row]:
    return uvloop.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    engine = PlainEngine(plan.settings)
    try:
        with engine.idle_containers(_SANDBOXES) as containers:
            plain_mib = [_resident_mib(engine, each) for each in containers]
        async with open_sandboxes(plan, _SANDBOXES) as sandboxes:
            ours_mib = [_resident_mib(engine, each.ref.token) for each in sandboxes]
    except FileNotFoundError:
        return []  # the engine's processes are not on this machine
    finally:
        engine.close()
    idle = f"{engine.name} run, sleep"
    rows = [
        Row(
            "memory, idle sandbox",
            Unit.MIB,
            summarize(ours_mib, Unit.MIB),
            idle,
            summarize(plain_mib, Unit.MIB),
            (p50_at_most(25),),
        )
    ]
    live = _QUICK if plan.is_quick else _LIVE
    stopped = _QUICK if plan.is_quick else int(os.environ.get("CORRAL_BENCH_STOPPED", _STOPPED))
    async with open_driver(plan) as driver:
        live_mib, stopped_mib = await _many(plan, driver, live, stopped)
    expected = Summary(live * summarize(plain_mib, Unit.MIB).p50, None, 1)
    rows.append(
        Row(
            f"memory, {live} live sandboxes",
            Unit.MIB,
            Summary(live_mib, None, 1),
            f"{live} × {idle}",
            expected,
            (p50_at_most(live * 25),),
        )
    )
    rows.append(
        Row(
            f"memory, with {stopped} stopped ones",
            Unit.MIB,
            Summary(live_mib + stopped_mib, None, 1),
            f"{live} × {idle}",
            expected,
            (p50_at_most(live * 25),),
        )
    )
    return rows


async def _many(plan: Plan, driver: DockerDriver, live: int, stopped: int) -> tuple[float, float]:
    """MiB that so many take together: those that run, then besides them those that are stopped."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def begin(*, is_stopped: bool) -> Sandbox:
        async with turns:
            sandbox = await start(driver, plan.settings.image)
            if is_stopped:
                await sandbox.link.aclose()
                await driver.stop(sandbox.ref)
            return sandbox

    before_mib = await _available_mib()
    running = await asyncio.gather(*(begin(is_stopped=False) for _ in range(live)))
    between_mib = await _available_mib()
    await asyncio.gather(*(begin(is_stopped=True) for _ in range(stopped)))
    after_mib = await _available_mib()
    for sandbox in running:
        if not sandbox.is_connected:
            raise RuntimeError("a sandbox ended while it was idle")
        await sandbox.link.aclose()
    return before_mib - between_mib, max(0.0, between_mib - after_mib)


async def _available_mib() -> float:
    """Once everything has come to rest."""
    await asyncio.sleep(_SETTLE_S)
    return int(_field(Path("/proc/meminfo"), "MemAvailable:")) / 1024


def _resident_mib(engine: PlainEngine, container_id: str) -> float:
    """Pages that processes share count in parts. Raises `FileNotFoundError` if they are not on this machine."""
    main = int(engine.api.inspect_container(container_id)["State"]["Pid"])
    processes = engine.processes(container_id)
    shim = _parent(main)
    return (sum(map(_proportional_bytes, [*processes, shim])) + _kernel_bytes(main)) / _MIB


def _parent(pid: int) -> int:
    return int(_field(Path(f"/proc/{pid}/status"), "PPid:"))


def _proportional_bytes(pid: int) -> int:
    return int(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")) * 1024


def _kernel_bytes(pid: int) -> int:
    """Stacks, sockets, page tables and the like that the container's control group is charged with."""
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        if controllers == "memory":
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.kmem.usage_in_bytes").read_text())
    unified = next(path for number, _, path in groups if number == "0")
    return int(_field(Path(f"/sys/fs/cgroup{unified}/memory.stat"), "kernel"))


def _field(file: Path, name: str) -> str:
    for line in file.read_text().splitlines():
        first, *rest = line.split()
        if first == name:
            return rest[0]
    raise ValueError(f"no {name} in {file}")
