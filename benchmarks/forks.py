"""Forks of a small and of a large environment: from a template that exists, and of one that has just changed and runs.

A fork is there when its guest answers. Baselines: a cold start of ours, without any files, and `docker commit` with
`docker run` of a container that holds as much.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from itertools import count

import uvloop

from benchmarks.figures import Row, Unit, at_most_times, summarize, times_better
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import destroy, open_driver, start
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.handle import Sandbox

_SIZES_MIB = {"10 MB": 10, "1 GB": 1000}
_LARGE_MIB = 100
_LEAST_ROUNDS = 2
_ROUNDS_SHARE = 5
"""A commit of a gigabyte takes ten seconds."""
_TIMEOUT_S = 300.0

_numbers = count()


def run(plan: Plan) -> list[Row]:
    return uvloop.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    rows: list[Row] = []
    engine = PlainEngine(plan.settings)
    try:
        async with open_driver(plan) as driver:
            for name, size_mib in _SIZES_MIB.items():
                rows += await _of_size(plan, driver, engine, name, size_mib)
    finally:
        engine.close()
    return rows


async def _of_size(plan: Plan, driver: DockerDriver, engine: PlainEngine, name: str, size_mib: int) -> list[Row]:
    image = plan.settings.image
    cold_ms: list[float] = []
    template_ms: list[float] = []
    changed_ms: list[float] = []
    commits_ms: list[float] = []
    parent = await start(driver, image)
    fill = f"head -c {size_mib}M /dev/urandom >{{}}/file && sync"
    await _bash(parent, fill.format("/workspace"))
    await driver.snapshot(parent.ref, "template")
    with engine.idle_containers(1) as (plain,):
        engine.execute(plain, "sh", "-c", fill.format("/root"))
        for _ in range(max(_LEAST_ROUNDS, plan.rounds // _ROUNDS_SHARE)):
            cold_ms.append(await _timed(driver, start(driver, image)))
            template_ms.append(await _timed(driver, start(driver, image, "template")))
            await _bash(parent, "date >>/workspace/changed")
            changed_ms.append(await _timed(driver, _fork(driver, image, parent)))
            engine.execute(plain, "sh", "-c", "date >>/root/changed")
            commits_ms.append(engine.commit_and_run(plain))
    await driver.drop_snapshot("template")
    await destroy(driver, parent)
    return [
        Row(
            f"fork of a template, {name}",
            Unit.MS,
            summarize(template_ms, Unit.MS),
            "cold start",
            summarize(cold_ms, Unit.MS),
            (at_most_times(2),),
        ),
        Row(
            f"fork while it runs, {name}",
            Unit.MS,
            summarize(changed_ms, Unit.MS),
            f"{engine.name} commit + run -d",
            summarize(commits_ms, Unit.MS),
            # Of little there is little to copy: what remains on both sides is the start of a container.
            (times_better(3),) if size_mib >= _LARGE_MIB else (),
        ),
    ]


async def _fork(driver: DockerDriver, image: str, parent: Sandbox) -> Sandbox:
    name = f"fork-{next(_numbers)}"
    await driver.snapshot(parent.ref, name)
    child = await start(driver, image, name)
    await driver.drop_snapshot(name)
    return child


async def _timed(driver: DockerDriver, starting: Awaitable[Sandbox]) -> float:
    """Milliseconds until the sandbox's guest has answered; it is destroyed before this returns."""
    started = time.perf_counter()
    sandbox = await starting
    took_ms = (time.perf_counter() - started) * 1e3
    await destroy(driver, sandbox)
    return took_ms


async def _bash(sandbox: Sandbox, code: str) -> None:
    call_id = f"fork-call-{next(_numbers)}"
    outcome = await sandbox.bash(call_id, code, timeout_s=_TIMEOUT_S, output_limit_bytes=4096)
    sandbox.acknowledge(call_id)
    if not outcome.is_ok:
        raise RuntimeError(f"{code!r} failed: {outcome}")
