"""The link against a guest that may be slow, broken or hostile."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from orchestrator.errors import CallForgotten, InvalidRequest, NewerGeneration, SandboxError, SandboxGone
from orchestrator.guest import frames
from orchestrator.guest.frames import CREDIT, DATA, END, MAX_PAYLOAD_BYTES, MESSAGE, RESET, WINDOW_BYTES
from orchestrator.sandboxes import link as link_module
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.outcome import Verdict
from tests.fakes.scripted_guest import ScriptedGuest, linked

pytestmark = pytest.mark.anyio

EXEC = {"service": "exec", "call": "c"}


def begun(work: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)


# greeting


async def test_the_greeting_carries_the_generation_and_brings_the_calls() -> None:
    guest, stream = await ScriptedGuest.open()
    opening = begun(Link.open(stream, 7))
    kind, number, payload = await guest.hear()
    assert (kind, number) == (frames.HELLO, 0)
    assert frames.decode_json(payload) == {"protocol": 1, "generation": 7}
    guest.hello(generation=7, calls={"a": "running", "b": "finished"})
    link = await opening
    assert link.calls == {"a": "running", "b": "finished"}
    await link.aclose()
    guest.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 64,
        b"HTTP/1.1 200 OK\r\n\r\n",
        struct.pack(">IBI", MAX_PAYLOAD_BYTES + 1, frames.HELLO, 0),
        frames.encode(frames.HELLO, 0, b"not json"),
        frames.encode(frames.HELLO, 0, b"[]"),
        frames.encode(frames.HELLO, 0, b"[" * 100_000),
        frames.encode_json(frames.HELLO, 0, {"protocol": 5, "generation": 1}),
        frames.encode_json(frames.HELLO, 0, {"protocol": 0, "generation": 1}),
        frames.encode_json(frames.HELLO, 0, {"protocol": [2], "generation": 1}),
        frames.encode_json(frames.HELLO, 0, {"generation": 1}),
        frames.encode_json(frames.RESET, 0, {"code": "stale", "message": "a newer generation holds this sandbox"}),
        frames.encode_json(frames.MESSAGE, 1, {}),
        frames.encode(frames.DATA, 1, b"data"),
    ],
)
async def test_another_greeting_is_no_link_and_leaves_nothing_open(answer: bytes) -> None:
    guest, stream = await ScriptedGuest.open()
    guest.say(answer)
    if not answer:
        guest.close()
    with pytest.raises(SandboxGone):
        await Link.open(stream, 1)
    assert stream.writer.is_closing()
    guest.close()


async def test_the_reason_of_a_refusal_is_told_in_short() -> None:
    guest, stream = await ScriptedGuest.open()
    guest.reset(0, code="stale", message="x" * 100_000)
    with pytest.raises(SandboxGone) as caught:
        await Link.open(stream, 1)
    assert len(caught.value.message) < 1000
    guest.close()


async def test_a_guest_that_serves_a_newer_generation_says_which() -> None:
    guest, stream = await ScriptedGuest.open()
    guest.reset(0, code="stale", message="a newer generation holds this sandbox", generation=9)
    with pytest.raises(NewerGeneration) as caught:
        await Link.open(stream, 1)
    assert caught.value.generation == 9
    guest.close()


@pytest.mark.parametrize("generation", [None, "9", 9.5, True, -1, 0, 7, 1 << 53, [9]], ids=str)
async def test_a_newer_generation_that_is_none_is_no_matter(generation: object) -> None:
    guest, stream = await ScriptedGuest.open()
    guest.reset(0, code="stale", message="a newer generation holds this sandbox", generation=generation)
    with pytest.raises(SandboxGone) as caught:
        await Link.open(stream, 7)
    assert not isinstance(caught.value, NewerGeneration)
    guest.close()


async def test_a_guest_of_an_earlier_release_is_taken_on() -> None:
    guest, stream = await ScriptedGuest.open()
    guest.hello(protocol=1)
    link = await Link.open(stream, 1)
    assert not link.ended.is_set()
    await link.aclose()
    guest.close()


async def test_a_guest_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_HELLO_TIMEOUT_S", 0.05)
    guest, stream = await ScriptedGuest.open()
    with pytest.raises(SandboxGone):
        await Link.open(stream, 1)
    assert stream.writer.is_closing()
    guest.close()


async def test_giving_up_the_greeting_closes_the_stream() -> None:
    guest, stream = await ScriptedGuest.open()
    opening = begun(Link.open(stream, 1))
    await guest.hear()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert stream.writer.is_closing()
    guest.close()


async def test_odd_calls_in_a_greeting_are_no_matter() -> None:
    guest, stream = await ScriptedGuest.open()
    guest.hello(calls=["a"])
    link = await Link.open(stream, 1)
    assert link.calls == {}
    await link.aclose()
    guest.close()


# calls


async def test_a_call_gets_output_as_it_comes_and_then_its_outcome() -> None:
    async with linked() as (guest, link):
        seen: list[bytes] = []
        call = begun(link.call(EXEC, None, seen.append))
        stream, request = await guest.hear_open()
        assert request == EXEC
        guest.data(stream, b"one ")
        guest.data(stream, b"two")
        guest.outcome(stream, b"tail", (b"\x89PNG\r\n\x1a\npicture",), dropped_bytes=9, attachment_types=["image/png"])
        outcome = await call
        assert seen == [b"one ", b"two"]
        assert (outcome.head, outcome.tail, outcome.dropped_bytes) == (b"one two", b"tail", 9)
        assert [each.content for each in outcome.attachments] == [b"\x89PNG\r\n\x1a\npicture"]


async def test_calls_run_side_by_side() -> None:
    async with linked() as (guest, link):
        calls = [begun(link.call({"service": "exec", "call": str(number)})) for number in range(50)]
        streams = [(await guest.hear_open())[0] for _ in calls]
        assert len(set(streams)) == 50
        assert all(stream % 2 == 1 for stream in streams)
        for stream in reversed(streams):
            guest.data(stream, b"%d" % stream)
            guest.outcome(stream)
        outcomes = await asyncio.gather(*calls)
        assert [outcome.head for outcome in outcomes] == [b"%d" % stream for stream in streams]


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": "exploded"},
        {"verdict": None},
        {"tail_bytes": 5},
        {"tail_bytes": -1, "attachment_bytes": [5]},
        {"tail_bytes": "4"},
        {"attachment_bytes": [1]},
        {"attachment_bytes": None},
        {"attachment_bytes": [-4, 4]},
        {"dropped_bytes": -1},
        {"dropped_bytes": None},
        {"dropped_bytes": 1e999},
        {"exit_code": None},
        {"exit_code": "0"},
        {"exit_code": [0]},
        {"verdict": "refused", "error": "no"},
        {"verdict": "refused", "error": {"code": 5}},
        {"verdict": "refused"},
        {"verdict": "done", "result": ["path"]},
        {"verdict": "done"},
        {"verdict": "killed"},
        {"duration_ms": "long"},
    ],
    ids=str,
)
async def test_an_outcome_that_does_not_add_up_is_no_outcome(fields: dict[str, Any]) -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        guest.outcome(stream, b"tail", **fields)
        with pytest.raises(SandboxGone):
            await call


async def test_a_call_without_outcome_is_none() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        guest.end(stream)
        with pytest.raises(SandboxGone):
            await call


async def test_a_refused_request_is_told_with_our_own_code() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        guest.reset(stream, code="<script>", message="m" * 100_000)
        with pytest.raises(InvalidRequest) as caught:
            await call
        assert caught.value.code == "invalid_request"
        assert len(caught.value.message) < 1000
        assert not link.ended.is_set()


async def test_a_call_that_the_guest_forgot_is_neither_the_callers_fault_nor_the_end() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        guest.reset(stream, code="forgotten", message="call 'c' is over and forgotten")
        with pytest.raises(CallForgotten):
            await call
        assert not link.ended.is_set()


async def test_a_request_too_large_for_a_frame_is_the_callers_fault() -> None:
    async with linked() as (_, link):
        with pytest.raises(InvalidRequest):
            await link.call({**EXEC, "argv": ["x" * MAX_PAYLOAD_BYTES]})
        assert not link.ended.is_set()


# breaches of the protocol


async def _one_breach(act: Callable[[ScriptedGuest, int], None]) -> Link:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        act(guest, stream)
        with pytest.raises(SandboxGone):
            await call
        assert link.ended.is_set()
        with pytest.raises(SandboxGone):
            await link.call(EXEC)
        with pytest.raises(EOFError):
            while True:
                await guest.hear()
        return link


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack(">IBI", MAX_PAYLOAD_BYTES + 1, DATA, 1),
        struct.pack(">IBI", 0, 9, 1),
        frames.encode(MESSAGE, 1, b"not json"),
        frames.encode(MESSAGE, 1, b"[1]"),
        frames.encode(MESSAGE, 1, b"[" * 200_000),
        frames.encode(RESET, 1, b"null"),
        frames.encode(CREDIT, 1, b"\1"),
    ],
    ids=["garbage", "oversized", "kind", "json", "list", "deep", "reset", "credit"],
)
async def test_a_breach_ends_the_link(data: bytes) -> None:
    await _one_breach(lambda guest, _: guest.say(data))


async def test_data_beyond_the_credit_ends_the_link() -> None:
    async with linked() as (guest, link):
        fetch = link.fetch({"service": "get", "paths": ["x"]})
        first = begun(anext(fetch))
        stream, _ = await guest.hear_open()
        for _ in range(5):
            guest.data(stream, b"x" * MAX_PAYLOAD_BYTES)
        await first
        await asyncio.wait_for(link.ended.wait(), 5)
        with pytest.raises(SandboxGone):
            async for _ in fetch:
                pass


async def test_a_second_message_ends_the_link() -> None:
    """Else they would pile up."""

    def twice(guest: ScriptedGuest, stream: int) -> None:
        guest.message(stream, {"n": 1})
        guest.message(stream, {"n": 2})

    await _one_breach(twice)


async def test_more_output_than_a_call_may_have_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_REPLY_LIMIT_BYTES", 1000)
    await _one_breach(lambda guest, stream: guest.data(stream, b"x" * 1001))


async def test_the_end_of_the_stream_ends_calls_and_link() -> None:
    await _one_breach(lambda guest, _: guest.close())


async def test_a_link_that_is_replaced_ends_even_if_its_stream_does_not() -> None:
    await _one_breach(lambda guest, _: guest.reset(0, code="replaced", message="another link"))


async def test_frames_for_streams_that_are_over_are_no_matter() -> None:
    async with linked() as (guest, link):
        guest.data(99, b"x")
        guest.message(99, {})
        guest.end(99)
        guest.credit(98, 5)
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        guest.outcome(stream)
        guest.data(stream, b"late")
        assert (await call).is_ok


@pytest.mark.parametrize("when", ["waiting", "sending", "output"])
async def test_a_cut_in_the_middle_of_a_call(when: str) -> None:
    async with linked() as (guest, link):
        content = b"x" * (4 * WINDOW_BYTES) if when == "sending" else None
        call = begun(link.call(EXEC, content))
        stream, _ = await guest.hear_open()
        if when == "output":
            guest.data(stream, b"half")
        if when == "sending":
            await guest.hear(DATA)
        guest.close()
        with pytest.raises(SandboxGone):
            await call
        await asyncio.wait_for(link.ended.wait(), 5)


async def test_closing_ends_calls_and_may_be_repeated() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        await guest.hear_open()
        await link.aclose()
        await link.aclose()
        with pytest.raises(SandboxGone):
            await call
        link.acknowledge("c")


# content and flow control


async def test_content_is_sent_only_as_it_is_taken() -> None:
    content = bytes(range(256)) * 20_000
    async with linked() as (guest, link):
        call = begun(link.call(EXEC, content))
        stream, _ = await guest.hear_open()
        heard = b""
        while len(heard) < WINDOW_BYTES:
            heard += (await guest.hear(DATA))[2]
        assert len(heard) == WINDOW_BYTES
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await guest.hear()
        while len(heard) < len(content):
            guest.credit(stream, 100_000)
            async with asyncio.timeout(5):
                allowed = min(len(heard) + 100_000, len(content))
                while len(heard) < allowed:
                    heard += (await guest.hear(DATA))[2]
        assert heard == content
        await guest.hear(END)
        guest.outcome(stream)
        assert (await call).is_ok


async def test_content_may_come_in_pieces_of_any_size() -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        for size in (0, 1, MAX_PAYLOAD_BYTES + 1, 5):
            yield b"x" * size

    async with linked() as (guest, link):
        call = begun(link.call(EXEC, pieces()))
        stream, _ = await guest.hear_open()
        sizes = []
        while (frame := await guest.hear())[0] == DATA:
            sizes.append(len(frame[2]))
        assert frame[0] == END
        assert sum(sizes) == MAX_PAYLOAD_BYTES + 7
        assert max(sizes) <= MAX_PAYLOAD_BYTES
        guest.outcome(stream)
        assert (await call).is_ok


async def test_empty_content_is_an_end() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC, b""))
        stream, _ = await guest.hear_open()
        assert (await guest.hear())[0] == END
        guest.outcome(stream)
        assert (await call).is_ok


async def test_a_call_may_end_before_its_content_is_sent() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC, b"x" * (3 * WINDOW_BYTES)))
        stream, _ = await guest.hear_open()
        guest.outcome(stream, verdict="refused", exit_code=None, error={"code": "enospc", "message": "disk full"})
        outcome = await call
        assert outcome.verdict is Verdict.REFUSED
        assert outcome.error is not None
        assert outcome.error.message == "disk full"


async def test_content_that_cannot_be_read_ends_the_call_inside() -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"half"
        raise SandboxError("the source broke off")

    async with linked() as (guest, link):
        call = begun(link.call(EXEC, broken()))
        stream, _ = await guest.hear_open()
        _, number, payload = await guest.hear(MESSAGE)
        assert (number, frames.decode_json(payload)) == (stream, {"stop": "cancelled"})
        guest.outcome(stream, verdict="cancelled", exit_code=None)
        with pytest.raises(SandboxError, match="broke off"):
            await call


async def test_output_is_credited() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        sent = 0
        while sent < 3 * WINDOW_BYTES:
            guest.data(stream, b"x" * (WINDOW_BYTES // 4))
            sent += WINDOW_BYTES // 4
            if sent % WINDOW_BYTES == 0:
                credited = 0
                while credited < WINDOW_BYTES:
                    credited += frames.decode_credit((await guest.hear(CREDIT))[2])
        guest.outcome(stream)
        assert len((await call).head) == 3 * WINDOW_BYTES


async def test_a_slow_reader_of_a_transfer_holds_the_guest_back() -> None:
    async with linked() as (guest, link):
        fetch = link.fetch({"service": "get", "paths": ["x"]})
        first = begun(anext(fetch))
        stream, _ = await guest.hear_open()
        guest.data(stream, b"x" * WINDOW_BYTES)
        taken = len(await first)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await guest.hear(CREDIT)
        async for piece in fetch:
            taken += len(piece)
            if taken == WINDOW_BYTES:
                break
        credited = 0
        async with asyncio.timeout(5):
            while credited < WINDOW_BYTES - MAX_PAYLOAD_BYTES:
                credited += frames.decode_credit((await guest.hear(CREDIT))[2])
        await fetch.aclose()


async def test_memory_stays_bounded_when_the_guest_takes_nothing() -> None:
    """The kernel's buffers are full, so calls wait instead of piling frames up."""
    async with linked() as (guest, link):
        guest.stop_reading()
        calls = [begun(link.call({**EXEC, "call": str(number)}, b"x" * WINDOW_BYTES)) for number in range(40)]
        await asyncio.sleep(0.2)
        waiting = link._writer.transport.get_write_buffer_size()
        assert waiting < 40 * WINDOW_BYTES / 2
        for call in calls:
            call.cancel()
        guest.close()
        await asyncio.gather(*calls, return_exceptions=True)


