from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError, StoreError
from orchestrator.ids import new_interaction_id
from orchestrator.store.connection import translated
from orchestrator.store.paging import micros, moment
from orchestrator.store.records import NewEvent
from orchestrator.store.sqlite import BATCH_BYTES, SqliteStore
from tests.fakes.clock import ManualClock
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.rows import deltas, environment_row, interaction_row, key_hash, key_row

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "data" / "corral.db", ManualClock())
    await store.open()
    yield store
    await store.aclose()


@contextmanager
def direct(store: SqliteStore) -> Iterator[sqlite3.Connection]:
    """A connection of its own, to do what the store never does."""
    connection = sqlite3.connect(store.path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    yield connection
    connection.close()


async def new_log(store: SqliteStore, events: int = 0) -> str:
    row = interaction_row((await store.default_project()).id)
    await store.create_interaction(row, deltas(events))
    return row.id


async def test_commits_are_durable_and_the_file_is_its_owners(store: SqliteStore) -> None:
    settings = await store._writer.run(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    )
    assert settings == ["wal", 2, 1]  # 2 is FULL
    await new_log(store)
    for name in ("corral.db", "corral.db-wal", "corral.db-shm"):
        assert stat.S_IMODE((store.path.parent / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


async def test_a_clean_close_leaves_one_file(store: SqliteStore) -> None:
    await new_log(store, events=3)
    await store.aclose()
    assert [path.name for path in store.path.parent.iterdir()] == ["corral.db"]


async def test_readers_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="readonly"):
        await store._readers.run(lambda connection: connection.execute("DELETE FROM projects"))


async def test_events_never_change_and_go_only_with_their_owner(store: SqliteStore) -> None:
    log = await new_log(store, events=3)
    environment = environment_row((await store.default_project()).id)
    await store.create_environment(environment)
    await store.note(environment.id, deltas(2))
    with direct(store) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="events never change"):
            connection.execute("UPDATE events SET body = x'00'")
        for owner in (log, environment.id):
            with pytest.raises(sqlite3.IntegrityError, match="only with their owner"):
                connection.execute("DELETE FROM events WHERE log_id = ?", (owner,))
    assert len(await store.read(log)) == 3
    await store.delete_interaction(log)
    await store.delete_environment(environment.id)
    with direct(store) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM requests").fetchone() == (0,)


async def test_only_the_digest_of_a_key_is_kept(store: SqliteStore) -> None:
    await store.create_key(key_row((await store.default_project()).id), key_hash("corral_very-secret"))
    await store.aclose()
    contents = store.path.read_bytes()
    assert b"very-secret" not in contents
    assert key_hash("corral_very-secret") in contents


async def test_key_administration_works_beside_a_running_server(store: SqliteStore) -> None:
    log = await new_log(store)
    project = await store.default_project()
    beside = SqliteStore(store.path, ManualClock())
    await beside.open()
    key = key_row(project.id)

    async def append() -> None:
        for seq in range(1, 101):
            await store.append(log, deltas(1), generation=1, expected_seq=seq)

    await asyncio.gather(append(), beside.create_key(key, key_hash("a")))
    assert await store.find_key(key_hash("a")) == key
    await beside.revoke_key(key.id)
    assert await store.find_key(key_hash("a")) is None
    await beside.aclose()
    assert len(await store.read(log)) == 100
    await assert_store_consistent(store)


async def test_two_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "corral.db", ManualClock()) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert len({(await store.default_project()).id for store in stores}) == 1
    given = await asyncio.gather(*(store.next_generation() for store in stores))
    assert len(set(given)) == 4
    for store in stores:
        await store.aclose()


async def test_a_full_disk_refuses_and_the_store_goes_on(store: SqliteStore) -> None:
    log = await new_log(store, events=1)
    tail = store.tail(log, after=1)

    async def limit_pages(pages: int) -> None:
        await store._writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchall())

    await limit_pages(1)  # SQLite keeps what it has
    seq = 2
    with pytest.raises(StoreError) as refused:
        while True:
            await store.append(log, [NewEvent("tool.output", b"z" * 9_000)], generation=1, expected_seq=seq)
            seq += 1
    assert (refused.value.code, refused.value.retryable) == ("store_full", True)
    assert len(await store.read(log)) == seq - 1
    await assert_store_consistent(store)

    await limit_pages(100_000)
    await store.append(log, [NewEvent("tool.output", b"z" * 9_000)], generation=1, expected_seq=seq)
    assert [event.seq for event in await anext(tail)] == list(range(2, seq + 1))
    assert len(await store.read(log)) == seq


