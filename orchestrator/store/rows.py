"""SQL of the resources' rows, for the SQLite store: functions of a connection, one statement or two each.

Knows the tables and how the port's rows are kept in them, nothing of threads, transactions or logs. Imports `port` and
`errors` only. `project_id` None sees every project; otherwise another project's row is as absent as an unknown one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.errors import InvalidRequest
from orchestrator.store.port import EnvironmentRow, InteractionRow, KeyRow, ProjectRow, RunKey, SandboxRow

Delete = Callable[[sqlite3.Connection, str, datetime], None]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_LARGEST_PAGE = 1_000_000


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def moment(at_us: int) -> datetime:
    """The inverse of `micros`."""
    return _EPOCH + timedelta(microseconds=at_us)


# projects and keys


def project(connection: sqlite3.Connection, name: str) -> ProjectRow | None:
    found = connection.execute("SELECT id, name, created FROM projects WHERE name = ?", (name,)).fetchone()
    return found and ProjectRow(found[0], found[1], moment(found[2]))


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
    " profile, template, snapshot, target, guest_id, stage_since FROM environments"
)


def _environment(found: Any) -> EnvironmentRow:
    row_id, project_id, status, sandbox_id, sandbox_ref, spec, created, updated, accessed, *rest = found
    profile, of_template, snapshot, target, guest_id, since = rest
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
    )


def insert_environment(connection: sqlite3.Connection, row: EnvironmentRow, base: str | None) -> None:
    if base is not None:
        connection.execute("INSERT OR IGNORE INTO templates (name, base) VALUES (?, ?)", (row.template, base))
    connection.execute(
        "INSERT INTO environments"
        " (id, project_id, status, sandbox_id, sandbox_ref, spec, created, updated, last_accessed,"
        " profile, template, snapshot, target, guest_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
    start = _start(connection, _START_ENVIRONMENTS, project_id, after)
    found = _page(connection, _ENVIRONMENT, {"project_id": project_id}, start, limit)
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


def delete_environment(connection: sqlite3.Connection, environment_id: str, now: datetime) -> None:
    """The row, and by trigger its log."""
    connection.execute(
        "INSERT INTO departed (id, project_id, created, deleted)"
        " SELECT id, project_id, created, ? FROM environments WHERE id = ?",
        (micros(now), environment_id),
    )
    connection.execute("DELETE FROM environments WHERE id = ?", (environment_id,))


# interactions

_INTERACTION = (
    "SELECT id, project_id, conversation, previous_id, environment_id, agent, status, is_background, generation, body,"
    " created, updated, cancelling FROM interactions JOIN requests ON interaction_id = id"
)


def _interaction(found: Any) -> InteractionRow:
    row_id, project_id, conversation, previous_id, environment_id, agent, status, *rest = found
    is_background, generation, request, created, updated, is_cancelling = rest
    return InteractionRow(
        row_id,
        project_id,
        conversation,
        previous_id,
        environment_id,
        agent,
        status,
        bool(is_background),
        generation,
        request,
        moment(created),
        moment(updated),
        bool(is_cancelling),
    )


def insert_interaction(connection: sqlite3.Connection, row: InteractionRow) -> None:
    connection.execute(
        "INSERT INTO interactions (id, project_id, conversation, previous_id, environment_id, agent, status,"
        " is_background, generation, created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id,
            row.project_id,
            row.conversation,
            row.previous_id,
            row.environment_id,
            row.agent,
            row.status,
            row.is_background,
            row.generation,
            micros(row.created),
            micros(row.updated),
        ),
    )
    connection.execute("INSERT INTO requests (interaction_id, body) VALUES (?, ?)", (row.id, row.request))


def interaction(connection: sqlite3.Connection, project_id: str | None, interaction_id: str) -> InteractionRow | None:
    found = connection.execute(
        f"{_INTERACTION} WHERE id = :id AND (:project_id IS NULL OR project_id = :project_id)",
        {"id": interaction_id, "project_id": project_id},
    ).fetchone()
    return found and _interaction(found)


def interactions(
    connection: sqlite3.Connection,
    project_id: str | None,
    environment_id: str | None,
    status: str | None,
    after: str | None,
    limit: int,
) -> list[InteractionRow]:
    start = _start(connection, _START_INTERACTIONS, project_id, after)
    wanted = {"project_id": project_id, "environment_id": environment_id, "status": status}
    return [_interaction(columns) for columns in _page(connection, _INTERACTION, wanted, start, limit)]


def run_keys(connection: sqlite3.Connection, status: str) -> list[RunKey]:
    found = connection.execute(
        "SELECT id, project_id, environment_id, cancelling FROM interactions"
        " WHERE status = ? ORDER BY created, id DESC",
        (status,),
    )
    return [
        RunKey(row_id, project_id, environment_id, bool(cancelling))
        for row_id, project_id, environment_id, cancelling in found
    ]


def request_cancel(connection: sqlite3.Connection, interaction_id: str) -> bool:
    asked = connection.execute(
        "UPDATE interactions SET cancelling = 1 WHERE id = ? AND status IN ('in_progress', 'requires_action')",
        (interaction_id,),
    )
    return asked.rowcount == 1


def latest_update(connection: sqlite3.Connection) -> datetime:
    """Of any interaction; 1970 if there is none."""
    (updated,) = connection.execute("SELECT coalesce(max(updated), 0) FROM interactions").fetchone()
    return moment(updated)


def is_interaction(connection: sqlite3.Connection, log_id: str) -> bool:
    return connection.execute("SELECT 1 FROM interactions WHERE id = ?", (log_id,)).fetchone() is not None


def delete_interaction(connection: sqlite3.Connection, interaction_id: str, now: datetime) -> None:
    """The row, and by trigger its log."""
    connection.execute(
        "INSERT INTO departed (id, project_id, created, deleted)"
        " SELECT id, project_id, created, ? FROM interactions WHERE id = ?",
        (micros(now), interaction_id),
    )
    connection.execute("DELETE FROM interactions WHERE id = ?", (interaction_id,))


# pages: newest first, rows of the same microsecond by id

_Start = tuple[int, str]
"""The `created` and `id` of the last row of the page before."""

_START_ENVIRONMENTS = """
SELECT created FROM environments WHERE id = :id AND (:project_id IS NULL OR project_id = :project_id)
UNION ALL SELECT created FROM departed WHERE id = :id AND (:project_id IS NULL OR project_id = :project_id)
"""
_START_INTERACTIONS = _START_ENVIRONMENTS.replace("environments", "interactions")


def _start(connection: sqlite3.Connection, select: str, project_id: str | None, after: str | None) -> _Start | None:
    if after is None:
        return None
    found = connection.execute(select, {"id": after, "project_id": project_id}).fetchone()
    if found is None:
        raise InvalidRequest("there is no row to continue after: list again from the first page")
    return found[0], after


def _page(
    connection: sqlite3.Connection, select: str, wanted: Mapping[str, str | None], start: _Start | None, limit: int
) -> list[Any]:
    """One page of `select`, of rows whose columns have the `wanted` values that are not None."""
    values: dict[str, str | int] = {name: value for name, value in wanted.items() if value is not None}
    conditions = [f"{name} = :{name}" for name in values]
    if start is not None:
        values["start_created"], values["start_id"] = start
        # The first comparison is implied by the rest; it is what lets SQLite begin in the middle of an index.
        conditions.append("created <= :start_created AND (created < :start_created OR id > :start_id)")
    values["limit"] = min(max(limit, 0), _LARGEST_PAGE)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return connection.execute(f"{select}{where} ORDER BY created DESC, id LIMIT :limit", values).fetchall()


def forget_departed(connection: sqlite3.Connection, before: datetime) -> None:
    """Drops what was remembered of rows that were deleted before that time."""
    connection.execute("DELETE FROM departed WHERE deleted < ?", (micros(before),))
