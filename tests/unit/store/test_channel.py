from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from orchestrator.store.channel import BATCH_BYTES, BATCH_EVENTS, FEW_READERS, Channel, Channels
from orchestrator.store.records import Event
from tests.fakes.rows import START


def event(seq: int, size_bytes: int = 10) -> Event:
    return Event(seq, START, "step.delta", b"x" * size_bytes)


def seqs(events: list[Event] | None) -> list[int] | None:
    return None if events is None else [event.seq for event in events]


def test_a_new_channel_sends_readers_to_the_database() -> None:
    with Channels().join("log") as channel:
        assert channel.after(0) is None
        assert channel.after(100) is None


def test_readers_get_what_was_published_after_their_position() -> None:
    channels = Channels()
    with channels.join("log") as channel:
        channels.publish("log", [event(5), event(6)])
        channels.publish("log", [event(7)])
        channels.publish("other", [event(1)])
        assert seqs(channel.after(4)) == [5, 6, 7]
        assert seqs(channel.after(6)) == [7]
        assert seqs(channel.after(7)) == []
        assert seqs(channel.after(9)) == []
        assert channel.after(3) is None


@pytest.mark.parametrize(("size_bytes", "kept"), [(1, BATCH_EVENTS), (BATCH_BYTES // 10, 10), (BATCH_BYTES + 1, 0)])
def test_the_ring_is_bounded_by_number_and_bytes(size_bytes: int, kept: int) -> None:
    channels = Channels()
    total = BATCH_EVENTS * 2
    with channels.join("log") as channel:
        for seq in range(1, total + 1):
            channels.publish("log", [event(seq, size_bytes)])
        assert channel.after(total - kept - 1) is None
        assert len(channel.after(total - kept) or []) == kept
        assert channel.after(total) == []


@contextmanager
def crowded(channels: Channels, readers: int) -> Iterator[Channel]:
    with ExitStack() as stack:
        joined = [stack.enter_context(channels.join("log")) for _ in range(readers)]
        yield joined[-1]


@pytest.mark.anyio
async def test_many_readers_are_woken_together() -> None:
    """The first event is shown at once, those that come while the readers still have that one are gathered."""
    channels = Channels()
    with crowded(channels, 500) as channel:
        channels.publish("log", [event(1)])
        assert seqs(channel.after(0)) == [1]
        news = channel.news
        for seq in (2, 3, 4):
            channels.publish("log", [event(seq)])
        assert channel.after(1) == []
        async with asyncio.timeout(5):
            await news.wait()
        assert seqs(channel.after(1)) == [2, 3, 4]


@pytest.mark.anyio
@pytest.mark.parametrize("size_bytes", [10, 1000, BATCH_BYTES + 1])
async def test_for_many_readers_the_ring_is_larger_and_gives_a_batch_at_a_time(size_bytes: int) -> None:
    channels = Channels()
    total = BATCH_EVENTS * 4 if size_bytes < 1000 else 16
    with crowded(channels, 20 * FEW_READERS) as channel:
        for seq in range(1, total + 1):
            channels.publish("log", [event(seq, size_bytes)])
        async with asyncio.timeout(5):
            while channel.after(total - 1) == []:
                await channel.news.wait()
        read: list[Event] = []
        while batch := channel.after(len(read)):
            assert len(batch) <= BATCH_EVENTS
            assert len(batch) == 1 or sum(len(event.body) for event in batch) <= BATCH_BYTES
            read += batch
        assert seqs(read) == list(range(1, total + 1))


@pytest.mark.anyio
async def test_what_is_gathered_waits_for_nobody_when_it_is_much() -> None:
    channels = Channels()
    with crowded(channels, 2 * FEW_READERS) as channel:
        for seq in range(1, 2 * BATCH_EVENTS + 2):
            channels.publish("log", [event(seq)])
        assert channel.after(BATCH_EVENTS)


@pytest.mark.anyio
async def test_an_end_is_not_waited_for() -> None:
    channels = Channels()
    with crowded(channels, 500) as channel:
        channels.publish("log", [event(1)])
        news = channel.news
        channels.publish("log", [event(2)])
        channels.end("log")
        assert news.is_set()
        assert channel.has_ended


def test_readers_share_events_and_the_last_one_drops_the_channel() -> None:
    channels = Channels()
    with channels.join("log") as first:
        with channels.join("log") as second:
            assert first is second
            published = event(1)
            channels.publish("log", [published])
            assert [event is published for event in second.after(0) or []] == [True]
        assert len(channels) == 1
    assert len(channels) == 0
    channels.publish("log", [event(2)])
    with channels.join("log") as later:
        assert later.after(1) is None


@pytest.mark.anyio
async def test_news_taken_before_looking_miss_nothing() -> None:
    channels = Channels()
    with channels.join("log") as channel:
        news = channel.news
        assert channel.after(0) is None
        channels.publish("log", [event(1)])
        async with asyncio.timeout(5):
            await news.wait()
        assert not channel.news.is_set()


@pytest.mark.anyio
async def test_an_end_wakes_readers_and_a_later_reader_starts_anew() -> None:
    channels = Channels()
    with channels.join("log") as channel:
        news = channel.news
        channels.publish("log", [])
        assert not news.is_set()
        channels.end("log")
        assert news.is_set()
        assert channel.has_ended
        with channels.join("log") as later:
            assert later is not channel
            assert not later.has_ended
        assert len(channels) == 0


def test_after_the_end_of_all_nobody_waits() -> None:
    channels = Channels()
    with channels.join("log") as channel:
        channels.end_all()
        assert channel.has_ended
    with channels.join("other") as other:
        assert other.has_ended
