"""Launch: from the POST until the client sees the first tool result, with a new environment and with a running one.

Baselines: `docker run --rm IMAGE true`, alone, and with the `docker exec` that a user needs to do something in it.
"""

from __future__ import annotations

import re
import time

from benchmarks.figures import Row, Unit, at_most_times, p50_at_most, p99_at_most, summarize, times_better
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.server import BenchServer, running_server

_WARM_PER_ROUND = 10
_PROMPT = "```bash\ntrue\n```\n"
_RESULT = b'"delta":{"type":"code_execution_result"'
_ENVIRONMENT_ID = re.compile(rb'"environment_id":"([0-9a-f]{32})"')


def run(plan: Plan) -> list[Row]:
    runs_ms: list[float] = []
    both_ms: list[float] = []
    cold_ms: list[float] = []
    warm_ms: list[float] = []
    engine = PlainEngine(plan.settings)
    try:
        with running_server(plan) as server, engine.idle_containers(1) as (idle,):
            running, _ = _launch(server, "remote")
            for _ in range(plan.rounds):
                runs_ms.append(engine.run("true"))
                both_ms.append(runs_ms[-1] + engine.execute(idle, "true"))
                fresh, took_ms = _launch(server, "remote")
                cold_ms.append(took_ms)
                server.delete_environment(fresh)
                warm_ms += [_launch(server, running)[1] for _ in range(_WARM_PER_ROUND)]
    finally:
        engine.close()
    cold, warm = summarize(cold_ms, Unit.MS), summarize(warm_ms, Unit.MS)
    plain, plain_both = summarize(runs_ms, Unit.MS), summarize(both_ms, Unit.MS)
    run_name = f"{engine.name} run --rm"
    return [
        Row("launch, cold", Unit.MS, cold, f"{run_name} + exec", plain_both, (at_most_times(1.25),)),
        Row("launch, cold", Unit.MS, cold, run_name, plain),
        Row(
            "launch, running environment",
            Unit.MS,
            warm,
            run_name,
            plain,
            (times_better(6), p50_at_most(40), p99_at_most(120)),
        ),
    ]


def _launch(server: BenchServer, environment: str) -> tuple[str, float]:
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
