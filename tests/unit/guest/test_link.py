"""A stream whose link breaks while something is written to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.guest.calls import Call, Follower
from orchestrator.guest.link import Stream
from tests.unit.guest.conftest import Guest


class BreakingLink:
    """Ends, with all its streams, at the next write: the other end is gone."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.writes = 0

    def write(self, _frame: bytes) -> None:
        self.writes += 1
        for stream in self.streams:
            stream.closed()

    def drop(self, stream: Stream) -> None:
        stream.closed()


def breaking() -> tuple[BreakingLink, Stream]:
    link = BreakingLink()
    stream = Stream(link, 1)  # type: ignore[arg-type]
    link.streams.append(stream)
    return link, stream


@pytest.mark.parametrize(
    "act",
    [
        lambda stream: stream.end(),
        lambda stream: stream.reset("code", "message"),
        lambda stream: stream.send(b"data"),
        lambda stream: stream.send_message({}),
        lambda stream: stream.take(5),
    ],
    ids=["end", "reset", "send", "message", "take"],
)
def test_a_break_closes_the_stream_and_nothing_else(act: Callable[[Stream], object]) -> None:
    link, stream = breaking()
    closed: list[bool] = []
    stream.on_close = lambda: closed.append(True)
    act(stream)
    act(stream)
    assert (stream.is_open, closed, link.writes) == (False, [True], 1)


def test_a_call_outlives_a_break_at_every_point() -> None:
    call = Call("c", 1000)
    for _ in range(3):
        Follower(call, breaking()[1], 0).pump()
        call.write(b"more")
    Follower(call, breaking()[1], 0).pump()
    call.finish({"verdict": "exited"}, [b"picture"])
    Follower(call, breaking()[1], 0).pump()
    assert call.followers == []
    assert call.outcome is not None


def test_a_guest_survives_links_that_end_while_it_answers(guest: Guest) -> None:
    for number in range(30):
        client = guest.greeted()
        for service in ("ack", "warm", "calls", "nothing"):
            client.open(service, call=str(number))
        client.close()
    assert guest.greeted().bash("c", "echo fine").data == b"fine\n"
