"""SQL of interactions and of the calls that created them, for the SQLite store: functions of a connection.

As `rows`, of which it is the other half. Imports `records` and `paging` only.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime
from typing import Any

from orchestrator.store.paging import depart, micros, moment, page, start_of
from orchestrator.store.records import CreateCall, InteractionFilter, InteractionRow, RunKey

_INTERACTION = (
    "SELECT id, project_id, conversation, previous_id, environment_id, agent, status, is_background, generation, body,"
    " created, updated, cancelling, is_model, is_stored, tier, labels, agent_id, agent_version"
    " FROM interactions JOIN requests ON interaction_id = id"
)


def _interaction(found: Any) -> InteractionRow:
    row_id, project_id, conversation, previous_id, environment_id, agent, status, *rest = found
    is_background, generation, request, created, updated, is_cancelling, is_model, is_stored, *rest = rest
    tier, labels, agent_uid, agent_version = rest
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
        bool(is_model),
        bool(is_stored),
        tier,
        None if labels is None else json.loads(labels),
        agent_uid,
        agent_version,
    )


def insert_interaction(connection: sqlite3.Connection, row: InteractionRow) -> None:
    connection.execute(
        "INSERT INTO interactions (id, project_id, conversation, previous_id, environment_id, agent, status,"
        " is_background, generation, created, updated, is_model, is_stored, tier, labels, agent_id, agent_version)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            row.is_model,
            row.is_stored,
            row.tier,
            json.dumps(row.labels, sort_keys=True) if row.labels else None,
            row.agent_uid,
            row.agent_version,
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
    wanted: InteractionFilter,
    after: str | None,
    limit: int,
) -> list[InteractionRow]:
    start = start_of(connection, "interactions", project_id, after)
    columns: dict[str, str | int | None] = {
        "project_id": project_id,
        "environment_id": wanted.environment_id,
        "status": wanted.status,
        "agent": wanted.agent,
        "previous_id": wanted.previous_id,
        "conversation": wanted.conversation,
        "is_stored": 1 if wanted.only_stored else None,
    }
    further: list[tuple[str, dict[str, str | int]]] = [
        (
            f"json_extract(labels, :key{number}) = :label{number}",
            {f"key{number}": f'$."{key}"', f"label{number}": value},
        )
        for number, (key, value) in enumerate(wanted.labels.items())
    ]
    if wanted.created_from is not None:
        further.append(("created >= :created_from", {"created_from": micros(wanted.created_from)}))
    if wanted.created_before is not None:
        further.append(("created < :created_before", {"created_before": micros(wanted.created_before)}))
    found = page(connection, _INTERACTION, columns, start, limit, further=further)
    return [_interaction(each) for each in found]


def run_keys(connection: sqlite3.Connection, status: str) -> list[RunKey]:
    found = connection.execute(
        "SELECT id, project_id, environment_id, cancelling, tier FROM interactions"
        " WHERE status = ? ORDER BY created, id DESC",
        (status,),
    )
    return [
        RunKey(row_id, project_id, environment_id, bool(cancelling), tier)
        for row_id, project_id, environment_id, cancelling, tier in found
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
    depart(connection, "interactions", interaction_id, now)


def expired(connection: sqlite3.Connection, project_id: str, before: datetime, limit: int) -> list[str]:
    """Ids of ended interactions of which nothing was written since `before`, oldest first."""
    # Nothing is updated before it is created: with `created` the index finds them. There is none by `updated`, which
    # every append would have to rewrite.
    found = connection.execute(
        "SELECT id FROM interactions WHERE project_id = :project_id AND created < :before AND updated < :before"
        " AND status != 'in_progress' ORDER BY created LIMIT :limit",
        {"project_id": project_id, "before": micros(before), "limit": limit},
    )
    return [row_id for (row_id,) in found]


# create calls


def insert_call(connection: sqlite3.Connection, interaction_id: str, call: CreateCall) -> None:
    connection.execute(
        "INSERT INTO creates (interaction_id, scope, key, digest, generation) VALUES (?, ?, ?, ?, ?)",
        (interaction_id, call.scope, call.key, call.digest, call.generation),
    )


def call_by_key(connection: sqlite3.Connection, scope: str, key: str) -> tuple[str, bytes] | None:
    """The interaction of an idempotency key, and the digest of what it was made of."""
    found = connection.execute(
        "SELECT interaction_id, digest FROM creates WHERE scope = ? AND key = ?", (scope, key)
    ).fetchone()
    return found and (found[0], bytes(found[1]))


def unanswered_call(connection: sqlite3.Connection, scope: str, digest: bytes, lost_since: datetime) -> str | None:
    """The latest interaction made of an equal request whose caller left, since then, without an answer."""
    found = connection.execute(
        "SELECT interaction_id FROM creates WHERE scope = ? AND digest = ? AND delivered IS NULL AND key IS NULL"
        " AND lost >= ? ORDER BY lost DESC LIMIT 1",
        (scope, digest, micros(lost_since)),
    ).fetchone()
    return found and str(found[0])


def note_answer(connection: sqlite3.Connection, interaction_id: str, *, was_delivered: bool, now: datetime) -> None:
    """The caller has its answer, or has left without it. Who has it has it, whatever is noted later."""
    column = "delivered" if was_delivered else "lost"
    connection.execute(
        f"UPDATE creates SET {column} = ? WHERE interaction_id = ? AND delivered IS NULL",
        (micros(now), interaction_id),
    )


def await_answer(connection: sqlite3.Connection, interaction_id: str, generation: int) -> None:
    """The call came again and waits at the server of that generation."""
    connection.execute(
        "UPDATE creates SET lost = NULL, generation = ? WHERE interaction_id = ? AND delivered IS NULL",
        (generation, interaction_id),
    )


def lose_answers(connection: sqlite3.Connection, generation: int, now: datetime) -> None:
    """Servers before that generation can give none any more."""
    connection.execute(
        "UPDATE creates SET lost = ? WHERE delivered IS NULL AND lost IS NULL AND generation < ?",
        (micros(now), generation),
    )


def forget_calls(connection: sqlite3.Connection, lost_before: datetime, keys_before: datetime) -> None:
    """Drops what nobody can repeat any more: answered, lost before that time, or with a key that is older than that."""
    connection.execute(
        "DELETE FROM creates WHERE key IS NULL AND (delivered IS NOT NULL OR lost < ?)", (micros(lost_before),)
    )
    connection.execute(
        "DELETE FROM creates WHERE key IS NOT NULL AND interaction_id IN"
        " (SELECT id FROM interactions WHERE created < ? AND status != 'in_progress')",
        (micros(keys_before),),
    )


def unstored(connection: sqlite3.Connection, lost_before: datetime) -> list[str]:
    """Interactions that are not to be kept and that nobody will ask for: answered, or left before that time."""
    found = connection.execute(
        "SELECT id FROM interactions LEFT JOIN creates ON interaction_id = id WHERE is_stored = 0"
        " AND (interaction_id IS NULL OR delivered IS NOT NULL OR lost < ?)",
        (micros(lost_before),),
    )
    return [row_id for (row_id,) in found]
