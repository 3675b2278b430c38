"""Numbered migrations: loading them, checking what a database has had, applying what it lacks. Imports `errors` only.

A migration is a file `migrations/NNNN_name.sql`. The table `migrations` holds the number, name and SHA-256 of each one
that was applied. Forward only: a database with a migration that this version does not know, or knows with other
contents, is refused and left as it is.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from orchestrator.errors import ConfigError

_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    version INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,
    sha256  TEXT NOT NULL,
    applied INTEGER NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    """1, 2, 3 … without gaps."""
    name: str
    """The file's name without number and ending."""
    sql: str

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the text; any change, comments included, makes another one."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """The text cut into single statements; the body of a trigger stays whole."""
        statement = ""
        for line in self.sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                yield statement
                statement = ""
        if statement.strip():
            raise ValueError(f"migration {self.version:04} ends within a statement")


def shipped_migrations() -> list[Migration]:
    """The migrations of this version of Corral, in order."""
    folder = resources.files("orchestrator.store") / "migrations"
    found = []
    for entry in folder.iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration], *, now_us: int) -> int:
    """Checks the database against `migrations` and applies those that it lacks, in one transaction.

    Returns how many were applied. Two processes that do this at once wait for each other.

    Raises:
        ConfigError: the database is not ours, is from a newer Corral, or had a migration that reads differently here.
        sqlite3.Error: a statement failed; nothing was changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        applied = _check(connection, migrations)
        missing = migrations[applied:]
        for migration in missing:
            for statement in migration.statements():
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations (version, name, sha256, applied) VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, migration.sha256, now_us),
            )
        connection.execute("COMMIT")
        return len(missing)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> int:
    """How many of `migrations` the database has had, from the first on."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and "migrations" not in tables:
        raise ConfigError("the file is a database of something else; name another data folder")
    connection.execute(_TABLE)
    applied = connection.execute("SELECT version, name, sha256 FROM migrations ORDER BY version").fetchall()
    if len(applied) > len(migrations):
        raise ConfigError(
            f"the database is from a newer Corral: its schema is number {applied[-1][0]}, this version knows "
            f"{len(migrations)}; run the newer version, or name another data folder"
        )
    for (version, name, sha256), known in zip(applied, migrations, strict=False):
        if (version, sha256) != (known.version, known.sha256):
            raise ConfigError(
                f"the database was made by another build: its migration {version:04}_{name} differs from this "
                f"version's {known.version:04}_{known.name}; run the build that made it, or name another data folder"
            )
    return len(applied)
