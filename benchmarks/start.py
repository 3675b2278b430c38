"""How long commands and the server take to start: Python importing, mostly. Whole processes, from their start on.

Baselines: `python -c pass` of the same Python, and for the server a bare FastAPI application under the same uvicorn.
Both servers are there when a request has its 200.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Row, Summary, Unit, p50_at_most, summarize
from benchmarks.plan import Plan
from benchmarks.recovery import own_server
from benchmarks.server import Exchange, free_port, running_process

_CORRAL = [sys.executable, "-m", "orchestrator"]
_HELP_GOAL_MS = 300
_SERVER_GOAL_MS = 1500


def run(plan: Plan) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="start-", dir=plan.output) as folder:
        return [*_commands(plan, Path(folder)), _server(plan, Path(folder))]


def _commands(plan: Plan, folder: Path) -> list[Row]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    variables |= {"CORRAL_DATA_DIR": str(folder), "CORRAL_CONFIG": os.devnull}

    def timed(*argv: str) -> float:
        began = time.perf_counter()
        subprocess.run(argv, env=variables, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - began) * 1e3

    plain, help_, models = _by_turns(
        plan.rounds,
        lambda: timed(sys.executable, "-c", "pass"),
        lambda: timed(*_CORRAL, "--help"),
        lambda: timed(*_CORRAL, "models", "list"),
    )
    return [
        Row("corral --help", Unit.MS, help_, "python -c pass", plain, (p50_at_most(_HELP_GOAL_MS),)),
        Row("corral models list", Unit.MS, models, "python -c pass", plain),
    ]


def _server(plan: Plan, folder: Path) -> Row:
    frames = folder / "frames"
    frames.touch()

    def bare() -> float:
        port = free_port()
        argv = [sys.executable, "-m", "benchmarks.bare_stream", str(port), str(frames)]
        began = time.perf_counter()
        with running_process(argv, port, folder / "bare.log"):
            Exchange(port, "GET", "/").read_all()
            return (time.perf_counter() - began) * 1e3

    with own_server(plan) as server:

        def ours() -> float:
            began = time.perf_counter()
            server.start()
            Exchange(server.port, "GET", "/readyz").read_all()
            took_ms = (time.perf_counter() - began) * 1e3
            server.end(signal.SIGTERM)
            return took_ms

        plain, corral = _by_turns(plan.rounds, bare, ours)
    return Row("server, to its first answer", Unit.MS, corral, "bare FastAPI", plain, (p50_at_most(_SERVER_GOAL_MS),))


def _by_turns(rounds: int, *measures: Callable[[], float]) -> list[Summary]:
    """One summary for each; the first round, which fills the caches of files and byte code, does not count."""
    samples = [[measure() for measure in measures] for _ in range(rounds + 1)][1:]
    return [summarize(column, Unit.MS) for column in zip(*samples, strict=True)]
