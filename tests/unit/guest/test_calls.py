from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.guest.calls import Call, CallBook, Follower, Forgotten, Output
from orchestrator.guest.frames import CREDIT, DATA, END, MAX_PAYLOAD_BYTES, MESSAGE, Decoder, decode_json
from orchestrator.guest.link import Stream


class Wire:
    """Takes the place of a link: decodes what a stream writes."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, bytes]] = []
        self.dropped: list[Stream] = []
        self._decoder = Decoder()

    def write(self, frame: bytes) -> None:
        self.frames += self._decoder.feed(frame)

    def drop(self, stream: Stream) -> None:
        self.dropped.append(stream)
        stream.closed()

    @property
    def data(self) -> bytes:
        return b"".join(payload for kind, _, payload in self.frames if kind == DATA)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [decode_json(payload) for kind, _, payload in self.frames if kind == MESSAGE]

    @property
    def has_ended(self) -> bool:
        return any(kind == END for kind, _, _ in self.frames)


def opened(room_bytes: int = 512 * 1024) -> tuple[Wire, Stream]:
    wire = Wire()
    stream = Stream(wire, 1)  # type: ignore[arg-type]
    stream.room_bytes = room_bytes
    return wire, stream


def give(stream: Stream, room_bytes: int) -> None:
    stream.room_bytes += room_bytes
    stream.on_credit()


# output


@given(st.lists(st.binary(max_size=60), max_size=30), st.integers(0, 100))
def test_output_keeps_head_and_tail_and_counts_the_rest(pieces: list[bytes], limit_bytes: int) -> None:
    output = Output(limit_bytes)
    for piece in pieces:
        output.add(piece)
    written = b"".join(pieces)
    half = max(1, limit_bytes // 2)
    assert output.total_bytes == len(written)
    assert bytes(output.head) == written[:half]
    assert output.tail == written[half:][-half:]
    assert output.dropped_bytes == len(written) - len(output.head) - len(output.tail)
    assert output.dropped_bytes >= 0


def test_output_stays_small_whatever_is_written() -> None:
    output = Output(1000)
    for _ in range(1000):
        output.add(b"x" * 10_000)
    assert len(output._tail) <= 11_000
    assert output.total_bytes == 10_000_000


# following


def test_a_follower_sends_output_as_it_comes_then_outcome_then_end() -> None:
    wire, stream = opened()
    call = Call("c", 1000)
    Follower(call, stream, 0).pump()
    call.write(b"one ")
    assert wire.data == b"one "
    call.write(b"two")
    assert not wire.has_ended
    call.finish({"verdict": "exited", "exit_code": 0})
    assert wire.data == b"one two"
    assert wire.messages == [
        {
            "verdict": "exited",
            "exit_code": 0,
            "total_bytes": 7,
            "dropped_bytes": 0,
            "tail_bytes": 0,
            "attachment_bytes": [],
        }
    ]
    assert [kind for kind, _, _ in wire.frames] == [DATA, DATA, MESSAGE, END]


@given(
    st.lists(st.binary(max_size=40), max_size=10),
    st.integers(2, 60),
    st.lists(st.binary(min_size=1, max_size=30), max_size=3),
    st.lists(st.integers(1, 25), min_size=1, max_size=40),
)
def test_a_follower_never_sends_more_than_it_has_credit_for(
    pieces: list[bytes], limit_bytes: int, attachments: list[bytes], credits: list[int]
) -> None:
    wire, stream = opened(room_bytes=0)
    call = Call("c", limit_bytes)
    Follower(call, stream, 0).pump()
    for piece in pieces:
        call.write(piece)
    call.finish({"verdict": "exited"}, attachments)
    allowed = 0
    for credit in credits:
        allowed += credit
        give(stream, credit)
        assert len(wire.data) <= allowed
    give(stream, 100_000)
    expected = Output(limit_bytes)
    for piece in pieces:
        expected.add(piece)
    assert wire.data == bytes(expected.head) + expected.tail + b"".join(attachments)
    assert wire.has_ended
    assert len(wire.messages) == 1


def test_pieces_fit_into_frames() -> None:
    wire, stream = opened(room_bytes=4 * MAX_PAYLOAD_BYTES)
    call = Call("c", 8 * MAX_PAYLOAD_BYTES)
    call.write(b"x" * (2 * MAX_PAYLOAD_BYTES + 5))
    Follower(call, stream, 0).pump()
    assert [len(payload) for _, _, payload in wire.frames] == [MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES, 5]


def test_who_comes_later_begins_where_it_says() -> None:
    call = Call("c", 1000)
    call.write(b"0123456789")
    wire, stream = opened()
    Follower(call, stream, 4).pump()
    assert wire.data == b"456789"


def test_a_follower_that_missed_everything_gets_everything() -> None:
    call = Call("c", 8)
    call.write(b"abcdefghijkl")
    call.finish({"verdict": "exited"}, [b"picture"])
    wire, stream = opened()
    Follower(call, stream, 0).pump()
    assert wire.data == b"abcd" + b"ijkl" + b"picture"
    assert wire.messages[0]["dropped_bytes"] == 4
    assert wire.messages[0]["attachment_bytes"] == [7]
    assert wire.has_ended


def test_two_followers_get_the_same() -> None:
    call = Call("c", 1000)
    wires = []
    for _ in range(2):
        wire, stream = opened()
        Follower(call, stream, 0).pump()
        wires.append(wire)
    call.write(b"both")
    call.finish({"verdict": "exited"})
    assert [wire.data for wire in wires] == [b"both", b"both"]
    assert all(wire.has_ended for wire in wires)


def test_a_follower_that_left_costs_nothing_and_the_call_goes_on() -> None:
    wire, stream = opened()
    call = Call("c", 1000)
    Follower(call, stream, 0).pump()
    stream.closed()
    assert call.followers == []
    call.write(b"more")
    call.finish({"verdict": "exited"})
    assert wire.frames == []
    assert call.output.total_bytes == 4


def test_only_the_first_end_counts_and_nothing_is_added_after_it() -> None:
    call = Call("c", 1000)
    call.finish({"verdict": "timeout"})
    call.finish({"verdict": "exited"})
    call.write(b"late")
    assert call.outcome is not None
    assert call.outcome["verdict"] == "timeout"
    assert call.output.total_bytes == 0


# input


def test_input_is_taken_once_however_often_it_is_sent() -> None:
    """As after a cut in the middle of the input: the orchestrator sends all of it again."""
    call = Call("c", 1000)
    taken: list[bytes | None] = []
    call.take_input = taken.append
    _, first = opened()
    call.attach(first)
    first.on_data(b"abc")
    first.closed()
    wire, second = opened()
    call.attach(second)
    second.on_data(b"ab")
    second.on_data(b"cdef")
    second.on_end()
    assert b"".join(piece for piece in taken if piece is not None) == b"abcdef"
    assert taken[-1] is None
    third = opened()[1]
    call.attach(third)
    third.on_data(b"abcdef")
    third.on_end()
    assert taken.count(None) == 1
    assert b"".join(piece for piece in taken if piece is not None) == b"abcdef"
    assert [kind for kind, _, _ in wire.frames] == [CREDIT, CREDIT], "what was known is taken at once"


def test_room_for_input_goes_to_whoever_sends_now() -> None:
    call = Call("c", 1000)
    call.take_input = lambda _data: None
    gone, stale = opened()
    call.attach(stale)
    stale.closed()
    wire, current = opened()
    call.attach(current)
    call.input_taken(5)
    assert gone.frames == []
    assert [kind for kind, _, _ in wire.frames] == [CREDIT]


# the book


def noted(book: CallBook, call_id: str) -> Call:
    call = Call(call_id, 1000)
    book.add(call)
    return call


def finished(book: CallBook, call_id: str, output: bytes = b"", attachments: tuple[bytes, ...] = ()) -> Call:
    call = noted(book, call_id)
    call.write(output)
    call.finish({"verdict": "exited"}, attachments)
    return call


def test_the_book_keeps_calls_until_they_are_acknowledged() -> None:
    book = CallBook()
    call = finished(book, "c")
    assert book.find("c") is call
    assert book.states() == {"c": "finished"}
    book.forget("c")
    assert book.states() == {}
    with pytest.raises(Forgotten):
        book.find("c")
    book.forget("c")


def test_what_runs_and_is_forgotten_is_refused_at_once_and_leaves_the_book_at_its_end() -> None:
    book = CallBook()
    call = noted(book, "c")
    book.forget("c")
    assert book.states() == {"c": "running"}
    with pytest.raises(Forgotten):
        book.find("c")
    call.finish({"verdict": "exited"})
    assert book.states() == {}
    with pytest.raises(Forgotten):
        book.find("c")


def test_what_never_came_can_be_forgotten_before_it_comes() -> None:
    """An order that is under way must not be carried out after it was taken back."""
    book = CallBook()
    assert book.find("c") is None
    book.forget("c")
    with pytest.raises(Forgotten):
        book.find("c")


def test_the_book_forgets_the_oldest_finished_calls_and_no_running_one() -> None:
    book = CallBook()
    noted(book, "running")
    for number in range(1000):
        finished(book, str(number))
    states = book.states()
    assert states["running"] == "running"
    assert "999" in states
    assert len(states) < 300
    with pytest.raises(Forgotten):
        book.find("0")


def test_the_book_holds_outcomes_only_up_to_so_many_bytes() -> None:
    """Calls that all end while nobody is there: the sandbox's memory is not the place for what comes out of them."""
    book = CallBook()
    calls = [noted(book, str(number)) for number in range(20)]
    for call in calls:
        call.finish({"verdict": "exited"}, [bytes(16 << 20)])
    assert list(book.states()) == ["16", "17", "18", "19"]
    with pytest.raises(Forgotten):
        book.find("15")


