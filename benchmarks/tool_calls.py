"""Tool calls as the agent loop sees them: a command by bash, and a cell of the stateful Python.

Baselines: `docker exec` of the same, and for the command also a spawn by a program that is in the container already,
which nothing from outside can be faster than.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from itertools import count

import uvloop

from benchmarks.figures import Row, Unit, at_most_above, at_most_times, p50_at_most, summarize, times_better
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import destroy, open_driver, start
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome

_CALLS_PER_ROUND = 25
_TIMEOUT_S = 30.0
_OUTPUT_LIMIT_BYTES = 1 << 20
_LOCAL_SPAWNS = f"""
import json, os, time
def spawn():
    started = time.perf_counter()
    os.waitpid(os.posix_spawnp("bash", ["bash", "-c", "true"], os.environ), 0)
    return (time.perf_counter() - started) * 1e3
print(json.dumps([spawn() for _ in range({_CALLS_PER_ROUND})]))
"""

_ids = (f"bench-{number}" for number in count())


def run(plan: Plan) -> list[Row]:
    return uvloop.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    bash_ms: list[float] = []
    cells_ms: list[float] = []
    spawns_ms: list[float] = []
    execs_ms: list[float] = []
    python_execs_ms: list[float] = []
    beside_ms: list[float] = []
    engine = PlainEngine(plan.settings)
    try:
        async with open_driver(plan) as driver:
            sandbox = await start(driver, plan.settings.image)
            await _timed(sandbox, sandbox.python, "1+1")  # starts the interpreter
            for _ in range(plan.rounds):
                execs_ms.append(engine.execute(sandbox.ref.token, "bash", "-c", "true"))
                bash_ms += [await _timed(sandbox, sandbox.bash, "true") for _ in range(_CALLS_PER_ROUND)]
                spawns_ms += await _local_spawns(sandbox)
                python_execs_ms.append(engine.execute(sandbox.ref.token, "python3", "-c", "print(1+1)"))
                cells_ms += [await _timed(sandbox, sandbox.python, "1+1") for _ in range(_CALLS_PER_ROUND)]
                beside_ms += await _beside_a_start(driver, plan.settings.image, sandbox)
            await sandbox.link.aclose()
    finally:
        engine.close()
    bash, cells = summarize(bash_ms, Unit.MS), summarize(cells_ms, Unit.MS)
    exec_name = f"{engine.name} exec"
    return [
        Row("bash `true`", Unit.MS, bash, f"{exec_name} C bash", summarize(execs_ms, Unit.MS), (times_better(20),)),
        Row("bash `true`", Unit.MS, bash, "spawn inside", summarize(spawns_ms, Unit.MS), (at_most_above(2),)),
        Row(
            "bash `true` while one starts",
            Unit.MS,
            summarize(beside_ms, Unit.MS),
            "bash `true`",
            bash,
            (at_most_times(2),),
        ),
        Row(
            "Python cell `1+1`",
            Unit.MS,
            cells,
            f"{exec_name} C python3",
            summarize(python_execs_ms, Unit.MS),
            (p50_at_most(1.5),),
        ),
    ]


async def _beside_a_start(driver: DockerDriver, image: str, sandbox: Sandbox) -> list[float]:
    """Calls for as long as another sandbox is being made, as when a pool is refilled."""
    starting = asyncio.create_task(start(driver, image))
    calls_ms = []
    while not starting.done():
        calls_ms.append(await _timed(sandbox, sandbox.bash, "true"))
    await destroy(driver, await starting)
    return calls_ms


async def _timed(sandbox: Sandbox, verb: Callable[..., Awaitable[CallOutcome]], code: str) -> float:
    call_id = next(_ids)
    started = time.perf_counter()
    outcome = await verb(call_id, code, timeout_s=_TIMEOUT_S, output_limit_bytes=_OUTPUT_LIMIT_BYTES)
    took_ms = (time.perf_counter() - started) * 1e3
    sandbox.acknowledge(call_id)
    _check(outcome)
    return took_ms


async def _local_spawns(sandbox: Sandbox) -> list[float]:
    call_id = next(_ids)
    outcome = await sandbox.python(call_id, _LOCAL_SPAWNS, timeout_s=_TIMEOUT_S, output_limit_bytes=_OUTPUT_LIMIT_BYTES)
    sandbox.acknowledge(call_id)
    _check(outcome)
    return [float(each) for each in json.loads(outcome.head)]


def _check(outcome: CallOutcome) -> None:
    if not outcome.is_ok:
        raise RuntimeError(f"a call failed ({outcome.verdict}): {outcome.head!r}")
