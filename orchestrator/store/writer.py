"""The writer: one thread, the only connection that writes, group commit.

Imports `errors`, `moments` and `connection` only.

The thread takes whatever is queued, runs it in one transaction, commits once, and tells the loop in one call. There is
no timer: what arrives during a commit is the next group, so a lone caller waits for one fsync and fifty share one.

Each operation runs in a savepoint, so one that fails leaves its neighbours alone. Neighbours of one kind that can share
their statements run together, and each on its own if that fails. When SQLite gives up the transaction itself (disk
full, I/O error), each operation of the group is tried again alone: those that fit are kept.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from orchestrator import moments
from orchestrator.errors import StoreError
from orchestrator.store.connection import translated

T = TypeVar("T")
Item = TypeVar("Item")

_GROUP_LIMIT = 512
"""Operations per commit; more would only make the first of them wait."""


@dataclass(slots=True, eq=False)
class _Operation:
    work: Callable[[sqlite3.Connection], Any] | None
    then: Callable[[], None] | None
    future: asyncio.Future[Any]
    shared: Callable[[sqlite3.Connection, Sequence[Any]], None] | None = None
    """What does the work instead, for the items of all neighbours that have it too."""
    item: Any = None
    result: Any = None
    error: Exception | None = None


class Writer:
    """Runs operations durably, in the order in which they were given. Belongs to the loop that started it."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._is_open = False

    async def start(self) -> None:
        """Starts the thread, which calls `connect`; raises what that raises."""
        self._loop = asyncio.get_running_loop()
        connected: asyncio.Future[None] = self._loop.create_future()
        # A daemon: a process that fails before `aclose` must be able to end. What was not acknowledged is not promised.
        threading.Thread(target=self._main, args=(connected,), name="store-writer", daemon=True).start()
        await connected
        self._is_open = True

    async def aclose(self) -> None:
        """Commits what is queued, closes the connection, ends the thread. May be called twice, or without a start."""
        if self._loop is None:
            return
        if self._is_open:
            self._is_open = False
            self._queue.put(None)
        await self._stopped.wait()

    async def run(self, work: Callable[[sqlite3.Connection], T], then: Callable[[], None] | None = None) -> T:
        """What `work` returned, once it is durable.

        `work` runs in the writer's thread within a transaction, maybe more than once, so it touches nothing but the
        connection. `then` runs on the loop after the commit, before the caller goes on, also when the caller was
        cancelled meanwhile.

        Raises:
            CorralError: `work` raised it; nothing of `work` was kept.
            StoreError: the database refused (`retryable` when busy or full), or the writer is closed.
        """
        future: asyncio.Future[T] = self._promise()
        self._queue.put(_Operation(work, then, future))
        return await future

    async def run_together(
        self,
        work: Callable[[sqlite3.Connection, Sequence[Item]], None],
        item: Item,
        then: Callable[[], None] | None = None,
    ) -> None:
        """As `run`, for work that does many items at once, with the items of whoever called with the same `work`.

        `work` must raise if it cannot do all of its items; it is then called for each of them alone. With fifty appends
        at once this takes a third off the thread's time: each call of SQLite hands the interpreter back and forth.
        """
        future: asyncio.Future[None] = self._promise()
        self._queue.put(_Operation(None, then, future, work, item))
        await future

    def _promise(self) -> asyncio.Future[Any]:
        if not self._is_open or self._loop is None:
            raise StoreError("the store is closed")
        return self._loop.create_future()

    # The rest, but for `_settle`, runs in the thread.

    def _main(self, connected: asyncio.Future[None]) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # carried to `start`, which raises it
            self._tell(_fail, connected, error)
            self._tell(self._stopped.set)
            return
        self._tell(_succeed, connected, None)
        try:
            is_last = False
            while not is_last:
                group, is_last = self._take()
                if group:
                    _commit(connection, group)
                    self._tell(_settle, group)
        finally:
            connection.close()
            self._tell(self._stopped.set)

    def _take(self) -> tuple[list[_Operation], bool]:
        """The next group, at least one operation long, and whether it is the last (which may be empty)."""
        group: list[_Operation] = []
        operation = self._queue.get()
        while operation is not None:
            group.append(operation)
            if len(group) == _GROUP_LIMIT:
                return group, False
            try:
                operation = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None  # noqa: S101 - set before the thread started
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop was closed without `aclose`: nobody waits for an answer
            pass


def _commit(connection: sqlite3.Connection, group: list[_Operation]) -> None:
    """Runs the group in one transaction and leaves each operation with its result or its error."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        for operation in group:
            operation.error = translated(error)
        return
    try:
        for shared, neighbours in groupby(group, attrgetter("shared")):
            operations = list(neighbours)
            if shared is None or not _run_together(connection, shared, operations):
                for operation in operations:
                    _run(connection, operation)
        moments.passed("store.before_commit")
        connection.execute("COMMIT")
        moments.passed("store.after_commit")
    except sqlite3.Error as error:
        _roll_back(connection)
        if len(group) > 1:
            for operation in group:
                _commit(connection, [operation])
        elif group[0].error is None:
            group[0].error = translated(error)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:  # the transaction is over all the same; if not, the next BEGIN says so to its callers
            pass


def _run_together(
    connection: sqlite3.Connection,
    shared: Callable[[sqlite3.Connection, Sequence[Any]], None],
    operations: list[_Operation],
) -> bool:
    """Whether all could be done in one; if not, nothing was. Raises as `_run`."""
    if len(operations) == 1:
        return False
    connection.execute("SAVEPOINT together")
    try:
        shared(connection, [operation.item for operation in operations])
    except Exception as error:  # it comes again when its operation runs alone, and goes to its caller then
        _step_back(connection, "together", error)
        return False
    connection.execute("RELEASE together")
    for operation in operations:
        operation.error = None
    return True


def _run(connection: sqlite3.Connection, operation: _Operation) -> None:
    """Runs one operation in a savepoint.

    Raises:
        sqlite3.Error: the whole transaction is lost, the neighbours' part too.
    """
    operation.error = None
    connection.execute("SAVEPOINT operation")
    try:
        if operation.work is not None:
            operation.result = operation.work(connection)
        elif operation.shared is not None:
            operation.shared(connection, [operation.item])
    except Exception as error:  # carried to the caller, who awaits it; one caller's mistake must not end the thread
        operation.error = translated(error) if isinstance(error, sqlite3.Error) else error
        _step_back(connection, "operation", error)
        return
    connection.execute("RELEASE operation")


def _step_back(connection: sqlite3.Connection, savepoint: str, error: Exception) -> None:
    if not connection.in_transaction:
        raise sqlite3.OperationalError("SQLite gave up the transaction") from error
    connection.execute(f"ROLLBACK TO {savepoint}")
    connection.execute(f"RELEASE {savepoint}")


def _settle(group: list[_Operation]) -> None:
    for operation in group:
        if operation.error is None:
            if operation.then is not None:
                operation.then()
            _succeed(operation.future, operation.result)
        else:
            _fail(operation.future, operation.error)


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
