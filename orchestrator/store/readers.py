"""The readers: a few read-only connections in threads of their own. Imports `errors` and `connection` only.

The pool is small because reads are short and Python runs one of them at a time; it is not the loop's default pool,
where a slow container engine could hold every thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import StoreError
from orchestrator.store.connection import connect_reader, translated

T = TypeVar("T")

READERS = 3


class Readers:
    """Runs reads off the loop, each in its own snapshot of what is committed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        # As many as threads, so a running job always finds one. A list's `append` and `pop` are atomic.
        self._idle: list[sqlite3.Connection] = []
        self._is_open = False

    async def start(self) -> None:
        """Opens the connections. Raises `StoreError` if the database cannot be read."""
        await self._each(self._connect)
        self._is_open = True

    async def aclose(self) -> None:
        """Waits for reads that run, closes the connections. May be called twice."""
        if self._is_open:
            self._is_open = False
            await self._each(partial(self._disconnect, threading.Barrier(READERS)))
        self._pool.shutdown(wait=False)

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """What `read` returns. Cancelling the caller does not stop the thread, it only drops the answer.

        Raises:
            StoreError: the database refused, or the store is closed.
        """
        if not self._is_open:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._lend, read)

    async def _each(self, job: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for done in [loop.run_in_executor(self._pool, job) for _ in range(READERS)]:
            await done

    def _connect(self) -> None:
        try:
            self._idle.append(connect_reader(self._path))
        except sqlite3.Error as error:
            raise translated(error) from error

    def _disconnect(self, all_threads: threading.Barrier) -> None:
        all_threads.wait()  # one that still reads has a connection that another one would look for
        self._idle.pop().close()

    def _lend(self, read: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._idle.pop()
        try:
            return read(connection)
        except sqlite3.Error as error:
            raise translated(error) from error
        finally:
            self._idle.append(connection)
