"""SQL of projects, keys and environments, for the SQLite store: functions of a connection, one statement or two each.

Knows the tables and how the port's rows are kept in them, nothing of threads, transactions or logs; interactions have a
file of their own. Imports `records` and `paging` only. `project_id` None sees every project; otherwise another
project's row is as absent as an unknown one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from orchestrator.store.paging import depart, micros, moment, page, start_of
from orchestrator.store.records import EnvironmentRow, KeyRow, ProjectRow, SandboxRow

Delete = Callable[[sqlite3.Connection, str, datetime], None]

# projects and keys


_PROJECT = "SELECT id, name, created, retention_days FROM projects"


def _project(found: Any) -> ProjectRow:
    row_id, name, created, retention_days = found
    return ProjectRow(row_id, name, moment(created), retention_days)


def project(connection: sqlite3.Connection, name: str) -> ProjectRow | None:
    found = connection.execute(f"{_PROJECT} WHERE name = ?", (name,)).fetchone()
    return found and _project(found)


def projects(connection: sqlite3.Connection) -> list[ProjectRow]:
    return [_project(found) for found in connection.execute(f"{_PROJECT} ORDER BY created, id")]


def set_retention(connection: sqlite3.Connection, name: str, days: int | None) -> ProjectRow | None:
    connection.execute("UPDATE projects SET retention_days = ? WHERE name = ?", (days, name))
    return project(connection, name)


def ensure_project(connection: sqlite3.Connection, row: ProjectRow) -> ProjectRow:
    """`row`, or the project that has its name already."""
    connection.execute(
        "INSERT INTO projects (id, name, created) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING",
        (row.id, row.name, micros(row.created)),
    )
    return project(connection, row.name) or row


_KEY = "SELECT id, project_id, name, prefix, is_operator, created, revoked FROM keys"


def _key(found: Any) -> KeyRow:
    key_id, project_id, name, prefix, is_operator, created, revoked = found
    revoked_at = None if revoked is None else moment(revoked)
    return KeyRow(key_id, project_id, name, prefix, bool(is_operator), moment(created), revoked_at)


def insert_key(connection: sqlite3.Connection, row: KeyRow, key_hash: bytes) -> None:
    connection.execute(
        "INSERT INTO keys (id, project_id, name, prefix, hash, is_operator, created, revoked)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id,
            row.project_id,
            row.name,
            row.prefix,
            key_hash,
            row.is_operator,
            micros(row.created),
            None if row.revoked is None else micros(row.revoked),
        ),
    )


def keys(connection: sqlite3.Connection) -> list[KeyRow]:
    return [_key(found) for found in connection.execute(f"{_KEY} ORDER BY created, id")]


def find_key(connection: sqlite3.Connection, key_hash: bytes) -> KeyRow | None:
    found = connection.execute(f"{_KEY} WHERE hash = ? AND revoked IS NULL", (key_hash,)).fetchone()
    return found and _key(found)


def revoke_key(connection: sqlite3.Connection, key_id: str, now: datetime) -> KeyRow | None:
    connection.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (micros(now), key_id))
    found = connection.execute(f"{_KEY} WHERE id = ?", (key_id,)).fetchone()
    return found and _key(found)


# environments

_ENVIRONMENT = (
    "SELECT id, project_id, status, sandbox_id, sandbox_ref, spec, created, updated, last_accessed,"
    " profile, template, snapshot, target, guest_id, stage_since, file_count, size_bytes, traffic_bytes"
    " FROM environments"
)


def _environment(found: Any) -> EnvironmentRow:
    row_id, project_id, status, sandbox_id, sandbox_ref, spec, created, updated, accessed, *rest = found
    profile, of_template, snapshot, target, guest_id, since, file_count, size_bytes, traffic_bytes = rest
    return EnvironmentRow(
        row_id,
        project_id,
        status,
        sandbox_id,
        sandbox_ref,
        spec,
        moment(created),
        moment(updated),
        moment(accessed),
        profile,
        of_template,
        snapshot,
        target,
        guest_id,
        None if since is None else moment(since),
        file_count,
        size_bytes,
        traffic_bytes,
    )


def insert_environment(connection: sqlite3.Connection, row: EnvironmentRow, base: str | None) -> None:
    if base is not None:
        connection.execute("INSERT OR IGNORE INTO templates (name, base) VALUES (?, ?)", (row.template, base))
    connection.execute(
        "INSERT INTO environments"
        " (id, project_id, status, sandbox_id, sandbox_ref, spec, created, updated, last_accessed,"
        " profile, template, snapshot, target, guest_id, file_count, size_bytes, traffic_bytes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id,
            row.project_id,
            row.status,
            row.sandbox_id,
            row.sandbox_ref,
            row.spec,
            micros(row.created),
            micros(row.updated),
            micros(row.last_accessed),
            row.profile,
            row.template,
            row.snapshot,
            row.target,
            row.guest_id,
            row.file_count,
            row.size_bytes,
            row.traffic_bytes,
        ),
    )


def environment(connection: sqlite3.Connection, project_id: str | None, environment_id: str) -> EnvironmentRow | None:
    found = connection.execute(
        f"{_ENVIRONMENT} WHERE id = :id AND (:project_id IS NULL OR project_id = :project_id)",
        {"id": environment_id, "project_id": project_id},
    ).fetchone()
    return found and _environment(found)


def sandbox_rows(connection: sqlite3.Connection) -> list[SandboxRow]:
    found = connection.execute(
        "SELECT id, status, target, sandbox_id, sandbox_ref, snapshot, template, last_accessed FROM environments"
        " ORDER BY last_accessed, id"
    )
    return [_sandbox(columns) for columns in found]


def _sandbox(found: Any) -> SandboxRow:
    row_id, status, target, sandbox_id, sandbox_ref, snapshot, of_template, accessed = found
    return SandboxRow(row_id, status, target, sandbox_id, sandbox_ref, snapshot, of_template, moment(accessed))


def count_environments(connection: sqlite3.Connection, project_id: str) -> int:
    (count,) = connection.execute("SELECT count(*) FROM environments WHERE project_id = ?", (project_id,)).fetchone()
    return int(count)


def environments(
    connection: sqlite3.Connection, project_id: str | None, after: str | None, limit: int
) -> list[EnvironmentRow]:
    start = start_of(connection, "environments", project_id, after)
    found = page(connection, _ENVIRONMENT, {"project_id": project_id}, start, limit)
    return [_environment(columns) for columns in found]


def template(connection: sqlite3.Connection, name: str) -> str | None:
    found = connection.execute("SELECT base FROM templates WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])


def drop_unused_templates(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM templates WHERE NOT EXISTS (SELECT 1 FROM environments WHERE template = templates.name)"
    )


def is_environment(connection: sqlite3.Connection, log_id: str) -> bool:
    return connection.execute("SELECT 1 FROM environments WHERE id = ?", (log_id,)).fetchone() is not None


def update_environment(
    connection: sqlite3.Connection,
    environment_id: str,
    changes: Mapping[str, str | None],
    accessed: bool,
    now: datetime,
) -> None:
    """Sets the columns of `changes` that are not None; "" clears a nullable one. Moves `updated` only if any is set."""
    connection.execute(
        """
        UPDATE environments SET
            status = coalesce(:status, status),
            sandbox_id = CASE WHEN :sandbox_id IS NULL THEN sandbox_id ELSE nullif(:sandbox_id, '') END,
            sandbox_ref = CASE WHEN :sandbox_ref IS NULL THEN sandbox_ref ELSE nullif(:sandbox_ref, '') END,
            spec = coalesce(:spec, spec),
            snapshot = CASE WHEN :snapshot IS NULL THEN snapshot ELSE nullif(:snapshot, '') END,
            target = CASE WHEN :target IS NULL THEN target ELSE nullif(:target, '') END,
            guest_id = CASE WHEN :guest_id IS NULL THEN guest_id ELSE nullif(:guest_id, '') END,
            stage_since = CASE WHEN :status != status THEN :now ELSE stage_since END,
            updated = CASE WHEN :is_changed THEN max(updated, :now) ELSE updated END,
            last_accessed = CASE WHEN :accessed THEN :now ELSE last_accessed END
        WHERE id = :id
        """,
        {
            **changes,
            "id": environment_id,
            "is_changed": any(value is not None for value in changes.values()),
            "accessed": accessed,
            "now": micros(now),
        },
    )


def note_size(connection: sqlite3.Connection, environment_id: str, file_count: int, size_bytes: int) -> None:
    connection.execute(
        "UPDATE environments SET file_count = ?, size_bytes = ? WHERE id = ?", (file_count, size_bytes, environment_id)
    )


def note_traffic(connection: sqlite3.Connection, environment_id: str, more_bytes: int) -> None:
    connection.execute(
        "UPDATE environments SET traffic_bytes = traffic_bytes + ? WHERE id = ?", (more_bytes, environment_id)
    )


def delete_environment(connection: sqlite3.Connection, environment_id: str, now: datetime) -> None:
    """The row, and by trigger its log."""
    depart(connection, "environments", environment_id, now)
