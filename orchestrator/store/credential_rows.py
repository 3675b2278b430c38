"""SQL of credentials, for the SQLite store: functions of a connection, as in `rows`.

Imports `records`, `paging` and `errors` only. What is sealed comes and goes as bytes.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

from orchestrator.errors import Conflict, LimitExceeded, NotFound
from orchestrator.store.paging import depart, micros, moment, page, start_of
from orchestrator.store.records import CredentialRow

_LISTED = "SELECT id, project_id, name, type, version, created, updated, key_id, sealed IS NULL, NULL FROM credentials"
_WHOLE = "SELECT id, project_id, name, type, version, created, updated, key_id, sealed IS NULL, sealed FROM credentials"


def _credential(found: Any) -> CredentialRow:
    uid, project_id, name, type_, version, created, updated, key_id, is_revoked, sealed = found
    times = (moment(created), moment(updated))
    return CredentialRow(uid, project_id, name, type_, version, *times, key_id, bool(is_revoked), sealed)


def insert_credential(connection: sqlite3.Connection, row: CredentialRow, limit: int) -> None:
    (count,) = connection.execute("SELECT count(*) FROM credentials WHERE project_id = ?", (row.project_id,)).fetchone()
    if count >= limit:
        raise LimitExceeded(f"The project has {limit} credentials already; delete some.", retryable=False)
    if credential(connection, row.project_id, row.name) is not None:
        raise Conflict(f"Credential {row.name!r} exists already.")
    connection.execute(
        "INSERT INTO credentials (id, project_id, name, type, version, created, updated, key_id, sealed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.uid,
            row.project_id,
            row.name,
            row.type,
            row.version,
            micros(row.created),
            micros(row.updated),
            row.key_id,
            row.sealed,
        ),
    )


def credential(connection: sqlite3.Connection, project_id: str, name: str) -> CredentialRow | None:
    found = connection.execute(f"{_WHOLE} WHERE project_id = ? AND name = ?", (project_id, name)).fetchone()
    return found and _credential(found)


def credentials(connection: sqlite3.Connection, project_id: str, after: str | None, limit: int) -> list[CredentialRow]:
    start = start_of(connection, "credentials", project_id, after)
    return [_credential(found) for found in page(connection, _LISTED, {"project_id": project_id}, start, limit)]


def replace_credential(connection: sqlite3.Connection, row: CredentialRow) -> None:
    """Its next version; what is sealed, with which key, and when it was changed."""
    done = connection.execute(
        "UPDATE credentials SET version = ?, updated = max(updated, ?), key_id = ?, sealed = ?"
        " WHERE id = ? AND version = ? - 1 AND sealed IS NOT NULL",
        (row.version, micros(row.updated), row.key_id, row.sealed, row.uid, row.version),
    )
    if done.rowcount == 0:
        found = connection.execute("SELECT sealed IS NULL FROM credentials WHERE id = ?", (row.uid,)).fetchone()
        if found is None:
            raise NotFound(f"Credential {row.name!r} not found.")
        raise Conflict(f"Credential {row.name!r} {'is revoked' if found[0] else 'was changed meanwhile'}.")


def revoke_credential(connection: sqlite3.Connection, uid: str, now: datetime) -> None:
    """Forgets what is sealed, for good."""
    connection.execute(
        "UPDATE credentials SET sealed = NULL, version = version + 1, updated = max(updated, ?)"
        " WHERE id = ? AND sealed IS NOT NULL",
        (micros(now), uid),
    )


def delete_credential(connection: sqlite3.Connection, uid: str, now: datetime) -> None:
    depart(connection, "credentials", uid, now)


def sealing_key_ids(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("SELECT DISTINCT key_id FROM credentials WHERE sealed IS NOT NULL")
    return {key_id for (key_id,) in found}


def credentials_of_other_keys(connection: sqlite3.Connection, key_id: str, limit: int) -> list[CredentialRow]:
    found = connection.execute(
        f"{_WHOLE} WHERE key_id != ? AND sealed IS NOT NULL ORDER BY id LIMIT ?", (key_id, max(limit, 0))
    )
    return [_credential(columns) for columns in found]


def reseal_credential(connection: sqlite3.Connection, row: CredentialRow, key_id: str, sealed: bytes) -> None:
    """Nothing, if it is not what it was any more."""
    connection.execute(
        "UPDATE credentials SET key_id = ?, sealed = ? WHERE id = ? AND version = ?",
        (key_id, sealed, row.uid, row.version),
    )
