"""SQL of agents and their versions, for the SQLite store: functions of a connection, as in `rows`.

Imports `records`, `paging` and `errors` only.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

from orchestrator.errors import Conflict, LimitExceeded, NotFound
from orchestrator.store.paging import depart, micros, moment, page, start_of
from orchestrator.store.records import AgentRow, InteractionRow

_OF_AGENT = (
    "SELECT agents.id AS id, project_id, name, agent_versions.version AS version, agents.created AS created,"
    " agent_versions.created AS changed"
)
_FROM = " FROM agents JOIN agent_versions ON agent_id = agents.id"
_WHOLE = f"{_OF_AGENT}, summary, definition, lineage, snapshot{_FROM}"
_LISTED = (
    "SELECT id, project_id, name, version, created, changed, summary, '', '', NULL FROM ("
    f"{_OF_AGENT}, summary, deleted{_FROM} AND agent_versions.version = agents.version)"
)
"""Without what may have megabytes."""


def _agent(found: Any) -> AgentRow:
    uid, project_id, name, version, created, changed, summary, definition, lineage, snapshot = found
    return AgentRow(
        uid, project_id, name, version, moment(created), moment(changed), summary, definition, lineage, snapshot
    )


def insert_agent(connection: sqlite3.Connection, row: AgentRow, limit: int) -> None:
    """The agent with this version as its first."""
    (count,) = connection.execute(
        "SELECT count(*) FROM agents WHERE project_id = ? AND deleted IS NULL", (row.project_id,)
    ).fetchone()
    if count >= limit:
        raise LimitExceeded(f"The project has {limit} agents already; delete some.", retryable=False)
    if agent(connection, row.project_id, row.name, None) is not None:
        raise Conflict(f"Agent {row.name!r} exists already.")
    connection.execute(
        "INSERT INTO agents (id, project_id, name, version, created) VALUES (?, ?, ?, ?, ?)",
        (row.uid, row.project_id, row.name, row.version, micros(row.created)),
    )
    _insert_version(connection, row)


def insert_version(connection: sqlite3.Connection, row: AgentRow, limit: int) -> None:
    """Another version of an agent; it must be the next."""
    found = connection.execute("SELECT version FROM agents WHERE id = ? AND deleted IS NULL", (row.uid,)).fetchone()
    if found is None:
        raise NotFound(f"Agent {row.name!r} not found.")
    if found[0] != row.version - 1:
        raise Conflict(f"Agent {row.name!r} was changed meanwhile; its version is {found[0]}.")
    if row.version > limit:
        raise LimitExceeded(f"Agent {row.name!r} has {limit} versions, as many as it may.", retryable=False)
    connection.execute("UPDATE agents SET version = ? WHERE id = ?", (row.version, row.uid))
    _insert_version(connection, row)


def _insert_version(connection: sqlite3.Connection, row: AgentRow) -> None:
    connection.execute(
        "INSERT INTO agent_versions (agent_id, version, created, summary, definition, lineage, snapshot)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (row.uid, row.version, micros(row.updated), row.summary, row.definition, row.lineage, row.snapshot),
    )


def agent(connection: sqlite3.Connection, project_id: str, name: str, version: int | None) -> AgentRow | None:
    found = connection.execute(
        f"{_WHOLE} WHERE project_id = ? AND name = ? AND deleted IS NULL"
        " AND agent_versions.version = coalesce(?, agents.version)",
        (project_id, name, version),
    ).fetchone()
    return found and _agent(found)


def recorded_agent(connection: sqlite3.Connection, uid: str, version: int) -> AgentRow | None:
    """Deleted or not."""
    found = connection.execute(
        f"{_WHOLE} WHERE agents.id = ? AND agent_versions.version = ?", (uid, version)
    ).fetchone()
    return found and _agent(found)


def agents(connection: sqlite3.Connection, project_id: str, after: str | None, limit: int) -> list[AgentRow]:
    start = start_of(connection, "agents", project_id, after)
    is_there: tuple[str, dict[str, str | int]] = ("deleted IS NULL", {})
    found = page(connection, _LISTED, {"project_id": project_id}, start, limit, further=[is_there])
    return [_agent(columns) for columns in found]


def agent_versions(connection: sqlite3.Connection, uid: str, before: int | None, limit: int) -> list[AgentRow]:
    """The latest first, below `before`."""
    found = connection.execute(
        f"{_OF_AGENT}, summary, '', '', NULL{_FROM} WHERE agents.id = ? AND (? IS NULL OR agent_versions.version < ?)"
        " ORDER BY agent_versions.version DESC LIMIT ?",
        (uid, before, before, max(limit, 0)),
    )
    return [_agent(columns) for columns in found]


def agent_snapshots(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("SELECT DISTINCT snapshot FROM agent_versions WHERE snapshot IS NOT NULL")
    return {name for (name,) in found}


def delete_agent(connection: sqlite3.Connection, uid: str, now: datetime) -> None:
    """Marks it; what is marked goes with its versions as soon as no run needs it."""
    connection.execute("UPDATE agents SET deleted = ? WHERE id = ? AND deleted IS NULL", (micros(now), uid))
    gone = connection.execute(
        "SELECT id FROM agents WHERE deleted IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM interactions WHERE status = 'in_progress' AND agent_id = agents.id)"
    ).fetchall()
    for (each,) in gone:
        depart(connection, "agents", each, now)


def check_recorded(connection: sqlite3.Connection, row: InteractionRow) -> None:
    """Raises `NotFound` if the agent of a new interaction was deleted meanwhile."""
    if row.agent_uid is None:
        return
    if connection.execute("SELECT 1 FROM agents WHERE id = ? AND deleted IS NULL", (row.agent_uid,)).fetchone() is None:
        raise NotFound(f"Agent {row.agent!r} not found.")
