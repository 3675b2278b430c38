"""The orchestrator's end of the link to a guest: frames, streams, flow control (design 4.2).

Owns one duplex byte stream and the task that reads it. Knows nothing of engines, tools or interactions. Everything that
arrives is bounded and checked; what does not fit ends the link as `SandboxGone`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from typing import Any

from orchestrator import moments
from orchestrator.errors import CallForgotten, InvalidRequest, LimitExceeded, NewerGeneration, SandboxGone
from orchestrator.guest import frames
from orchestrator.sandboxes.channel import Channel
from orchestrator.sandboxes.driver import GuestStream
from orchestrator.sandboxes.outcome import CallOutcome, read_outcome

Content = bytes | AsyncIterable[bytes] | None

_PROTOCOLS = range(frames.OLDEST_PROTOCOL, frames.PROTOCOL + 1)
_STOPS_BY_ID = 2
"""The first protocol with the service `stop`. Before, a call could be stopped only on a stream of its own."""
_HELLO_TIMEOUT_S = 15.0
_CANCEL_GRACE_S = 8.0
_OVERDUE_S = 15.0
"""So long after its time limit, which the guest keeps, a call that goes on makes us ask whether the guest lives."""
_ANSWER_TIMEOUT_S = 20.0
"""Of a guest that has processor time it is a millisecond; busy ones took seconds."""
_READ_BYTES = 256 * 1024
_REPLY_LIMIT_BYTES = 96 << 20
"""Output cap plus attachments stay far below; a guest that sends more is not ours."""
_TAKE_STEP_BYTES = frames.WINDOW_BYTES // 4
_SEND_BYTES = 64 * 1024
"""Content goes in such pieces, so that what many calls have in the writer's buffer together stays small."""
_SHOWN_CHARS = 500
"""Of what a guest says for people."""
_GENERATION_LIMIT = 1 << 53
"""What claims to be a generation beyond that is none."""


class Stream:
    """One stream, as the link's reader and its user share it."""

    def __init__(self, link: Link, number: int) -> None:
        self.number = number
        self.room_bytes = frames.WINDOW_BYTES
        self.has_room = asyncio.Event()
        self.on_data: Callable[[bytes], None] = lambda _data: None
        self.on_message: Callable[[dict[str, Any]], None] = lambda _message: None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_end: Callable[[], None] | None = None
        """The guest's END. Without it that is the end of the stream; with it only of what the guest sends."""
        self.messages_left = 1
        self.expected_bytes = frames.WINDOW_BYTES
        """What the guest has credit to send."""
        self._link = link
        self._untaken_bytes = 0

    def take(self, count: int) -> None:
        """Gives the guest credit, in steps: a frame per step, not per piece."""
        self._untaken_bytes += count
        if self._untaken_bytes >= _TAKE_STEP_BYTES:
            self.expected_bytes += self._untaken_bytes
            self._link.send(frames.encode_credit(self.number, self._untaken_bytes))
            self._untaken_bytes = 0

    async def end(self) -> None:
        """Returns when the stream is over, or raises why it is."""
        # Shielded: cancelling who waits would otherwise make the stream itself look ended.
        await asyncio.shield(self.ended)

    def finish(self, error: Exception | None = None) -> None:
        self.has_room.set()
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
                self.ended.exception()  # whoever waits gets it; nobody waiting is fine