# transfers


async def test_a_transfer_ends_with_its_answer() -> None:
    async with linked() as (guest, link):
        fetch = link.fetch({"service": "get", "paths": ["x"]})
        first = begun(anext(fetch))
        stream, _ = await guest.hear_open()
        guest.data(stream, b"tar")
        guest.message(stream, {"result": {"members": 1}})
        guest.end(stream)
        assert await first == b"tar"
        assert [piece async for piece in fetch] == []


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"error": {"code": "enoent", "message": "no such file"}}, InvalidRequest),
        ({"error": "no"}, SandboxGone),
        ({"error": {"code": "x"}}, SandboxGone),
        ({}, SandboxGone),
        (None, SandboxGone),
    ],
)
async def test_a_transfer_that_failed_says_so_at_its_end(message: Any, error: type[Exception]) -> None:
    async with linked() as (guest, link):
        fetch = link.fetch({"service": "get", "paths": ["x"]})
        first = begun(anext(fetch))
        stream, _ = await guest.hear_open()
        guest.data(stream, b"half")
        if message is not None:
            guest.message(stream, message)
        guest.end(stream)
        assert await first == b"half"
        with pytest.raises(error):
            await anext(fetch)


async def test_a_cut_transfer_is_gone() -> None:
    async with linked() as (guest, link):
        fetch = link.fetch({"service": "get", "paths": ["x"]})
        first = begun(anext(fetch))
        stream, _ = await guest.hear_open()
        guest.data(stream, b"half")
        await first
        guest.close()
        with pytest.raises(SandboxGone):
            await anext(fetch)