async def test_what_is_reserved_is_for_what_runs_already(tmp_path: Path) -> None:
    path = tmp_path / "corral.db"
    roomy = SqliteStore(path, ManualClock())
    await roomy.open()
    log = await new_log(roomy, events=1)
    project = (await roomy.default_project()).id
    environment = environment_row(project)
    await roomy.create_environment(environment)
    await roomy.aclose()

    store = SqliteStore(path, ManualClock(), reserve_bytes=1 << 60)
    await store.open()
    refusals: list[StoreError] = []
    for new_work in (
        store.check(),
        store.create_environment(environment_row(project)),
        store.create_interaction(interaction_row(project), deltas(1)),
    ):
        with pytest.raises(StoreError) as refused:
            await new_work
        refusals.append(refused.value)
    assert [(each.code, each.retryable) for each in refusals] == [("store_full", True)] * 3
    await store.append(log, deltas(1), generation=1, expected_seq=2, status="completed")
    await store.note(environment.id, deltas(1))
    await store.update_environment(environment.id, status="stopped")
    await store.delete_environment(environment.id)
    await assert_store_consistent(store)
    await store.aclose()


def test_no_room_for_the_shared_index_is_a_full_disk() -> None:
    refused = sqlite3.OperationalError("disk I/O error")
    refused.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert (translated(refused).code, translated(refused).retryable) == ("store_full", True)
    refused.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    assert (translated(refused).code, translated(refused).retryable) == ("store_failed", False)


async def test_large_events_come_in_small_batches(store: SqliteStore) -> None:
    log = await new_log(store)
    sizes = [10, BATCH_BYTES - 10, 1, BATCH_BYTES * 3, 5, 5]
    await store.append(log, [NewEvent("tool.output", b"z" * size) for size in sizes], generation=1, expected_seq=1)
    tail = store.tail(log)
    batches = [[len(event.body) for event in await anext(tail)] for _ in range(4)]
    assert batches == [[10, BATCH_BYTES - 10], [1], [BATCH_BYTES * 3], [5, 5]]


async def test_a_tail_leaves_no_channel_behind(store: SqliteStore) -> None:
    log = await new_log(store, events=1)
    tail = store.tail(log)
    await anext(tail)
    assert len(store._channels) == 1
    await tail.aclose()
    assert len(store._channels) == 0
    async for _ in store.tail(new_interaction_id()):
        pass
    assert len(store._channels) == 0


@pytest.mark.parametrize("limit", [0, -1, 10**30])
async def test_odd_limits_are_bounded(store: SqliteStore, limit: int) -> None:
    await new_log(store)
    assert len(await store.interactions(None, limit=limit)) == (1 if limit > 0 else 0)


async def test_garbage_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "corral.db"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    store = SqliteStore(path, ManualClock())
    with pytest.raises(ConfigError, match=r"corral\.db cannot be used: file is not a database"):
        await store.open()
    await store.aclose()
    assert path.read_bytes().startswith(b"not a database")


async def test_an_impossible_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"corral\.db cannot be used: File exists: .*/file"):
        await SqliteStore(tmp_path / "file" / "corral.db", ManualClock()).open()


async def test_a_database_from_the_future_is_refused_with_its_name(store: SqliteStore) -> None:
    await store.aclose()
    with direct(store) as connection:
        connection.execute("INSERT INTO migrations SELECT max(version) + 1, 'later', 'x', 0 FROM migrations")
    with pytest.raises(ConfigError, match=r"corral\.db: the database is from a newer Corral"):
        await SqliteStore(store.path, ManualClock()).open()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("DROP TRIGGER events_go_with_their_owner; DELETE FROM events WHERE seq = 2", "has gaps"),
        ("UPDATE interactions SET status = 'completed'", "its log says 'in_progress'"),
        ("UPDATE interactions SET updated = 0", "InteractionRow"),
        ("INSERT INTO events VALUES ('nobody', 1, 0, 'k', x'00')", "without an owner"),
    ],
)
async def test_the_consistency_check_finds_damage(store: SqliteStore, damage: str, complaint: str) -> None:
    log = await new_log(store, events=2)
    update = NewEvent("interaction.status_update", b'{"status":"in_progress"}')
    await store.append(log, [update], generation=1, expected_seq=3)
    await assert_store_consistent(store)
    with direct(store) as connection:
        connection.executescript(damage)
    with pytest.raises(AssertionError, match=complaint):
        await assert_store_consistent(store)


def test_times_survive_to_the_microsecond() -> None:
    for at in (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)):
        assert moment(micros(at)) == at
    with pytest.raises(TypeError):
        micros(datetime(2026, 1, 1))  # noqa: DTZ001 - a naive time is what must be refused