class Link:
    """An open link. Made by `open`; `aclose` it. When it ends by itself, `ended` is set and every call raises
    `SandboxGone`.
    """

    def __init__(self, stream: GuestStream, generation: int) -> None:
        self.generation = generation
        self.ended = asyncio.Event()
        self.is_unresponsive = False
        """The link ended because nothing answered on it: the guest hangs, its sandbox is paused, or only this stream is
        dead. Another stream tells.
        """
        self.guest_id = ""
        """Names this start of the guest."""
        self.protocol = frames.PROTOCOL
        """What the guest speaks: one that an earlier release started may lack services."""
        self.calls: dict[str, str] = {}
        """The guest's calls at the time of the greeting: id → `running` or `finished`."""
        self._reader = stream.reader
        self._writer = stream.writer
        self._decoder = frames.Decoder()
        self._streams: dict[int, Stream] = {}
        self._calling: set[Stream] = set()
        self._looking: set[asyncio.Task[None]] = set()
        self._next_number = 1
        self._task: asyncio.Task[None] | None = None
        self._reason = "the link to the sandbox ended"
        self._has_let_go = False

    @classmethod
    async def open(cls, stream: GuestStream, generation: int) -> Link:
        """Greets the guest. Raises `SandboxGone` if it does not answer as one, `NewerGeneration` if it serves one."""
        link = cls(stream, generation)
        with contextlib.ExitStack() as failing:
            failing.callback(link._writer.close)
            try:
                async with asyncio.timeout(_HELLO_TIMEOUT_S):
                    await link._greet()
            except TimeoutError as error:
                raise SandboxGone("the guest did not answer in time") from error
            except frames.FrameError as error:
                raise _protocol_broken(error) from error
            failing.pop_all()
        link._task = asyncio.create_task(link._read(), name="sandbox-link")
        return link

    async def aclose(self) -> None:
        """Ends the link; calls go on inside. May be called twice."""
        for task in list(self._looking):
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._end(SandboxGone("the link was closed"))

    def let_go(self) -> None:
        """From now on calls that are cancelled here go on inside, unacknowledged: another link will follow them."""
        self._has_let_go = True

    async def call(
        self, request: dict[str, Any], content: Content = None, on_output: Callable[[bytes], None] | None = None
    ) -> CallOutcome:
        """Carries out a call (services `exec`, `cell`, `file`, `put`) and returns how it ended.

        `request` holds `service`, `call` and what the service needs; the same `call` again follows the one that is
        there.
        `on_output` gets the head of the output as it comes. Cancelling cancels the call inside and waits for its end.

        Raises:
            SandboxGone: the link ended first; the call may go on inside.
            CallForgotten: the guest had this call and does not carry it out again.
            InvalidRequest: the guest refused the request as such.
        """
        stream = self._open(request)
        moments.passed("call.sent")
        self._calling.add(stream)
        head, rest = bytearray(), bytearray()
        answer: list[dict[str, Any]] = []

        def on_data(data: bytes) -> None:
            into = rest if answer else head
            into += data
            if len(head) + len(rest) > _REPLY_LIMIT_BYTES:
                self._end(SandboxGone("the guest sent more than was asked for"))
                return
            stream.take(len(data))
            if on_output is not None and not answer:
                on_output(data)

        stream.on_data = on_data
        stream.on_message = answer.append
        limit_s = request.get("timeout_s")
        due_s = _OVERDUE_S + (limit_s if isinstance(limit_s, int | float) else 0.0)
        overdue = asyncio.get_running_loop().call_later(due_s, self._look_after, stream)
        try:
            await self._send_content(stream, content)
            await stream.end()
        finally:
            overdue.cancel()
            # Cancelled, or the content could not be read to its end.
            if not stream.ended.done() and not self._has_let_go:
                await self._cancel(stream)
            self._streams.pop(stream.number, None)
            self._calling.discard(stream)
        if not answer:
            raise SandboxGone("the guest ended a call without an outcome")
        return read_outcome(answer[0], bytes(head), bytes(rest))

    @property
    def has_calls(self) -> bool:
        """Whether any call is being carried out over this link."""
        return bool(self._calling)

    def stop_calls(self, verdict: str) -> None:
        """Ends every call of this link inside, with a verdict of the guest's `STOPS`; their outcomes come as ever."""
        for stream in self._calling:
            self.send(frames.encode_json(frames.MESSAGE, stream.number, {"stop": verdict}))

    async def stop(self, call_id: str, verdict: str = "cancelled") -> bool:
        """Ends a call by its id, whoever began it, and makes the guest refuse that id from then on.

        True: nothing of it runs. False: 8 seconds were not enough; the guest goes on ending it. May be repeated.

        Raises:
            SandboxGone: the link ended; nobody knows whether the guest heard it.
        """
        if self.protocol < _STOPS_BY_ID:
            request = {"service": "exec", "call": call_id, "attach_only": True}
        else:
            request = {"service": "stop", "call": call_id, "verdict": verdict}
        stream = self._open(request)
        stream.on_data = lambda data: stream.take(len(data))
        try:
            if self.protocol < _STOPS_BY_ID:
                self.send(frames.encode_json(frames.MESSAGE, stream.number, {"stop": verdict}))
            if not await self._ends_soon(stream):
                return False
            with contextlib.suppress(InvalidRequest):  # an earlier guest that does not know the call
                await stream.end()
        finally:
            self._streams.pop(stream.number, None)
        if self.protocol < _STOPS_BY_ID:
            self.acknowledge(call_id)
        return True

    def acknowledge(self, call_id: str) -> None:
        """Lets the guest forget a call whose outcome is stored. It refuses that id from then on."""
        if not self._has_let_go:
            self.send(frames.encode_json(frames.OPEN, self._number(), {"service": "ack", "call": call_id}))

    async def fetch(self, request: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Opens a stream that only sends (service `get`) and yields its bytes as fast as they are taken.

        Raises:
            SandboxGone: the link ended. InvalidRequest: the guest could not do it; the message says why.
        """
        stream = self._open(request)
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        answers: list[dict[str, Any]] = []
        stream.on_data = pieces.put_nowait
        stream.on_message = answers.append
        stream.ended.add_done_callback(lambda _ended: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
                stream.take(len(piece))
            await stream.end()
        finally:
            self.cancel(stream)
        match answers:
            case [{"error": {"message": str(message)}}]:
                raise InvalidRequest(message[:_SHOWN_CHARS])
            case [{"result": dict()}]:
                return
        raise SandboxGone("the guest ended a transfer without an answer")

    def channel(self, request: dict[str, Any]) -> Channel:
        """Opens a stream that stays open both ways (services `terminal`, `connect`, `watch`). Close it.

        Raises:
            SandboxGone: the link has ended. InvalidRequest: the request does not fit into a frame.
        """
        return Channel(self, self._open(request))

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Opens a stream for one message (services `calls`, `warm`, `usage`); empty if the guest only ends it."""
        stream = self._open(request)
        answers: list[dict[str, Any]] = []
        stream.on_message = answers.append
        try:
            await stream.end()
        finally:
            self._streams.pop(stream.number, None)
        return answers[0] if answers else {}

    def send(self, frame: bytes) -> None:
        """Queues a frame."""
        if not self.ended.is_set():
            self._writer.write(frame)

    def forget(self, stream: Stream) -> None:
        """Takes a stream as ended: what still comes on it is dropped."""
        self._streams.pop(stream.number, None)
        stream.finish()

    def cancel(self, stream: Stream) -> None:
        """Ends a stream at once, also in the guest; nothing if it has ended."""
        if stream.number in self._streams:
            self.send(frames.encode_json(frames.RESET, stream.number, {"code": "cancelled", "message": ""}))
        self.forget(stream)

    def _number(self) -> int:
        number, self._next_number = self._next_number, self._next_number + 2
        return number

    def _open(self, request: dict[str, Any]) -> Stream:
        if self.ended.is_set():
            raise SandboxGone(self._reason)
        stream = Stream(self, self._number())
        try:
            frame = frames.encode_json(frames.OPEN, stream.number, request)
        except frames.FrameError as error:
            raise InvalidRequest(f"the call is too large: {error}") from error
        self._streams[stream.number] = stream
        self.send(frame)
        return stream

    async def _send_content(self, stream: Stream, content: Content) -> None:
        if content is None:
            return
        if isinstance(content, bytes):
            await self.send_data(stream, content)
        else:
            async for piece in content:
                await self.send_data(stream, piece)
        if not stream.ended.done():
            self.send(frames.encode(frames.END, stream.number))

    async def send_data(self, stream: Stream, data: bytes) -> None:
        """Sends as fast as the guest takes it; what is left when the stream ends is dropped."""
        view = memoryview(data)
        while view and not stream.ended.done():
            if stream.room_bytes == 0:
                stream.has_room.clear()
                await stream.has_room.wait()
                continue
            await self._drain()
            piece = bytes(view[: min(stream.room_bytes, _SEND_BYTES)])
            stream.room_bytes -= len(piece)
            self.send(frames.encode(frames.DATA, stream.number, piece))
            view = view[len(piece) :]

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise SandboxGone(self._reason) from error

    async def _cancel(self, stream: Stream) -> None:
        self.send(frames.encode_json(frames.MESSAGE, stream.number, {"stop": "cancelled"}))
        await self._ends_soon(stream)

    async def _ends_soon(self, stream: Stream) -> bool:
        """Whether what was told to stop does. If not, somebody looks whether the guest lives; nobody waits for that."""
        _, late = await asyncio.wait([stream.ended], timeout=_CANCEL_GRACE_S)
        if late:
            self._look(self._probe())
        return not late

    def _look_after(self, stream: Stream) -> None:
        """Of a call that is over its limit: asks again and again, until it ends or the guest does not answer."""

        async def look() -> None:
            while not stream.ended.done():
                await self._probe()
                await asyncio.wait([stream.ended], timeout=_OVERDUE_S)

        if not stream.ended.done():
            self._look(look())

    def _look(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="overdue-call")
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _probe(self) -> None:
        """Ends the link if the guest does not answer: what hangs so far down is not waited for."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await self.ask({"service": "calls"})
        except TimeoutError:
            self.is_unresponsive = True
            self._end(SandboxGone("the sandbox does not answer any more"))
        except (SandboxGone, InvalidRequest):
            return

    async def _greet(self) -> None:
        hello = {"protocol": frames.OLDEST_PROTOCOL, "generation": self.generation}
        self._writer.write(frames.encode_json(frames.HELLO, 0, hello))
        while True:
            data = await self._receive()
            for kind, _stream, payload in self._decoder.feed(data):
                message = frames.decode_json(payload)
                if kind != frames.HELLO:
                    raise self._refused(message)
                if message.get("protocol") not in _PROTOCOLS:
                    raise SandboxGone("the guest speaks another protocol")
                self.protocol = message["protocol"]
                self.guest_id = str(message.get("guest", ""))[:64]
                calls = message.get("calls")
                self.calls = {str(key): str(value) for key, value in calls.items()} if isinstance(calls, dict) else {}
                return

    def _refused(self, message: dict[str, Any]) -> SandboxGone:
        reason = f"the guest refused the link: {str(message.get('message', 'no reason given'))[:_SHOWN_CHARS]}"
        newest = message.get("generation")
        if isinstance(newest, int) and self.generation < newest < _GENERATION_LIMIT:
            return NewerGeneration(reason, generation=newest)
        return SandboxGone(reason)

    async def _read(self) -> None:
        try:
            while True:
                for kind, number, payload in self._decoder.feed(await self._receive()):
                    self._take(kind, number, payload)
        except SandboxGone as error:
            self._end(error)
        except frames.FrameError as error:
            self._end(_protocol_broken(error))
        finally:
            # Also after a mistake of ours: nobody may wait for what will not be read.
            self._end(SandboxGone("the link is not read any more"))

    async def _receive(self) -> bytes:
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError as error:
            raise SandboxGone(f"the link to the sandbox broke: {error}") from error
        if not data:
            raise SandboxGone("the sandbox ended, or the link to it was cut")
        return data

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if number == 0 and kind == frames.RESET:
            raise SandboxGone(f"the guest ended the link: {_reason(payload)}")
        stream = self._streams.get(number)
        if stream is None:
            return  # a stream that we gave up
        if kind == frames.DATA:
            stream.expected_bytes -= len(payload)
            if stream.expected_bytes < 0:
                raise frames.FrameError("DATA without credit")
            stream.on_data(payload)
        elif kind == frames.MESSAGE:
            if stream.messages_left == 0:
                raise frames.FrameError("more MESSAGE frames than the service has")
            stream.messages_left -= 1
            stream.on_message(frames.decode_json(payload))
        elif kind == frames.CREDIT:
            stream.room_bytes += frames.decode_credit(payload)
            stream.has_room.set()
        elif kind == frames.END and stream.on_end is not None:
            stream.on_end()
        elif kind == frames.END:
            del self._streams[number]
            stream.finish()
        elif kind == frames.RESET:
            refusal = _refusal(payload)
            del self._streams[number]
            stream.finish(refusal)

    def _end(self, error: SandboxGone) -> None:
        if self.ended.is_set():
            return
        self._reason = error.message
        self.ended.set()
        self._writer.close()
        for stream in list(self._streams.values()):
            stream.finish(error)


def _protocol_broken(error: frames.FrameError) -> SandboxGone:
    return SandboxGone(f"the guest does not keep to the protocol: {error}")


def _refusal(payload: bytes) -> Exception:
    message = f"the guest refused: {_reason(payload)}"
    match frames.decode_json(payload).get("code"):
        case "forgotten":
            return CallForgotten(message)
        case "too_many":
            return LimitExceeded(message)
    return InvalidRequest(message)


def _reason(payload: bytes) -> str:
    return str(frames.decode_json(payload).get("message"))[:_SHOWN_CHARS]
