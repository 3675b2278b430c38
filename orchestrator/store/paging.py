"""Pages of listings, for the SQLite store: newest first, rows of the same microsecond by id.

Functions of a connection. Where a deleted row stood is remembered for a day, so that who deletes while listing finds
the next page. Imports `errors` only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.errors import InvalidRequest

Start = tuple[int, str]
"""The `created` and `id` of the last row of the page before."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LARGEST_PAGE = 1_000_000


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def moment(at_us: int) -> datetime:
    """The inverse of `micros`."""
    return _EPOCH + timedelta(microseconds=at_us)


def start_of(connection: sqlite3.Connection, table: str, project_id: str | None, after: str | None) -> Start | None:
    """Where a page begins that follows the row `after`, which may have been deleted.

    Raises:
        InvalidRequest: there was no such row for this project, or it is forgotten.
    """
    if after is None:
        return None
    found = connection.execute(
        f"SELECT created FROM {table} WHERE id = :id AND (:project_id IS NULL OR project_id = :project_id)"
        " UNION ALL SELECT created FROM departed WHERE id = :id AND (:project_id IS NULL OR project_id = :project_id)",
        {"id": after, "project_id": project_id},
    ).fetchone()
    if found is None:
        raise InvalidRequest("there is no row to continue after: list again from the first page")
    return found[0], after


def page(
    connection: sqlite3.Connection,
    select: str,
    wanted: Mapping[str, str | int | None],
    start: Start | None,
    limit: int,
    *,
    further: Sequence[tuple[str, Mapping[str, str | int]]] = (),
) -> list[Any]:
    """One page of `select`, of rows whose columns have the `wanted` values that are not None.

    `further` are conditions with their values, by names of their own.
    """
    values: dict[str, str | int] = {name: value for name, value in wanted.items() if value is not None}
    conditions = [f"{name} = :{name}" for name in values]
    for condition, its in further:
        conditions.append(condition)
        values |= its
    if start is not None:
        values["start_created"], values["start_id"] = start
        # The first comparison is implied by the rest; it is what lets SQLite begin in the middle of an index.
        conditions.append("created <= :start_created AND (created < :start_created OR id > :start_id)")
    values["limit"] = min(max(limit, 0), _LARGEST_PAGE)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return connection.execute(f"{select}{where} ORDER BY created DESC, id LIMIT :limit", values).fetchall()


def depart(connection: sqlite3.Connection, table: str, row_id: str, now: datetime) -> None:
    """Deletes a row, and by trigger its log; where it stood is remembered."""
    connection.execute(
        f"INSERT OR REPLACE INTO departed (id, project_id, created, deleted)"
        f" SELECT id, project_id, created, ? FROM {table} WHERE id = ?",
        (micros(now), row_id),
    )
    connection.execute(f"DELETE FROM {table} WHERE id = ?", (row_id,))


def forget_departed(connection: sqlite3.Connection, before: datetime) -> None:
    """Drops what was remembered of rows that were deleted before that time."""
    connection.execute("DELETE FROM departed WHERE deleted < ?", (micros(before),))
