from __future__ import annotations

import asyncio

import pytest

from orchestrator.store.channel import RING_BYTES, RING_EVENTS, Channels
from orchestrator.store.port import Event
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


@pytest.mark.parametrize(("size_bytes", "kept"), [(1, RING_EVENTS), (RING_BYTES // 10, 10), (RING_BYTES + 1, 0)])
def test_the_ring_is_bounded_by_number_and_bytes(size_bytes: int, kept: int) -> None:
    channels = Channels()
    total = RING_EVENTS * 2
    with channels.join("log") as channel:
        for seq in range(1, total + 1):
            channels.publish("log", [event(seq, size_bytes)])
        assert channel.after(total - kept - 1) is None
        assert len(channel.after(total - kept) or []) == kept
        assert channel.after(total) == []


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
