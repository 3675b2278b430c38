"""Launch: from the POST until the client sees the first tool result. With a new environment, with and without a pool of
waiting sandboxes, and with one that runs already. Each server has served before: the first request of its life takes
60 ms more, for imports.

Baselines: `docker run --rm IMAGE true`, alone, and with the `docker exec` that a user needs to do something in it.
"""

from __future__ import annotations

import re
import time

from benchmarks.figures import Row, Unit, at_most_times, p50_at_most, p99_at_most, summarize, times_better
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.server import BenchServer, running_server
from orchestrator.sandboxes.docker import INSTANCE_LABEL

_RUNNING_PER_ROUND = 10
_POOL_SIZE = 4
_POOL_FILL_TIMEOUT_S = 30.0
_LINK_S = 0.5
"""A container of the pool runs somewhat before its sandbox can be claimed."""
_PROMPT = "```bash\ntrue\n```\n"
_RESULT = b'"delta":{"type":"code_execution_result"'
_ENVIRONMENT_ID = re.compile(rb'"environment_id":"([0-9a-f]{32})"')


def run(plan: Plan) -> list[Row]:
    runs_ms: list[float] = []
    both_ms: list[float] = []
    cold_ms: list[float] = []
    running_ms: list[float] = []
    pooled_ms: list[float] = []
    engine = PlainEngine(plan.settings)
    try:
        with running_server(plan) as server, engine.idle_containers(1) as (idle,):
            running, _ = launch(server, "remote")
            for _ in range(plan.rounds):
                runs_ms.append(engine.run("true"))
                both_ms.append(runs_ms[-1] + engine.execute(idle, "true"))
                fresh, took_ms = launch(server, "remote")
                cold_ms.append(took_ms)
                server.delete_environment(fresh)
                running_ms += [launch(server, running)[1] for _ in range(_RUNNING_PER_ROUND)]
        with running_server(plan, pool_size=_POOL_SIZE) as server:
            _launches_from_pool(server, engine)
            for _ in range(0, plan.rounds, _POOL_SIZE // 2):
                pooled_ms += _launches_from_pool(server, engine)
    finally:
        engine.close()
    cold, plain = summarize(cold_ms, Unit.MS), summarize(runs_ms, Unit.MS)
    run_name = f"{engine.name} run --rm"
    goals = (times_better(6), p50_at_most(40), p99_at_most(120))
    return [
        Row("launch, cold", Unit.MS, cold, f"{run_name} + exec", summarize(both_ms, Unit.MS), (at_most_times(1.25),)),
        Row("launch, cold", Unit.MS, cold, run_name, plain),
        Row("launch, from the pool", Unit.MS, summarize(pooled_ms, Unit.MS), run_name, plain, goals),
        Row("launch, running environment", Unit.MS, summarize(running_ms, Unit.MS), run_name, plain, goals),
    ]


def _launches_from_pool(server: BenchServer, engine: PlainEngine) -> list[float]:
    """Empties a full pool, one launch after another."""
    await_pool(server, engine, _POOL_SIZE)
    launched = [launch(server, "remote") for _ in range(_POOL_SIZE)]
    for environment_id, _ in launched:
        server.delete_environment(environment_id)
    return [took_ms for _, took_ms in launched]


def await_pool(server: BenchServer, engine: PlainEngine, size: int) -> None:
    """Returns when so many sandboxes wait."""
    deadline = time.monotonic() + _POOL_FILL_TIMEOUT_S
    filters = {"label": f"{INSTANCE_LABEL}={server.instance}", "name": "corral-pool-"}
    while len(engine.api.containers(filters=filters)) < size:
        if time.monotonic() > deadline:
            raise RuntimeError("the pool does not fill")
        time.sleep(0.1)
    time.sleep(_LINK_S)


def launch(server: BenchServer, environment: str) -> tuple[str, float]:
    """The environment's id, and the milliseconds from before the connection to the result. Returns when all is over."""
    started = time.perf_counter()
    exchange = server.launch(_PROMPT, environment)
    exchange.read_until(_RESULT)
    took_ms = (time.perf_counter() - started) * 1e3
    answer = exchange.read_all()
    found = _ENVIRONMENT_ID.search(answer)
    if found is None or b'"status":"completed"' not in answer or b'"is_error":true' in answer:
        raise RuntimeError(f"the launch failed: {answer[-1000:]!r}")
    return found[1].decode(), took_ms
