"""Measures the event log: durable appends per second, and the time from an append to the reader that sees it.

Baseline, in the same run and on the same disk: plain `sqlite3` in autocommit mode with `synchronous=FULL`, one row per
commit, which is what a straightforward server does. The loop is uvloop, as in the server.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.figures import Goal, Row, Summary, Unit, p50_at_least, p99_at_most, summarize
from benchmarks.plan import Plan
from orchestrator.clock import SystemClock
from orchestrator.ids import conversation_of, new_interaction_id
from orchestrator.store.records import InteractionRow, NewEvent
from orchestrator.store.sqlite import SqliteStore

APPENDERS = 50
BATCH = 20
SECONDS = 1.5
"""For each of the four measurements."""

GOAL_APPENDS_PER_S = 20_000
GOAL_READER_P99_MS = 20.0

BASELINE = "sqlite3, a commit per event"
_DELTA = {
    "event_type": "step.delta",
    "index": 7,
    "delta": {"type": "text", "text": "x" * 340},
    "event_id": "evt_0000001234",
}
BODY = json.dumps(_DELTA, separators=(",", ":")).encode()
"""About 430 bytes: a text delta of a hundred tokens."""


def run(plan: Plan) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="event-log-", dir=plan.output) as folder:
        baseline_per_s, baseline_ms = _baseline(Path(folder) / "baseline.db")
        return uvloop.run(_measure(Path(folder) / "corral.db", baseline_per_s, summarize(baseline_ms, Unit.MS)))


def _baseline(path: Path) -> tuple[float, list[float]]:
    """Rows per second and the milliseconds of each commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE events (log_id TEXT, seq INTEGER, body BLOB, PRIMARY KEY (log_id, seq))")
    commits_ms: list[float] = []
    start = time.perf_counter()
    while (before := time.perf_counter()) < start + SECONDS:
        connection.execute("INSERT INTO events VALUES (?, ?, ?)", ("log", len(commits_ms), BODY))
        commits_ms.append((time.perf_counter() - before) * 1e3)
    per_s = len(commits_ms) / (time.perf_counter() - start)
    connection.close()
    return per_s, commits_ms


async def _measure(path: Path, baseline_per_s: float, baseline: Summary) -> list[Row]:
    store = SqliteStore(path, SystemClock())
    await store.open()
    try:
        many_per_s, appends_ms, _ = await _append_for_a_while(store, logs=APPENDERS, batch=1)
        batched_per_s, _, _ = await _append_for_a_while(store, logs=1, batch=BATCH)
        read_per_s, _, reads_ms = await _append_for_a_while(store, logs=APPENDERS, batch=1, are_read=True)
    finally:
        await store.aclose()

    def rate(name: str, per_s: float, *goals: Goal) -> Row:
        return Row(name, Unit.PER_S, Summary(per_s, None, 1), BASELINE, Summary(baseline_per_s, None, 1), goals)

    appends, reads = summarize(appends_ms, Unit.MS), summarize(reads_ms, Unit.MS)
    return [
        rate(f"appends, {APPENDERS} logs, 1 event each", many_per_s, p50_at_least(GOAL_APPENDS_PER_S)),
        rate(f"appends, {APPENDERS} logs, each one read", read_per_s),
        rate(f"appends, 1 log, {BATCH} a call", batched_per_s),
        Row(f"append, {APPENDERS} at once", Unit.MS, appends, BASELINE, baseline),
        Row(
            f"append to reader, {APPENDERS} at once",
            Unit.MS,
            reads,
            BASELINE,
            baseline,
            (p99_at_most(GOAL_READER_P99_MS),),
        ),
    ]


async def _append_for_a_while(
    store: SqliteStore, *, logs: int, batch: int, are_read: bool = False
) -> tuple[float, list[float], list[float]]:
    """Each log has one appender, always busy, and a reader if `are_read`.

    Returns events per second over all logs, the milliseconds of each call, and those from a call to its log's reader.
    """
    ids = [await _new_log(store) for _ in range(logs)]
    events = [NewEvent("step.delta", BODY)] * batch
    calls_ms: list[float] = []
    reads_ms: list[float] = []
    began: dict[tuple[str, int], float] = {}

    async def keep_appending(log_id: str, end: float) -> None:
        seq = 1
        while (now := time.perf_counter()) < end:
            began[log_id, seq] = now
            await store.append(log_id, events, generation=1, expected_seq=seq)
            calls_ms.append((time.perf_counter() - now) * 1e3)
            seq += batch

    async def keep_reading(log_id: str) -> None:
        async for some in store.tail(log_id):
            now = time.perf_counter()
            reads_ms.extend((now - began[log_id, event.seq]) * 1e3 for event in some)

    readers = [asyncio.create_task(keep_reading(log_id)) for log_id in ids if are_read]
    start = time.perf_counter()
    async with asyncio.TaskGroup() as appenders:
        for log_id in ids:
            appenders.create_task(keep_appending(log_id, start + SECONDS))
    per_s = len(calls_ms) * batch / (time.perf_counter() - start)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers) if readers else None
    return per_s, calls_ms, reads_ms


async def _new_log(store: SqliteStore) -> str:
    project = await store.default_project()
    log_id, now = new_interaction_id(), SystemClock().now()
    row = InteractionRow(
        log_id, project.id, conversation_of(log_id), None, None, "bench", "in_progress", False, 1, "{}", now, now
    )
    await store.create_interaction(row, [])
    return log_id
