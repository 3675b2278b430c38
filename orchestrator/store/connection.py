"""Opening the database file, and turning what SQLite says into Corral's errors. Imports `errors` only.

Two kinds of connection: the one that writes, owned by the writer's thread, and those that only read. All are in
autocommit mode (`isolation_level=None`): transactions begin and end where the code says so.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from orchestrator.errors import StoreError

BUSY_TIMEOUT_MS = 5_000
"""How long to wait for another process's transaction: key administration beside a running server takes milliseconds."""

_WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""A write-ahead log that once grew beyond this is cut back."""

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_SPACE = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE})
"""Errors of input and output in whose place the file system says that it is full."""


def connect_writer(path: Path) -> sqlite3.Connection:
    """A connection that may write, in WAL mode with `synchronous=FULL`; makes the folder and the file if missing.

    Both are made for the owner alone. The connection may be used only by the thread that called.

    Raises:
        OSError: the folder or the file cannot be made.
        sqlite3.Error: the file is no database or does not allow WAL.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"journal mode is {mode!r}; the file system does not allow WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read, usable by any one thread at a time. The database must exist."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None,
                                 check_same_thread=False)  # fmt: skip
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


def translated(error: sqlite3.Error) -> StoreError:
    """What SQLite's error means here: `store_busy` and `store_full` may be tried again, `store_failed` may not."""
    detail = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = detail & 0xFF
    if code in _BUSY:
        meant = StoreError(f"the database is busy: {error}", code="store_busy", retryable=True)
    elif code == sqlite3.SQLITE_FULL or detail in _NO_SPACE:
        meant = StoreError("no space left for the database", code="store_full", retryable=True)
    else:
        meant = StoreError(f"the database refused: {error}")
    meant.__cause__ = error
    return meant