async def test_leaving_a_transfer_tells_the_guest() -> None:
    async with linked() as (guest, link):
        fetch = link.fetch({"service": "get", "paths": ["x"]})
        first = begun(anext(fetch))
        stream, _ = await guest.hear_open()
        guest.data(stream, b"half")
        await first
        await fetch.aclose()
        assert (await guest.hear(RESET))[1] == stream


# cancelling


async def test_cancelling_ends_the_call_inside_and_waits_for_it() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        call.cancel()
        _, number, payload = await guest.hear(MESSAGE)
        assert (number, frames.decode_json(payload)) == (stream, {"stop": "cancelled"})
        await asyncio.sleep(0.05)
        assert not call.done()
        guest.outcome(stream, verdict="cancelled", exit_code=None)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_cancelling_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_CANCEL_GRACE_S", 0.05)
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        stream, _ = await guest.hear_open()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(call, 5)
        guest.outcome(stream)
        probe, request = await guest.hear_open()
        assert request["service"] == "calls", "whether it still lives"
        guest.outcome(probe)
        other = begun(link.call(EXEC))
        guest.outcome((await guest.hear_open())[0])
        assert (await other).is_ok


async def test_cancelling_while_content_is_sent() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC, b"x" * (4 * WINDOW_BYTES)))
        stream, _ = await guest.hear_open()
        await asyncio.sleep(0.05)
        call.cancel()
        await guest.hear(MESSAGE)
        guest.outcome(stream, verdict="cancelled", exit_code=None)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_cut_ends_the_wait_of_a_cancel() -> None:
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        await guest.hear_open()
        call.cancel()
        await guest.hear(MESSAGE)
        guest.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(call, 5)


