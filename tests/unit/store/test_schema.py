from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.store.schema import Migration, migrate, shipped_migrations

FIRST = Migration(1, "first", "CREATE TABLE a (n INTEGER);\n")
SECOND = Migration(
    2,
    "second",
    """-- a comment; with a semicolon
CREATE TABLE b (n INTEGER);
CREATE TRIGGER b_is_small BEFORE INSERT ON b WHEN NEW.n > 9
BEGIN
    SELECT RAISE(ABORT, 'too large; really');
END;
""",
)
BROKEN = Migration(2, "broken", "CREATE TABLE c (n INTEGER);\nINSERT INTO nowhere VALUES (1);\n")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    yield connection
    connection.close()


def tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def test_what_is_missing_is_applied_once(database: sqlite3.Connection) -> None:
    assert migrate(database, [FIRST], now_us=7) == 1
    assert migrate(database, [FIRST], now_us=8) == 0
    assert migrate(database, [FIRST, SECOND], now_us=9) == 1
    assert tables(database) == {"migrations", "a", "b"}
    assert database.execute("SELECT * FROM migrations ORDER BY version").fetchall() == [
        (1, "first", FIRST.sha256, 7),
        (2, "second", SECOND.sha256, 9),
    ]
    with pytest.raises(sqlite3.IntegrityError, match="too large; really"):
        database.execute("INSERT INTO b VALUES (10)")


def test_a_failing_migration_changes_nothing(database: sqlite3.Connection) -> None:
    migrate(database, [FIRST], now_us=1)
    with pytest.raises(sqlite3.OperationalError):
        migrate(database, [FIRST, BROKEN], now_us=2)
    assert tables(database) == {"migrations", "a"}
    assert not database.in_transaction
    assert migrate(database, [FIRST, SECOND], now_us=3) == 1


def test_a_database_from_the_future_is_refused_untouched(database: sqlite3.Connection) -> None:
    migrate(database, [FIRST, SECOND], now_us=1)
    with pytest.raises(ConfigError, match="newer Corral: its schema is number 2, this version knows 1"):
        migrate(database, [FIRST], now_us=2)
    assert not database.in_transaction
    assert migrate(database, [FIRST, SECOND], now_us=3) == 0


def test_a_changed_migration_is_refused(database: sqlite3.Connection) -> None:
    migrate(database, [FIRST], now_us=1)
    changed = Migration(1, "first", FIRST.sql + "-- only a comment\n")
    with pytest.raises(ConfigError, match="0001_first differs"):
        migrate(database, [changed, SECOND], now_us=2)
    assert tables(database) == {"migrations", "a"}


def test_another_programs_database_is_refused_untouched(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE photos (n INTEGER)")
    with pytest.raises(ConfigError, match="database of something else"):
        migrate(database, [FIRST], now_us=1)
    assert tables(database) == {"photos"}


def test_an_unfinished_statement_is_found(database: sqlite3.Connection) -> None:
    with pytest.raises(ValueError, match="0003 ends within a statement"):
        list(Migration(3, "open", "CREATE TABLE d (n INTEGER)").statements())


def test_shipped_migrations_are_numbered_without_gaps_and_apply(database: sqlite3.Connection) -> None:
    shipped = shipped_migrations()
    assert [migration.version for migration in shipped] == list(range(1, len(shipped) + 1))
    assert shipped[0].name == "first"
    assert migrate(database, shipped, now_us=1) == len(shipped)
    assert {"projects", "keys", "environments", "interactions", "events"} <= tables(database)
