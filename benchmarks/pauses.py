"""Pausing a sandbox and going on: until the engine has frozen it, and from there to the first answer of its guest.

Baseline: `docker pause` and `docker unpause` of a container that does nothing.
"""

from __future__ import annotations

import time

import uvloop

from benchmarks.figures import Row, Unit, summarize
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import open_driver, start


def run(plan: Plan) -> list[Row]:
    return uvloop.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    pauses_ms: list[float] = []
    resumes_ms: list[float] = []
    plain_pauses_ms: list[float] = []
    plain_resumes_ms: list[float] = []
    engine = PlainEngine(plan.settings)
    try:
        with engine.idle_containers(1) as (idle,):
            async with open_driver(plan) as driver:
                sandbox = await start(driver, plan.settings.image)
                for _ in range(plan.rounds):
                    started = time.perf_counter()
                    await driver.pause(sandbox.ref)
                    paused = time.perf_counter()
                    await driver.resume(sandbox.ref)
                    await sandbox.link.ask({"service": "calls"})
                    pauses_ms.append((paused - started) * 1e3)
                    resumes_ms.append((time.perf_counter() - paused) * 1e3)
                    plain_pauses_ms.append(engine.timed("pause", idle))
                    plain_resumes_ms.append(engine.timed("unpause", idle))
                await sandbox.link.aclose()
    finally:
        engine.close()
    return [
        Row("pause", Unit.MS, summarize(pauses_ms, Unit.MS), "docker pause", summarize(plain_pauses_ms, Unit.MS)),
        Row(
            "resume, to the first answer",
            Unit.MS,
            summarize(resumes_ms, Unit.MS),
            "docker unpause",
            summarize(plain_resumes_ms, Unit.MS),
        ),
    ]
