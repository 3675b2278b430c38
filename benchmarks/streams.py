"""Server-sent events per second on one stream: of a run as it happens, and of one that is stored.

The run is a scripted model that says its text in pieces of a few characters; each piece is an event that is durable
before it is sent. Baseline: the same bytes from a bare uvicorn, which stores nothing.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Row, Unit, summarize
from benchmarks.plan import Plan
from benchmarks.server import Exchange, free_port, running_process, running_server

_CHUNK = 4
_TEXT = "All work and no play makes Jack a dull boy. " * 270
_PROMPT = f"```script\nturns:\n  - text: {_TEXT.strip()}\n    chunk: {_CHUNK}\n```\n"
_INTERACTION_ID = re.compile(rb'"interaction":\{"id":"([^"]+)"')
_BASELINE = "uvicorn, same bytes, no store"


def run(plan: Plan) -> list[Row]:
    live: list[float] = []
    stored: list[float] = []
    bare: list[float] = []
    with running_server(plan) as server, tempfile.TemporaryDirectory(prefix="streams-", dir=plan.output) as folder:
        first = server.launch(_PROMPT).read_all()
        found = _INTERACTION_ID.search(first)
        if found is None:
            raise RuntimeError(f"no interaction in the stream: {first[:1000]!r}")
        interaction_id = found[1].decode()
        file, log, port = Path(folder) / "frames.sse", Path(folder) / "bare_stream.log", free_port()
        file.write_bytes(server.replay(interaction_id).read_all())
        argv = [sys.executable, "-m", "benchmarks.bare_stream", str(port), str(file)]
        with running_process(argv, port, log):
            for _ in range(plan.rounds):
                bare.append(_events_per_s(lambda: Exchange(port, "GET", "/")))
                live.append(_events_per_s(lambda: server.launch(_PROMPT)))
                bare.append(_events_per_s(lambda: Exchange(port, "GET", "/")))
                stored.append(_events_per_s(lambda: server.replay(interaction_id)))
    baseline = summarize(bare, Unit.PER_S)
    return [
        Row("events, a run as it happens", Unit.PER_S, summarize(live, Unit.PER_S), _BASELINE, baseline),
        Row("events, a stored run", Unit.PER_S, summarize(stored, Unit.PER_S), _BASELINE, baseline),
    ]


def _events_per_s(begin: Callable[[], Exchange]) -> float:
    """From before the connection to the end of the answer."""
    started = time.perf_counter()
    answer = begin().read_all()
    took_s = time.perf_counter() - started
    events = answer.count(b"event: ")
    if events < len(_TEXT) // _CHUNK:
        raise RuntimeError(f"only {events} events came: {answer[-500:]!r}")
    return events / took_s