async def test_who_only_lets_go_leaves_the_call_alone() -> None:
    """At the end of the server: the next one follows the call."""
    async with linked() as (guest, link):
        call = begun(link.call(EXEC))
        await guest.hear_open()
        link.let_go()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(call, 1)
        await link.aclose()
        with pytest.raises(EOFError):
            assert (await guest.hear())[0] != MESSAGE


# stopping by id


async def test_a_stop_returns_when_the_guest_says_that_nothing_runs() -> None:
    async with linked() as (guest, link):
        stopping = begun(link.stop("c"))
        stream, request = await guest.hear_open()
        assert request == {"service": "stop", "call": "c", "verdict": "cancelled"}
        await asyncio.sleep(0.05)
        assert not stopping.done()
        guest.end(stream)
        assert await stopping is True


async def test_a_stop_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_CANCEL_GRACE_S", 0.05)
    async with linked() as (guest, link):
        stopping = begun(link.stop("c"))
        stream, _ = await guest.hear_open()
        assert await asyncio.wait_for(stopping, 5) is False
        probe, request = await guest.hear_open()
        assert request["service"] == "calls", "whether it still lives"
        guest.end(probe)
        guest.end(stream)
        other = begun(link.call(EXEC))
        guest.outcome((await guest.hear_open())[0])
        assert (await other).is_ok


