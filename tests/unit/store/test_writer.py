from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.errors import LeaseLost, StoreError
from orchestrator.store.connection import connect_writer
from orchestrator.store.writer import Writer

pytestmark = pytest.mark.anyio

BUSY_TIMEOUT_MS = 50


class TracedWriter:
    """A writer on a table `t (n INTEGER UNIQUE)` that remembers the statements that SQLite ran."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statements: list[str] = []
        self.writer = Writer(self._connect)

    def _connect(self) -> sqlite3.Connection:
        connection = connect_writer(self.path)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER UNIQUE, body BLOB)")
        connection.set_trace_callback(self.statements.append)
        return connection

    def commits(self) -> int:
        return self.statements.count("COMMIT")

    def numbers(self) -> list[int]:
        """What is committed, as another connection sees it, in the order of insertion."""
        connection = sqlite3.connect(self.path)
        found = [n for (n,) in connection.execute("SELECT n FROM t ORDER BY rowid")]
        connection.close()
        return found


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[TracedWriter]:
    traced = TracedWriter(tmp_path / "w.db")
    await traced.writer.start()
    yield traced
    await traced.writer.aclose()


def insert(number: int, body_bytes: int = 0) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?, zeroblob(?))", (number, body_bytes))
        return number

    return work


def insert_then_raise(number: int, error: Exception) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        insert(number)(connection)
        raise error

    return work


async def outcomes(traced: TracedWriter, *works: Callable[[sqlite3.Connection], int]) -> list[int | BaseException]:
    """Gives all operations at once, so that they come to one group (or, if the thread is quick, two)."""
    return await asyncio.gather(*(traced.writer.run(work) for work in works), return_exceptions=True)


async def test_operations_given_at_once_share_a_commit_and_keep_their_order(traced: TracedWriter) -> None:
    assert await outcomes(traced, *(insert(n) for n in range(200))) == list(range(200))
    assert traced.numbers() == list(range(200))
    assert 1 <= traced.commits() <= 20


async def test_one_operation_alone_is_one_commit(traced: TracedWriter) -> None:
    for n in range(3):
        await traced.writer.run(insert(n))
    assert traced.commits() == 3


async def test_a_failing_operation_leaves_nothing_and_spoils_nobody(traced: TracedWriter) -> None:
    results = await outcomes(
        traced,
        insert(1),
        insert_then_raise(2, LeaseLost("held by another")),
        insert(3),
        insert(1),
        insert_then_raise(4, ZeroDivisionError()),
        insert(5),
    )
    assert [type(result).__name__ for result in results] == [
        "int", "LeaseLost", "int", "StoreError", "ZeroDivisionError", "int"
    ]  # fmt: skip
    assert isinstance(results[3], StoreError)
    assert not results[3].retryable
    assert traced.numbers() == [1, 3, 5]


async def test_an_error_ends_only_its_own_operation(traced: TracedWriter) -> None:
    with pytest.raises(ZeroDivisionError):
        await traced.writer.run(insert_then_raise(1, ZeroDivisionError()))
    assert await traced.writer.run(insert(2)) == 2


async def test_what_does_not_fit_fails_and_what_fits_is_kept(traced: TracedWriter) -> None:
    def limit_pages(pages: int) -> Callable[[sqlite3.Connection], int]:
        return lambda connection: int(connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()[0])

    await traced.writer.run(limit_pages(20))
    results = await outcomes(traced, insert(1), insert(2, body_bytes=1_000_000), insert(3))
    assert [type(result) for result in results] == [int, StoreError, int]
    assert isinstance(results[1], StoreError)
    assert (results[1].code, results[1].retryable) == ("store_full", True)
    assert traced.numbers() == [1, 3]

    await traced.writer.run(limit_pages(2_000))
    await traced.writer.run(insert(2, body_bytes=1_000_000))
    assert traced.numbers() == [1, 3, 2]


async def test_a_lost_transaction_is_done_again_one_by_one(traced: TracedWriter) -> None:
    """SQLite gives up the whole transaction on some errors; an operation that rolls back stands for them."""

    def lose(connection: sqlite3.Connection) -> int:
        connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("lost")

    results = await outcomes(traced, insert(1), insert(2), lose, insert(3))
    assert [type(result) for result in results] == [int, int, StoreError, int]
    assert traced.numbers() == [1, 2, 3]


async def test_neighbours_that_can_share_run_together_unless_one_fails(traced: TracedWriter) -> None:
    calls: list[list[int]] = []

    def insert_all(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
        calls.append(list(numbers))
        connection.executemany("INSERT INTO t VALUES (?, NULL)", [(number,) for number in numbers])

    async def together(*numbers: int) -> list[str]:
        hold = threading.Event()
        held = asyncio.create_task(traced.writer.run(lambda _: hold.wait(5)))  # the thread is busy while they queue
        calls.clear()
        shared = [asyncio.create_task(traced.writer.run_together(insert_all, number)) for number in numbers]
        await asyncio.sleep(0.01)
        hold.set()
        await held
        return [type(result).__name__ for result in await asyncio.gather(*shared, return_exceptions=True)]

    assert await together(1, 2, 3) == ["NoneType"] * 3
    assert calls == [[1, 2, 3]]
    assert await together(4, 2, 5) == ["NoneType", "StoreError", "NoneType"]
    assert calls == [[4, 2, 5], [4], [2], [5]]
    assert await together(6) == ["NoneType"]
    assert calls == [[6]]
    assert traced.numbers() == [1, 2, 3, 4, 5, 6]


async def test_busy_elsewhere_is_retryable(traced: TracedWriter) -> None:
    other = sqlite3.connect(traced.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results = await outcomes(traced, insert(1), insert(2), insert(3))
    assert [(result.code, result.retryable) for result in results if isinstance(result, StoreError)] == [
        ("store_busy", True)
    ] * 3
    other.execute("ROLLBACK")
    other.close()
    assert await traced.writer.run(insert(4)) == 4
    assert traced.numbers() == [4]


async def test_a_cancelled_callers_write_and_its_announcement_still_happen(traced: TracedWriter) -> None:
    announced: list[str] = []
    task = asyncio.create_task(traced.writer.run(insert(1), lambda: announced.append("one")))
    await asyncio.sleep(0)
    task.cancel()
    await traced.writer.run(insert(2), lambda: announced.append("two"))
    assert task.cancelled()
    assert announced == ["one", "two"]
    assert traced.numbers() == [1, 2]


async def test_a_failed_write_is_not_announced(traced: TracedWriter) -> None:
    announced: list[str] = []
    with pytest.raises(LeaseLost):
        await traced.writer.run(insert_then_raise(1, LeaseLost("gone")), lambda: announced.append("one"))
    assert announced == []


async def test_closing_finishes_the_queue_and_then_refuses(traced: TracedWriter) -> None:
    writes = [asyncio.create_task(traced.writer.run(insert(n))) for n in range(600)]
    await asyncio.sleep(0)
    await asyncio.gather(traced.writer.aclose(), traced.writer.aclose())
    assert await asyncio.gather(*writes) == list(range(600))
    assert traced.numbers() == list(range(600))
    with pytest.raises(StoreError):
        await traced.writer.run(insert(1_000))


async def test_a_writer_that_cannot_connect_says_why() -> None:
    def connect() -> sqlite3.Connection:
        raise StoreError("no such place")

    writer = Writer(connect)
    with pytest.raises(StoreError, match="no such place"):
        await writer.start()
    with pytest.raises(StoreError):
        await writer.run(insert(1))
    await writer.aclose()


async def test_a_writer_that_never_started_closes() -> None:
    await Writer(lambda: sqlite3.connect(":memory:")).aclose()
