"""`assert_store_consistent`: what must be true of a store after any story. Reads through the port and the file."""

from __future__ import annotations

import asyncio
import json
import sqlite3

from orchestrator.store.port import Store
from orchestrator.store.records import Event, InteractionRow
from orchestrator.store.sqlite import SqliteStore


async def assert_store_consistent(store: Store) -> None:
    """Fails with the id of the first row or log that breaks a rule of the port, however the clock has jumped."""
    for environment in await store.environments(None, limit=1_000_000):
        assert environment.created <= environment.updated, environment
        _assert_gapless(environment.id, await store.read(environment.id))
    for interaction in await store.interactions(None, limit=1_000_000):
        events = await store.read(interaction.id)
        _assert_gapless(interaction.id, events)
        _assert_status_agrees(interaction, events)
        assert interaction.created <= interaction.updated, interaction
        assert not events or events[-1].at <= interaction.updated, interaction
    if isinstance(store, SqliteStore):
        await asyncio.to_thread(_assert_file_consistent, store)


def _assert_gapless(log_id: str, events: list[Event]) -> None:
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), f"log {log_id} has gaps"
    times = [event.at for event in events]
    assert times == sorted(times), f"the times of log {log_id} go back"


def _assert_status_agrees(row: InteractionRow, events: list[Event]) -> None:
    """The last event that names the interaction's status names the row's."""
    named = row.status
    for event in events:
        if event.kind == "interaction.status_update":
            named = json.loads(event.body)["status"]
        elif event.kind in ("interaction.created", "interaction.completed"):
            named = json.loads(event.body)["interaction"]["status"]
    assert named == row.status, f"interaction {row.id} is {row.status!r}, its log says {named!r}"


def _assert_file_consistent(store: SqliteStore) -> None:
    connection = sqlite3.connect(f"{store.path.as_uri()}?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        orphans = connection.execute(
            "SELECT DISTINCT log_id FROM events"
            " WHERE log_id NOT IN (SELECT id FROM interactions UNION ALL SELECT id FROM environments)"
        ).fetchall()
        assert orphans == [], "logs without an owner"
        without_request = connection.execute(
            "SELECT id FROM interactions WHERE id NOT IN (SELECT interaction_id FROM requests)"
        ).fetchall()
        assert without_request == [], "interactions without a request"
    finally:
        connection.close()