def test_the_latest_outcome_is_kept_whatever_its_size() -> None:
    book = CallBook()
    finished(book, "small")
    finished(book, "large", attachments=(bytes(70 << 20),))
    assert list(book.states()) == ["large"]


def test_output_that_is_kept_counts() -> None:
    book = CallBook()
    for number in range(3):
        call = Call(str(number), 40 << 20)
        book.add(call)
        call.write(bytes(30 << 20))
        call.finish({"verdict": "exited"})
    assert list(book.states()) == ["1", "2"]


def test_a_call_that_ended_before_it_was_noted_counts_too() -> None:
    """As one for which there was no process."""
    book = CallBook()
    for number in range(300):
        call = Call(str(number), 10)
        call.finish({"verdict": "pids"})
        book.add(call)
    assert len(book.states()) == 256


def test_the_names_of_what_is_forgotten_are_bounded_and_the_latest_last() -> None:
    book = CallBook()
    for number in range(5000):
        book.forget(str(number))
        book.forget("again")
    assert book.find("0") is None
    for known in ("4999", "1000", "again"):
        with pytest.raises(Forgotten):
            book.find(known)


@pytest.mark.parametrize("start_bytes", [4, 100])
def test_a_follower_from_beyond_the_head_gets_the_end(start_bytes: int) -> None:
    call = Call("c", 1000)
    call.write(b"abcd")
    call.finish({"verdict": "exited"})
    wire, stream = opened()
    Follower(call, stream, start_bytes).pump()
    assert wire.data == b""
    assert wire.has_ended
