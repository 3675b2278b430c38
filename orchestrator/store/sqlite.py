"""The store on SQLite: `SqliteStore`. Imports this folder, `errors`, `ids` and `clock`; its rows' SQL is in `rows`.

Writes go through `writer` (one thread, group commit), reads through `readers` (a few read-only connections), and what
is appended reaches those who tail it through `channel`. Each method is one transaction.

One process writes interactions and logs, the one that holds the data folder's lock (`lock`); key administration may use
the same file from another process.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.errors import ConfigError, LeaseLost, StoreError
from orchestrator.ids import new_project_id
from orchestrator.store import agent_rows, credential_rows, interaction_rows, paging, rows
from orchestrator.store.channel import Channels
from orchestrator.store.connection import connect_writer, translated
from orchestrator.store.paging import micros, moment
from orchestrator.store.port import Store
from orchestrator.store.readers import Readers
from orchestrator.store.records import (
    ANY_INTERACTION,
    AgentRow,
    CreateCall,
    CredentialRow,
    EnvironmentRow,
    Event,
    InteractionFilter,
    InteractionRow,
    KeyRow,
    NewEvent,
    ProjectRow,
    RunKey,
    SandboxRow,
)
from orchestrator.store.schema import migrate, shipped_migrations
from orchestrator.store.writer import Writer

DEFAULT_PROJECT = "default"

BATCH_BYTES = 64 * 1024
"""A tail's batch from the database has more only if one event alone has. A thousand stalled readers hold one each."""

_KEEP_DEPARTED = timedelta(days=1)
_LARGEST = 2**63 - 1
"""SQLite's integers end here; a caller's position may be anything."""

_INSERT_EVENT = "INSERT INTO events (log_id, seq, at, kind, body) VALUES (?, ?, ?, ?, ?)"
_READ_EVENTS = "SELECT seq, at, kind, body FROM events WHERE log_id = ? AND seq > ? ORDER BY seq LIMIT ?"
_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM events WHERE log_id = ?"
_LAST_EVENT = "SELECT seq, at FROM events WHERE log_id = ? ORDER BY seq DESC LIMIT 1"

# Check and change in one statement: it matches no row unless lease and position are right. Two forms, because setting a
# status, even to what it is, rewrites the entry of an index.
_HELD = (
    "id = ? AND generation = ? AND ? = (SELECT coalesce(max(seq), 0) + 1 FROM events WHERE log_id = interactions.id)"
)
_ADVANCE = f"UPDATE interactions SET updated = ? WHERE {_HELD}"
_ADVANCE_TO_STATUS = f"UPDATE interactions SET updated = ?, status = ? WHERE {_HELD}"


