"""Stages of a sandbox's life after its start: its stop, its use when it is stopped, and a link that has to be opened
again, as a server does after its own restart.

Baselines: `docker stop`, `docker start` with one `docker exec`, and one `docker exec`.
"""

from __future__ import annotations

import time

import uvloop

from benchmarks.figures import Row, Unit, at_most_times, summarize
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import open_driver, start
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.driver import SandboxRef
from orchestrator.sandboxes.link import Link

_LINKS_PER_ROUND = 5
_ASK = {"service": "calls"}


def run(plan: Plan) -> list[Row]:
    return uvloop.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    stops_ms: list[float] = []
    restores_ms: list[float] = []
    links_ms: list[float] = []
    plain_stops_ms: list[float] = []
    plain_restores_ms: list[float] = []
    plain_calls_ms: list[float] = []
    engine = PlainEngine(plan.settings)
    try:
        with engine.idle_containers(1) as (idle,):
            async with open_driver(plan) as driver:
                sandbox = await start(driver, plan.settings.image)
                await sandbox.link.aclose()
                for _ in range(plan.rounds):
                    links_ms += [await _open_link(driver, sandbox.ref) for _ in range(_LINKS_PER_ROUND)]
                    plain_calls_ms += [engine.execute(idle, "true") for _ in range(_LINKS_PER_ROUND)]
                    began = time.perf_counter()
                    await driver.stop(sandbox.ref)
                    stopped = time.perf_counter()
                    await driver.start(sandbox.ref)
                    restored_ms = (time.perf_counter() - stopped) * 1e3 + await _open_link(driver, sandbox.ref)
                    stops_ms.append((stopped - began) * 1e3)
                    restores_ms.append(restored_ms)
                    # Its program ignores SIGTERM, as the first process of a container does unless it takes care.
                    plain_stops_ms.append(engine.timed("stop", "--time", "0", idle))
                    plain_restores_ms.append(engine.timed("start", idle) + engine.execute(idle, "true"))
    finally:
        engine.close()
    name = engine.name
    plain_call = summarize(plain_calls_ms, Unit.MS)
    return [
        Row("stop", Unit.MS, summarize(stops_ms, Unit.MS), f"{name} stop -t 0", summarize(plain_stops_ms, Unit.MS)),
        Row(
            "restore, to the first answer",
            Unit.MS,
            summarize(restores_ms, Unit.MS),
            f"{name} start + exec",
            summarize(plain_restores_ms, Unit.MS),
            (at_most_times(1.25),),
        ),
        Row("link opened again", Unit.MS, summarize(links_ms, Unit.MS), f"{name} exec C true", plain_call),
    ]


async def _open_link(driver: DockerDriver, ref: SandboxRef) -> float:
    """Until the guest has answered over a new link, in milliseconds."""
    began = time.perf_counter()
    link = await Link.open(await driver.connect(ref), generation=1)
    await link.ask(_ASK)
    took_ms = (time.perf_counter() - began) * 1e3
    await link.aclose()
    return took_ms
