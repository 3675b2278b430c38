"""A burst: many launches at once, from the first POST until the last client sees its first tool result.

Baseline: as many bare containers, started at the concurrency at which an engine is at its best.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures import Row, Summary, Unit, at_most_times, p50_at_least
from benchmarks.launch import await_pool, launch
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.server import BenchServer, running_server

LAUNCHES = 100
_QUICK_LAUNCHES = 20
_ENGINE_AT_ONCE = 6
_POOL_SIZE = 8


def run(plan: Plan) -> list[Row]:
    count = _QUICK_LAUNCHES if plan.is_quick else LAUNCHES
    engine = PlainEngine(plan.settings)
    try:
        plain_s = engine.start_many(count, at_once=_ENGINE_AT_ONCE)
        with running_server(plan) as server:
            launch(server, "remote")
            cold_s, cold_succeeded = _burst(server, count)
        with running_server(plan, pool_size=_POOL_SIZE) as server:
            launch(server, "remote")
            await_pool(server, engine, _POOL_SIZE)
            pooled_s, pooled_succeeded = _burst(server, count)
    finally:
        engine.close()
    name = f"{engine.name} run -d, {_ENGINE_AT_ONCE} at a time"

    def seconds(what: str, ours_s: float, share: float) -> Row:
        plain = Summary(plain_s * share, None, 1)
        return Row(what, Unit.S, Summary(ours_s, None, 1), name, plain, (at_most_times(1.15),))

    succeeded = Summary(100 * (cold_succeeded + pooled_succeeded) / (2 * count), None, 2 * count)
    return [
        seconds(f"burst of {count} launches", cold_s, 1),
        # What waited already is not started again.
        seconds(f"burst of {count}, {_POOL_SIZE} wait", pooled_s, (count - _POOL_SIZE) / count),
        Row(
            "burst, launches that succeed", Unit.PERCENT, succeeded, "all", Summary(100, None, 1), (p50_at_least(100),)
        ),
    ]


def _burst(server: BenchServer, count: int) -> tuple[float, int]:
    """Seconds until the last result was seen, and how many launches succeeded."""

    def one(_number: int) -> float | None:
        try:
            launch(server, "remote")
        except (RuntimeError, OSError) as error:
            print(f"  a launch failed: {error}"[:500])
            return None
        return time.perf_counter()

    started = time.perf_counter()
    with ThreadPoolExecutor(count) as clients:
        ends = [end for end in clients.map(one, range(count)) if end is not None]
    if not ends:
        raise RuntimeError("no launch of the burst succeeded")
    return max(ends) - started, len(ends)