class SqliteStore(Store):
    """Everything durable in one file, `path`. Belongs to the event loop that opened it; cannot be opened again."""

    def __init__(self, path: Path, clock: Clock, *, reserve_bytes: int = 0) -> None:
        """`reserve_bytes` of the file system are for what runs already: new work is refused before they are used."""
        self.path = path
        self._clock = clock
        self._reserve_bytes = reserve_bytes
        self._latest = moment(0)
        """No interaction was updated later."""
        self._writer = Writer(self._connect)
        self._readers = Readers(path)
        self._channels = Channels()

    # life

    async def open(self) -> None:
        await self._writer.start()
        await self._readers.start()
        self._latest = await self._readers.run(interaction_rows.latest_update)

    async def aclose(self) -> None:
        self._channels.end_all()
        await self._readers.aclose()
        await self._writer.aclose()  # the last connection: SQLite folds the write-ahead log into the file

    async def check(self) -> None:
        def work(connection: sqlite3.Connection) -> None:
            self._check_room()
            connection.execute("UPDATE generations SET last = last")

        await self._writer.run(work)

    async def next_generation(self) -> int:
        return await self.raise_generation(1)

    async def raise_generation(self, at_least: int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            connection.execute("UPDATE generations SET last = max(last + 1, ?)", (at_least,))
            (last,) = connection.execute("SELECT last FROM generations").fetchone()
            return int(last)

        return await self._writer.run(work)

    # projects and keys

    async def default_project(self) -> ProjectRow:
        return await self.ensure_project(DEFAULT_PROJECT)

    async def ensure_project(self, name: str) -> ProjectRow:
        found = await self._readers.run(partial(rows.project, name=name))
        if found is not None:
            return found
        row = ProjectRow(new_project_id(), name, self._clock.now())
        return await self._writer.run(partial(rows.ensure_project, row=row))

    async def projects(self) -> list[ProjectRow]:
        return await self._readers.run(rows.projects)

    async def set_retention(self, name: str, days: int | None) -> ProjectRow | None:
        return await self._writer.run(partial(rows.set_retention, name=name, days=days))

    async def create_key(self, key: KeyRow, key_hash: bytes) -> None:
        await self._writer.run(partial(rows.insert_key, row=key, key_hash=key_hash))

    async def keys(self) -> list[KeyRow]:
        return await self._readers.run(rows.keys)

    async def revoke_key(self, key_id: str) -> KeyRow | None:
        return await self._writer.run(partial(rows.revoke_key, key_id=key_id, now=self._clock.now()))

    async def find_key(self, key_hash: bytes) -> KeyRow | None:
        return await self._readers.run(partial(rows.find_key, key_hash=key_hash))

    # environments

    async def create_environment(self, row: EnvironmentRow, base: str | None = None) -> None:
        def work(connection: sqlite3.Connection) -> None:
            self._check_room()
            rows.insert_environment(connection, row, base)

        await self._writer.run(work)

    async def template(self, name: str) -> str | None:
        return await self._readers.run(partial(rows.template, name=name))

    async def drop_unused_templates(self) -> None:
        await self._writer.run(rows.drop_unused_templates)

    async def environment(self, project_id: str | None, environment_id: str) -> EnvironmentRow | None:
        return await self._readers.run(partial(rows.environment, project_id=project_id, environment_id=environment_id))

    async def environments(
        self, project_id: str | None, *, after: str | None = None, limit: int = 50
    ) -> list[EnvironmentRow]:
        return await self._readers.run(partial(rows.environments, project_id=project_id, after=after, limit=limit))

    async def sandbox_rows(self) -> list[SandboxRow]:
        return await self._readers.run(rows.sandbox_rows)

    async def count_environments(self, project_id: str) -> int:
        return await self._readers.run(partial(rows.count_environments, project_id=project_id))

    async def update_environment(
        self,
        environment_id: str,
        *,
        status: str | None = None,
        sandbox_id: str | None = None,
        sandbox_ref: str | None = None,
        spec: str | None = None,
        snapshot: str | None = None,
        target: str | None = None,
        guest_id: str | None = None,
        accessed: bool = False,
    ) -> None:
        changes = {
            "status": status,
            "sandbox_id": sandbox_id,
            "sandbox_ref": sandbox_ref,
            "spec": spec,
            "snapshot": snapshot,
            "target": target,
            "guest_id": guest_id,
        }
        now = self._clock.now()
        await self._writer.run(
            partial(rows.update_environment, environment_id=environment_id, changes=changes, accessed=accessed, now=now)
        )

    async def note_size(self, environment_id: str, *, file_count: int, size_bytes: int) -> None:
        await self._writer.run(
            partial(rows.note_size, environment_id=environment_id, file_count=file_count, size_bytes=size_bytes)
        )

    async def note_traffic(self, environment_id: str, *, more_bytes: int) -> None:
        await self._writer.run(partial(rows.note_traffic, environment_id=environment_id, more_bytes=more_bytes))

    async def delete_environment(self, environment_id: str) -> None:
        await self._delete(rows.delete_environment, environment_id)

    # agents

    async def create_agent(self, row: AgentRow, *, limit: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            self._check_room()
            agent_rows.insert_agent(connection, row, limit)

        await self._writer.run(work)

    async def add_agent_version(self, row: AgentRow, *, limit: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            self._check_room()
            agent_rows.insert_version(connection, row, limit)

        await self._writer.run(work)

    async def agent(self, project_id: str, name: str, version: int | None = None) -> AgentRow | None:
        return await self._readers.run(
            partial(agent_rows.agent, project_id=project_id, name=name, version=_bounded(version))
        )

    async def recorded_agent(self, uid: str, version: int) -> AgentRow | None:
        return await self._readers.run(partial(agent_rows.recorded_agent, uid=uid, version=version))

    async def agents(self, project_id: str, *, after: str | None = None, limit: int = 50) -> list[AgentRow]:
        return await self._readers.run(partial(agent_rows.agents, project_id=project_id, after=after, limit=limit))

    async def agent_versions(self, uid: str, *, before: int | None = None, limit: int = 50) -> list[AgentRow]:
        return await self._readers.run(
            partial(agent_rows.agent_versions, uid=uid, before=_bounded(before), limit=limit)
        )

    async def agent_snapshots(self) -> set[str]:
        return await self._readers.run(agent_rows.agent_snapshots)

    async def delete_agent(self, uid: str) -> None:
        await self._delete(agent_rows.delete_agent, uid)

    # credentials

    async def create_credential(self, row: CredentialRow, *, limit: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            self._check_room()
            credential_rows.insert_credential(connection, row, limit)

        await self._writer.run(work)

    async def credential(self, project_id: str, name: str) -> CredentialRow | None:
        return await self._readers.run(partial(credential_rows.credential, project_id=project_id, name=name))

    async def credentials(self, project_id: str, *, after: str | None = None, limit: int = 50) -> list[CredentialRow]:
        return await self._readers.run(
            partial(credential_rows.credentials, project_id=project_id, after=after, limit=limit)
        )

    async def replace_credential(self, row: CredentialRow) -> None:
        await self._writer.run(partial(credential_rows.replace_credential, row=row))

    async def revoke_credential(self, uid: str) -> None:
        await self._writer.run(partial(credential_rows.revoke_credential, uid=uid, now=self._clock.now()))

    async def delete_credential(self, uid: str) -> None:
        await self._writer.run(partial(credential_rows.delete_credential, uid=uid, now=self._clock.now()))

    async def sealing_key_ids(self) -> set[str]:
        return await self._readers.run(credential_rows.sealing_key_ids)

    async def credentials_of_other_keys(self, key_id: str, *, limit: int) -> list[CredentialRow]:
        return await self._readers.run(partial(credential_rows.credentials_of_other_keys, key_id=key_id, limit=limit))

    async def reseal_credential(self, row: CredentialRow, key_id: str, sealed: bytes) -> None:
        await self._writer.run(partial(credential_rows.reseal_credential, row=row, key_id=key_id, sealed=sealed))

    # interactions

    async def create_interaction(
        self,
        row: InteractionRow,
        events: Sequence[NewEvent],
        environment: EnvironmentRow | None = None,
        base: str | None = None,
        call: CreateCall | None = None,
    ) -> None:
        self._latest = max(self._latest, row.updated)
        stamped = _stamped(events, 1, row.updated)

        def work(connection: sqlite3.Connection) -> None:
            self._check_room()
            if environment is not None:
                rows.insert_environment(connection, environment, base)
            agent_rows.check_recorded(connection, row)
            interaction_rows.insert_interaction(connection, row)
            if call is not None:
                interaction_rows.insert_call(connection, row.id, call)
            _insert(connection, row.id, stamped)

        await self._writer.run(work, partial(self._channels.publish, row.id, stamped))

    async def interaction(self, project_id: str | None, interaction_id: str) -> InteractionRow | None:
        return await self._readers.run(
            partial(interaction_rows.interaction, project_id=project_id, interaction_id=interaction_id)
        )

    async def interactions(
        self,
        project_id: str | None,
        wanted: InteractionFilter = ANY_INTERACTION,
        *,
        after: str | None = None,
        limit: int = 50,
    ) -> list[InteractionRow]:
        return await self._readers.run(
            partial(interaction_rows.interactions, project_id=project_id, wanted=wanted, after=after, limit=limit)
        )

    async def expired(self, project_id: str, before: datetime, limit: int) -> list[str]:
        return await self._readers.run(
            partial(interaction_rows.expired, project_id=project_id, before=before, limit=limit)
        )

    # create calls

    async def find_call(self, scope: str, key: str) -> tuple[str, bytes] | None:
        return await self._readers.run(partial(interaction_rows.call_by_key, scope=scope, key=key))

    async def find_unanswered(self, scope: str, digest: bytes, lost_since: datetime) -> str | None:
        return await self._readers.run(
            partial(interaction_rows.unanswered_call, scope=scope, digest=digest, lost_since=lost_since)
        )

    async def note_answer(self, interaction_id: str, *, was_delivered: bool) -> None:
        now = self._clock.now()
        await self._writer.run(
            partial(interaction_rows.note_answer, interaction_id=interaction_id, was_delivered=was_delivered, now=now)
        )

    async def await_answer(self, interaction_id: str, generation: int) -> None:
        await self._writer.run(
            partial(interaction_rows.await_answer, interaction_id=interaction_id, generation=generation)
        )

    async def lose_answers(self, generation: int) -> None:
        await self._writer.run(partial(interaction_rows.lose_answers, generation=generation, now=self._clock.now()))

    async def forget_calls(self, *, lost_before: datetime, keys_before: datetime) -> None:
        await self._writer.run(partial(interaction_rows.forget_calls, lost_before=lost_before, keys_before=keys_before))

    async def unstored(self, lost_before: datetime) -> list[str]:
        return await self._readers.run(partial(interaction_rows.unstored, lost_before=lost_before))

    async def run_keys(self, status: str) -> list[RunKey]:
        return await self._readers.run(partial(interaction_rows.run_keys, status=status))

    async def request_cancel(self, interaction_id: str) -> bool:
        return await self._writer.run(partial(interaction_rows.request_cancel, interaction_id=interaction_id))

    async def delete_interaction(self, interaction_id: str) -> None:
        await self._delete(interaction_rows.delete_interaction, interaction_id)

    # logs

    async def claim(self, interaction_id: str, generation: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            claimed = connection.execute(
                "UPDATE interactions SET generation = :generation WHERE id = :id AND generation <= :generation",
                {"id": interaction_id, "generation": generation},
            )
            if claimed.rowcount != 1:
                raise _lease_lost(connection, interaction_id, generation)

        await self._writer.run(work)

    async def append(
        self,
        interaction_id: str,
        events: Sequence[NewEvent],
        *,
        generation: int,
        expected_seq: int,
        status: str | None = None,
    ) -> None:
        now = self._clock.now()
        stamped = _stamped(events, expected_seq, now)
        append = _Append(interaction_id, generation, expected_seq, status, micros(now), stamped)
        publish = partial(self._channels.publish, interaction_id, stamped)
        if now < self._latest:  # the clock was put back, maybe behind the end of this log
            await self._writer.run(partial(_append_later, append=append), publish)
        else:
            self._latest = now
            await self._writer.run_together(_append_all, append, publish)

    async def note(self, log_id: str, events: Sequence[NewEvent]) -> None:
        stamped: list[Event] = []
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> None:
            if not rows.is_environment(connection, log_id):
                if interaction_rows.is_interaction(connection, log_id):
                    raise StoreError(f"{log_id} is an interaction's log; only the holder of its lease appends to it")
                return
            seq, at = connection.execute(_LAST_EVENT, (log_id,)).fetchone() or (0, 0)
            stamped[:] = _stamped(events, seq + 1, max(now, moment(at)))
            _insert(connection, log_id, stamped)

        await self._writer.run(work, lambda: self._channels.publish(log_id, stamped))

    async def read(self, log_id: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        def read(connection: sqlite3.Connection) -> list[Event]:
            return list(_events(connection, log_id, after, limit))

        return await self._readers.run(read)

    async def tail(self, log_id: str, *, after: int = 0) -> AsyncGenerator[list[Event], None]:
        position = after
        with self._channels.join(log_id) as channel:
            while not channel.has_ended:
                news = channel.news
                batch = channel.after(position)
                if batch is None:
                    batch = await self._readers.run(partial(_batch, log_id=log_id, after=position))
                    if batch is None:
                        return
                if batch:
                    position = batch[-1].seq
                    yield batch
                else:
                    await news.wait()

    # inside

    def _connect(self) -> sqlite3.Connection:
        """Runs in the writer's thread."""
        try:
            connection = connect_writer(self.path)
        except OSError as error:
            raise ConfigError(f"the database {self.path} cannot be used: {error.strerror}: {error.filename}") from error
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            migrate(connection, shipped_migrations(), now_us=micros(self._clock.now()))
        except sqlite3.Error as error:
            connection.close()
            raise self._unusable(error) from error
        except ConfigError as error:
            connection.close()
            raise ConfigError(f"{self.path}: {error.message}") from error
        return connection

    def _unusable(self, error: sqlite3.Error) -> StoreError | ConfigError:
        meant = translated(error)
        return meant if meant.retryable else ConfigError(f"the database {self.path} cannot be used: {error}")

    def _check_room(self) -> None:
        """Runs in the writer's thread."""
        if self._reserve_bytes and shutil.disk_usage(self.path.parent).free < self._reserve_bytes:
            raise StoreError(
                f"the data folder has less than {self._reserve_bytes >> 20} MiB left: new work is refused",
                code="store_full",
                retryable=True,
            )

    async def _delete(self, delete: rows.Delete, row_id: str) -> None:
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> None:
            delete(connection, row_id, now)
            paging.forget_departed(connection, now - _KEEP_DEPARTED)

        await self._writer.run(work, partial(self._channels.end, row_id))


@dataclass(slots=True)
class _Append:
    log_id: str
    generation: int
    expected_seq: int
    status: str | None
    at_us: int
    events: list[Event]


def _bounded(number: int | None) -> int | None:
    """A caller's number may be anything."""
    return None if number is None else min(max(number, 0), _LARGEST)


def _stamped(events: Sequence[NewEvent], first_seq: int, at: datetime) -> list[Event]:
    return [Event(seq, at, event.kind, event.body) for seq, event in enumerate(events, first_seq)]


def _append_later(connection: sqlite3.Connection, append: _Append) -> None:
    """Appends one, not before the row's last update."""
    found = connection.execute("SELECT updated FROM interactions WHERE id = ?", (append.log_id,)).fetchone()
    append.at_us = max(append.at_us, found[0] if found else 0)
    append.events[:] = [replace(event, at=moment(append.at_us)) for event in append.events]
    _append_all(connection, [append])


def _append_all(connection: sqlite3.Connection, appends: Sequence[_Append]) -> None:
    """Raises `LeaseLost` unless each of them may append; the reason that it gives is the first one's."""
    advances = [(a.at_us, a.log_id, a.generation, a.expected_seq) for a in appends if a.status is None]
    ends = [(a.at_us, a.status, a.log_id, a.generation, a.expected_seq) for a in appends if a.status is not None]
    held = 0
    if advances:
        held += connection.executemany(_ADVANCE, advances).rowcount
    if ends:
        held += connection.executemany(_ADVANCE_TO_STATUS, ends).rowcount
    if held != len(appends):
        raise _lease_lost(connection, appends[0].log_id, appends[0].generation, appends[0].expected_seq)
    connection.executemany(
        _INSERT_EVENT, [(a.log_id, event.seq, a.at_us, event.kind, event.body) for a in appends for event in a.events]
    )


def _insert(connection: sqlite3.Connection, log_id: str, events: Sequence[Event]) -> None:
    connection.executemany(
        _INSERT_EVENT, [(log_id, event.seq, micros(event.at), event.kind, event.body) for event in events]
    )


def _events(connection: sqlite3.Connection, log_id: str, after: int, limit: int | None) -> Generator[Event, None, None]:
    bounds = (min(max(after, 0), _LARGEST), -1 if limit is None else min(max(limit, 0), _LARGEST))
    with closing(connection.execute(_READ_EVENTS, (log_id, *bounds))) as cursor:
        for seq, at, kind, body in cursor:
            yield Event(seq, moment(at), kind, body)


def _batch(connection: sqlite3.Connection, log_id: str, after: int) -> list[Event] | None:
    """The next events of a log up to about `BATCH_BYTES`; None if there are none and nobody owns the log (any more)."""
    batch: list[Event] = []
    size_bytes = 0
    with closing(_events(connection, log_id, after, None)) as events:
        for event in events:
            size_bytes += len(event.body)
            if batch and size_bytes > BATCH_BYTES:
                break
            batch.append(event)
    if (
        not batch
        and not interaction_rows.is_interaction(connection, log_id)
        and not rows.is_environment(connection, log_id)
    ):
        return None
    return batch


def _lease_lost(
    connection: sqlite3.Connection, interaction_id: str, generation: int, expected_seq: int | None = None
) -> LeaseLost:
    """Says which of the three it was. Runs where nothing was written yet."""
    found = connection.execute("SELECT generation FROM interactions WHERE id = ?", (interaction_id,)).fetchone()
    if found is None:
        return LeaseLost(f"interaction {interaction_id} is gone")
    if expected_seq is None or found[0] != generation:
        return LeaseLost(f"interaction {interaction_id} is held by generation {found[0]}, not by {generation}")
    (last,) = connection.execute(_LAST_SEQ, (interaction_id,)).fetchone()
    return LeaseLost(f"the log of interaction {interaction_id} goes on at {last + 1}, not at {expected_seq}")