async def test_a_cut_ends_a_stop() -> None:
    async with linked() as (guest, link):
        stopping = begun(link.stop("c"))
        await guest.hear_open()
        guest.close()
        with pytest.raises(SandboxGone):
            await asyncio.wait_for(stopping, 5)
        with pytest.raises(SandboxGone):
            await link.stop("c")


async def test_a_guest_of_an_earlier_release_stops_a_call_on_its_own_stream() -> None:
    async with linked(protocol=1) as (guest, link):
        stopping = begun(link.stop("c"))
        stream, request = await guest.hear_open()
        assert request == {"service": "exec", "call": "c", "attach_only": True}
        _, number, payload = await guest.hear(MESSAGE)
        assert (number, frames.decode_json(payload)) == (stream, {"stop": "cancelled"})
        guest.data(stream, b"output")
        guest.outcome(stream, verdict="cancelled", exit_code=None)
        assert await stopping is True
        assert (await guest.hear_open())[1] == {"service": "ack", "call": "c"}


async def test_a_guest_of_an_earlier_release_need_not_know_the_call() -> None:
    async with linked(protocol=1) as (guest, link):
        stopping = begun(link.stop("c"))
        guest.reset((await guest.hear_open())[0], code="unknown_call", message="no call 'c'")
        assert await stopping is True


# the rest


async def test_acknowledging_is_said() -> None:
    async with linked() as (guest, link):
        link.acknowledge("c")
        assert (await guest.hear_open())[1] == {"service": "ack", "call": "c"}


async def test_asking_gets_one_message_or_none() -> None:
    async with linked() as (guest, link):
        asking = begun(link.ask({"service": "calls"}))
        stream, _ = await guest.hear_open()
        guest.message(stream, {"calls": {}})
        guest.end(stream)
        assert await asking == {"calls": {}}
        asking = begun(link.ask({"service": "warm", "env": {}}))
        stream, _ = await guest.hear_open()
        guest.end(stream)
        assert await asking == {}


async def test_an_error_of_whoever_watches_output_does_not_stop_the_link() -> None:
    def broken(_data: bytes) -> None:
        raise RuntimeError("a mistake of ours")

    async with linked() as (guest, link):
        call = begun(link.call(EXEC, None, broken))
        stream, _ = await guest.hear_open()
        guest.data(stream, b"x")
        with pytest.raises(SandboxGone):
            await asyncio.wait_for(call, 5)
        assert link.ended.is_set()
