"""A server that is killed with runs in the middle of tool calls, and the next one on its data folder: from its start
until every run has its call again, which went on in the sandbox meanwhile. Also how long an orderly end takes.

Baseline of the recovery: a server on an empty data folder, until it listens. Of the end: removing as many containers as
the pool holds, all at once.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.figures import Row, Unit, p50_at_most, p99_at_most, summarize
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import remove_all, unmount_below
from benchmarks.server import HOST, Exchange, await_port, free_port

_RUNS = (1, 16, 64)
_QUICK_RUNS = (1, 4)
_ROUNDS_MOST = 8
_POOL_SIZE = 8
_GOAL_MS = 2000
_STOP_GOAL_MS = 5000
_TIMEOUT_S = 120.0
_CALL = "```bash\necho begun; sleep 600\n```\n"
_ENVIRONMENT_ID = re.compile(rb'"environment_id":"([0-9a-f]{32})"')


class KilledServer:
    """A server that is started again and again on one data folder."""

    def __init__(self, plan: Plan, folder: Path, pool_size: int) -> None:
        self.instance = f"bench-{secrets.token_hex(6)}"
        self.port = free_port()
        self.database = folder / "corral.db"
        self._log = folder / "server.log"
        self._variables = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")} | {
            "CORRAL_DATA_DIR": str(folder),
            "CORRAL_INSTANCE": self.instance,
            "CORRAL_ENGINE_URL": plan.settings.engine_url,
            "CORRAL_IMAGE": plan.settings.image,
            "CORRAL_MODEL": "scripted",
            "CORRAL_POOL__SIZE": str(pool_size),
            "CORRAL_POOL__MAX_SIZE": str(pool_size),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Returns when it listens; milliseconds."""
        began = time.perf_counter()
        argv = [sys.executable, "-m", "orchestrator", "serve", "--host", HOST, "--port", str(self.port)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(argv, env=self._variables, stdout=output, stderr=subprocess.STDOUT)
        await_port(self.port, self._process, self._log)
        return (time.perf_counter() - began) * 1e3

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def end(self, number: signal.Signals) -> float:
        """Returns when it has ended; milliseconds."""
        assert self._process is not None
        began = time.perf_counter()
        self._process.send_signal(number)
        self._process.wait(_TIMEOUT_S)
        return (time.perf_counter() - began) * 1e3


def run(plan: Plan) -> list[Row]:
    rounds = min(plan.rounds, _ROUNDS_MOST)
    with own_server(plan) as server:
        empty_ms = []
        for _ in range(rounds):
            empty_ms.append(server.start())
            server.end(signal.SIGKILL)
    rows = [_recovery(plan, count, rounds, empty_ms) for count in (_QUICK_RUNS if plan.is_quick else _RUNS)]
    return [*rows, _orderly_end(plan, rounds)]


def _recovery(plan: Plan, count: int, rounds: int, empty_ms: list[float]) -> Row:
    took_ms = []
    with own_server(plan) as server:
        server.start()
        environments = [_begin_call(server) for _ in range(count)]
        _await(lambda: _count(server.database, "tool.output") >= count, "the calls do not begin")
        for _ in range(rounds):
            before = _count(server.database, "tool.taken_up")
            server.end(signal.SIGKILL)
            began = time.perf_counter()
            server.start()
            _await(lambda: _count(server.database, "tool.taken_up") >= before + count, "runs are not taken up")  # noqa: B023
            took_ms.append((time.perf_counter() - began) * 1e3)
        for environment_id in environments:
            Exchange(server.port, "DELETE", f"/v1beta/environments/{environment_id}").read_all()
        server.end(signal.SIGTERM)
    noun = "run" if count == 1 else "runs"
    baseline = summarize(empty_ms, Unit.MS)
    goal = (p99_at_most(_GOAL_MS),)
    return Row(
        f"killed, {count} {noun} going again", Unit.MS, summarize(took_ms, Unit.MS), "empty server", baseline, goal
    )


def _orderly_end(plan: Plan, rounds: int) -> Row:
    took_ms = []
    plain_ms = []
    engine = PlainEngine(plan.settings)
    try:
        with own_server(plan, _POOL_SIZE) as server:
            for _ in range(rounds):
                server.start()
                _await(lambda: _waiting(engine, server) >= _POOL_SIZE, "the pool does not fill")
                took_ms.append(server.end(signal.SIGTERM))
                with engine.idle_containers(_POOL_SIZE) as idle:
                    plain_ms.append(_remove(engine, idle))
    finally:
        engine.close()
    return Row(
        f"SIGTERM to exit, {_POOL_SIZE} wait",
        Unit.MS,
        summarize(took_ms, Unit.MS),
        f"{_POOL_SIZE} × {engine.name} kill, at once",
        summarize(plain_ms, Unit.MS),
        (p50_at_most(_STOP_GOAL_MS),),
    )


@contextmanager
def own_server(plan: Plan, pool_size: int = 0) -> Iterator[KilledServer]:
    """A server that is not started yet, with a data folder and an identity of its own; leaves nothing."""
    with tempfile.TemporaryDirectory(prefix="server-", dir=plan.output) as folder:
        server = KilledServer(plan, Path(folder), pool_size)
        try:
            yield server
        finally:
            if server.is_running:
                server.end(signal.SIGKILL)
            remove_all(plan.settings, server.instance)
            unmount_below(Path(folder))


def _begin_call(server: KilledServer) -> str:
    request = {"agent": "general", "input": _CALL, "environment": "remote", "background": True}
    answer = Exchange(server.port, "POST", "/v1beta/interactions", request).read_all()
    found = _ENVIRONMENT_ID.search(answer)
    if found is None:
        raise RuntimeError(f"no environment in {answer!r}")
    return found[1].decode()


def _count(database: Path, kind: str) -> int:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM events WHERE kind = ?", (kind,)).fetchone()[0])


def _waiting(engine: PlainEngine, server: KilledServer) -> int:
    filters = {"label": f"corral.instance={server.instance}", "name": "corral-pool-"}
    return len(engine.api.containers(filters=filters))


def _remove(engine: PlainEngine, containers: Sequence[str]) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(len(containers)) as threads:
        list(threads.map(lambda each: engine.timed("kill", each), containers))
    return (time.perf_counter() - began) * 1e3


def _await(is_true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.01)
