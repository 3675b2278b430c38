"""Any story of appends, claims, notes, deletions, tails and reopenings, against a model of plain lists."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from orchestrator.errors import LeaseLost
from orchestrator.store.records import Event, NewEvent
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.clock import ManualClock
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.rows import environment_row, interaction_row

LIMIT_S = 10
SIZES_BYTES = st.lists(st.sampled_from([0, 1, 400, 20_000, 70_000]), max_size=6)


class Reader:
    """One tail, and the position up to which it must have delivered."""

    def __init__(self, log_id: str, after: int, tail: AsyncGenerator[list[Event], None]) -> None:
        self.log_id = log_id
        self.position = after
        self.tail = tail
        self.next: asyncio.Task[list[Event]] | None = None
        """A reader that waits, as most do."""


class StoreMachine(RuleBasedStateMachine):
    interactions = Bundle("interactions")
    environments = Bundle("environments")
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="store-machine-")
        self.clock = ManualClock()
        self.numbers = itertools.count()
        self.logs: dict[str, list[bytes]] = {}
        self.generations: dict[str, int] = {}
        self.live: list[Reader] = []

    def run(self, work: Any) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(LIMIT_S):
                return await work

        return self.runner.run(limited())

    def make_events(self, sizes: list[int]) -> list[NewEvent]:
        return [NewEvent("step.delta", b"%d:" % next(self.numbers) + b"x" * size) for size in sizes]

    @initialize()
    def open(self) -> None:
        self.store = SqliteStore(Path(self.folder.name) / "corral.db", self.clock)
        self.run(self.store.open())
        self.project = self.run(self.store.default_project()).id

    @rule(target=interactions, sizes=SIZES_BYTES)
    def create_interaction(self, sizes: list[int]) -> str:
        row, events = interaction_row(self.project, created=self.clock.now()), self.make_events(sizes)
        self.run(self.store.create_interaction(row, events))
        self.logs[row.id] = [event.body for event in events]
        self.generations[row.id] = row.generation
        return row.id

    @rule(target=environments)
    def create_environment(self) -> str:
        row = environment_row(self.project, created=self.clock.now())
        self.run(self.store.create_environment(row))
        self.logs[row.id] = []
        return row.id

    @rule(log_id=interactions, sizes=SIZES_BYTES, generation=st.integers(-1, 1), seq=st.sampled_from([0, 0, 0, -1, 1]))
    def append(self, log_id: str, sizes: list[int], generation: int, seq: int) -> None:
        """By the holder at the end of the log, or not quite."""
        self.clock.advance(0.001)
        events = self.make_events(sizes)
        log, held = self.logs.get(log_id), self.generations.get(log_id, 1)
        expected_seq = len(log or []) + 1 + seq
        append = self.store.append(log_id, events, generation=held + generation, expected_seq=expected_seq)
        if log is None or generation or seq:
            with pytest.raises(LeaseLost):
                self.run(append)
        else:
            self.run(append)
            log += [event.body for event in events]

    @rule(log_ids=st.lists(interactions, unique=True, max_size=4), sizes=SIZES_BYTES)
    def append_to_many_at_once(self, log_ids: list[str], sizes: list[int]) -> None:
        async def appends() -> list[BaseException | None]:
            return await asyncio.gather(
                *(
                    self.store.append(
                        log_id,
                        events,
                        generation=self.generations.get(log_id, 1),
                        expected_seq=len(self.logs.get(log_id, [])) + 1,
                    )
                    for log_id, events in batches.items()
                ),
                return_exceptions=True,
            )

        batches = {log_id: self.make_events(sizes) for log_id in log_ids}
        for (log_id, events), result in zip(batches.items(), self.run(appends()), strict=True):
            if log_id in self.logs:
                assert result is None
                self.logs[log_id] += [event.body for event in events]
            else:
                assert isinstance(result, LeaseLost)

    @rule(log_id=environments, sizes=SIZES_BYTES)
    def note(self, log_id: str, sizes: list[int]) -> None:
        events = self.make_events(sizes)
        self.run(self.store.note(log_id, events))
        if log_id in self.logs:
            self.logs[log_id] += [event.body for event in events]

    @rule(log_id=interactions, step=st.integers(-1, 2))
    def claim(self, log_id: str, step: int) -> None:
        generation = self.generations.get(log_id, 1) + step
        if log_id not in self.logs or step < 0:
            with pytest.raises(LeaseLost):
                self.run(self.store.claim(log_id, generation))
        else:
            self.run(self.store.claim(log_id, generation))
            self.generations[log_id] = generation

    @rule(log_id=st.one_of(interactions, environments), after=st.integers(-1, 12), limit=st.none() | st.integers(0, 5))
    def read(self, log_id: str, after: int, limit: int | None) -> None:
        events = self.run(self.store.read(log_id, after=after, limit=limit))
        expected = list(enumerate(self.logs.get(log_id, []), 1))[max(after, 0) :][:limit]
        assert [(event.seq, event.body) for event in events] == expected

    @rule(target=readers, log_id=st.one_of(interactions, environments), after=st.integers(0, 6), waits=st.booleans())
    def start_tail(self, log_id: str, after: int, waits: bool) -> Reader:
        reader = Reader(log_id, after, self.store.tail(log_id, after=after))
        self.live.append(reader)
        if waits:
            self.run(self.let_wait(reader))
        return reader

    async def let_wait(self, reader: Reader) -> None:
        reader.next = asyncio.create_task(anext(reader.tail))
        await asyncio.sleep(0)

    @rule(reader=readers)
    def catch_up(self, reader: Reader) -> None:
        """A tail delivers all that is stored after its position, or ends if the log is gone."""
        if reader in self.live:
            self.run(self.deliver(reader))

    async def deliver(self, reader: Reader) -> None:
        log = self.logs.get(reader.log_id)
        while log is None or reader.position < len(log):
            try:
                batch = await (reader.next or anext(reader.tail))
            except StopAsyncIteration:
                assert log is None, "a tail ended though its log is there"
                self.live.remove(reader)
                return
            reader.next = None
            assert log is not None, "a batch of a log that is gone"
            assert [event.seq for event in batch] == list(range(reader.position + 1, batch[-1].seq + 1))
            assert [event.body for event in batch] == log[reader.position : batch[-1].seq]
            reader.position = batch[-1].seq

    @rule(reader=consumes(readers))
    def leave(self, reader: Reader) -> None:
        if reader in self.live:
            self.live.remove(reader)
            self.run(self.stop(reader))

    async def stop(self, reader: Reader) -> None:
        if reader.next is not None:
            reader.next.cancel()
            await asyncio.wait([reader.next])
            if not reader.next.cancelled():
                reader.next.exception()
        await reader.tail.aclose()

    @rule(log_id=consumes(interactions))
    def delete_interaction(self, log_id: str) -> None:
        self.drop_batches_on_their_way(log_id)
        self.run(self.store.delete_interaction(log_id))
        self.logs.pop(log_id, None)
        self.generations.pop(log_id, None)

    @rule(target=environments, log_id=consumes(environments))
    def delete_environment(self, log_id: str) -> str:
        """The id stays in use: what is done to an environment that is gone must do nothing."""
        self.drop_batches_on_their_way(log_id)
        self.run(self.store.delete_environment(log_id))
        self.logs.pop(log_id, None)
        return log_id

    def drop_batches_on_their_way(self, log_id: str) -> None:
        for reader in [reader for reader in self.live if reader.log_id == log_id and reader.next is not None]:
            self.run(self.deliver(reader))

    @rule()
    def reopen(self) -> None:
        self.end()
        self.open()

    def end(self) -> None:
        self.run(assert_store_consistent(self.store))
        for reader in list(self.live):
            self.run(self.deliver(reader))
        waiting, self.live = self.live, []
        self.run(self.store.aclose())
        for reader in waiting:
            with pytest.raises(StopAsyncIteration):
                self.run(reader.next or anext(reader.tail))

    @invariant()
    def channels_are_only_for_readers(self) -> None:
        if hasattr(self, "store"):
            assert len(self.store._channels) <= len({reader.log_id for reader in self.live})

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.runner.close()
            self.folder.cleanup()


TestStoreMachine = pytest.mark.timeout(120)(StoreMachine.TestCase)
TestStoreMachine.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
