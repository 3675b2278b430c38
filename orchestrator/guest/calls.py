"""Calls: what the orchestrator asked for by id, what came out, and who is following.

A call's id is given by the orchestrator; the same id again is the same call. Its output (head and tail within a
limit) and outcome are kept until the orchestrator acknowledges them, also while no link is there (design 4.2). Its
input is taken once: whoever sends it again after a cut is taken on from where it stopped. An id that was forgotten is
refused: whatever the orchestrator does, nothing is carried out twice here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence

if TYPE_CHECKING:
    from .link import Stream

_KEPT_CALLS = 256
"""Finished calls that nobody acknowledged; beyond, the oldest are forgotten. An orchestrator acknowledges within a
second.
"""
_KEPT_BYTES = 64 << 20
"""Of their output and attachments together, which are the sandbox's memory. The latest is kept whatever its size."""
_FORGOTTEN_CALLS = 4096
"""Ids that are refused; beyond, the oldest could be used again. No orchestrator asks for so old ones."""

OUTPUT_TOTAL_LIMIT_BYTES = 1 << 30
"""What one call may write at most unless the orchestrator says otherwise; far more than is kept."""

STOPS = ("cancelled", "disk_full")
"""What the orchestrator may end a call with."""

Outcome = Dict[str, Any]


class Output:
    """Head and tail of what was written, each at most half of `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._half = max(1, limit_bytes // 2)
        self.head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0

    def add(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = self._half - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 2 * self._half:
                del self._tail[: -self._half]

    @property
    def tail(self) -> bytes:
        return bytes(self._tail[-self._half :])

    @property
    def dropped_bytes(self) -> int:
        """What is in neither head nor tail."""
        return self.total_bytes - len(self.head) - len(self.tail)


class Forgotten(Exception):
    """The call was acknowledged, stopped or kept for too long. Whoever asks for it again gets nothing carried out."""


class Call:
    """One call. Whoever carries it out writes and finishes; followers are told."""

    def __init__(
        self, call_id: str, output_limit_bytes: int, output_total_limit_bytes: int = OUTPUT_TOTAL_LIMIT_BYTES
    ) -> None:
        self.id = call_id
        self.output = Output(output_limit_bytes)
        self.outcome: Optional[Outcome] = None
        self.attachments: Sequence[bytes] = ()
        self.stop: Callable[[str], None] = lambda _verdict: None
        """Ends the call with a verdict: `cancelled`, `output_limit`, `disk_full`. May be called again and too late."""
        self.take_input: Callable[[Optional[bytes]], None] = lambda data: self.input_taken(len(data or b""))
        """Gets pieces of input, then None. Whoever takes them says so by `input_taken`."""
        self.followers: List["Follower"] = []
        self.on_end: List[Callable[[], None]] = []
        """Called once, when followers have been told of the end."""
        self._output_total_limit_bytes = output_total_limit_bytes
        self._source: Optional["Stream"] = None
        self._input_bytes = 0
        self._has_input_ended = False

    def attach(self, stream: "Stream") -> None:
        """Takes input, from its very beginning, and cancels from `stream`."""
        self._source = stream
        position = 0

        def on_data(data: bytes) -> None:
            nonlocal position
            fresh = data if self.outcome is None else b""
            known_bytes = self._input_bytes - position
            if known_bytes > 0:
                fresh = fresh[known_bytes:]
            position += len(data)
            stream.take(len(data) - len(fresh))
            if fresh:
                self._input_bytes += len(fresh)
                self.take_input(fresh)

        def on_end() -> None:
            if not self._has_input_ended and self.outcome is None:
                self._has_input_ended = True
                self.take_input(None)

        def on_message(message: Dict[str, Any]) -> None:
            if message.get("stop") in STOPS:
                self.stop(message["stop"])

        stream.on_data = on_data
        stream.on_end = on_end
        stream.on_message = on_message

    def input_taken(self, taken_bytes: int) -> None:
        """Gives whoever sends the input room for so many more bytes."""
        if self._source is not None:
            self._source.take(taken_bytes)

    def write(self, data: bytes) -> None:
        """Adds output; ignored after the end."""
        if self.outcome is None:
            self.output.add(data)
            self._tell()
            if self.output.total_bytes > self._output_total_limit_bytes:
                self.stop("output_limit")

    def finish(self, outcome: Outcome, attachments: Sequence[bytes] = ()) -> None:
        """Ends the call; the first end counts."""
        if self.outcome is not None:
            return
        self.attachments = attachments
        self.outcome = dict(
            outcome,
            total_bytes=self.output.total_bytes,
            dropped_bytes=self.output.dropped_bytes,
            tail_bytes=len(self.output.tail),
            attachment_bytes=[len(each) for each in attachments],
        )
        self._tell()
        for callback in self.on_end:
            callback()

    @property
    def kept_bytes(self) -> int:
        """Of what came out."""
        return self.output.total_bytes - self.output.dropped_bytes + sum(map(len, self.attachments))

    def _tell(self) -> None:
        for follower in list(self.followers):
            follower.pump()


class Follower:
    """Sends a call to a stream: output from an offset as it comes, the outcome, the tail, attachments, then END."""

    def __init__(self, call: Call, stream: "Stream", start_bytes: int) -> None:
        self._call = call
        self._stream = stream
        self._sent_bytes = start_bytes
        self._rest: Optional[memoryview] = None
        call.followers.append(self)
        stream.on_credit = self.pump
        stream.on_close = self.leave

    def leave(self) -> None:
        """Follows no more; the call goes on."""
        if self in self._call.followers:
            self._call.followers.remove(self)

    def pump(self) -> None:
        """Sends what there is credit for."""
        head = self._call.output.head
        while self._sent_bytes < len(head) and self._stream.room_bytes > 0:
            piece = bytes(head[self._sent_bytes : self._sent_bytes + self._stream.room_bytes])
            self._sent_bytes += self._stream.send(piece)
        if self._call.outcome is None or self._sent_bytes < len(head):
            return
        if self._rest is None:
            self._stream.send_message(self._call.outcome)
            self._rest = memoryview(b"".join([self._call.output.tail, *self._call.attachments]))
        while self._rest and self._stream.room_bytes > 0:
            self._rest = self._rest[self._stream.send(bytes(self._rest[: self._stream.room_bytes])) :]
        if not self._rest:
            self.leave()
            self._stream.end()


class CallBook:
    """All calls that may still be asked for, and the ids of those that may not."""

    def __init__(self) -> None:
        self._calls: Dict[str, Call] = {}
        self._forgotten: Dict[str, None] = {}

    def find(self, call_id: str) -> Optional[Call]:
        """The call, or None if it has never come. Raises `Forgotten`."""
        if call_id in self._forgotten:
            raise Forgotten(f"call {call_id!r} is over and forgotten")
        return self._calls.get(call_id)

    def add(self, call: Call) -> None:
        self._calls[call.id] = call
        if call.outcome is None:
            call.on_end.append(lambda: self._ended(call))
        else:
            self._ended(call)

    def forget(self, call_id: str) -> None:
        """Nobody will ask for the call, which may not have come yet. One that runs is forgotten when it ends."""
        self._forgotten.pop(call_id, None)
        self._forgotten[call_id] = None
        if len(self._forgotten) > _FORGOTTEN_CALLS:
            del self._forgotten[next(iter(self._forgotten))]
        call = self._calls.get(call_id)
        if call is not None and call.outcome is not None:
            del self._calls[call_id]

    def stop(self, call_id: str, verdict: str, on_stopped: Callable[[], None]) -> None:
        """Ends a call and forgets it. `on_stopped` comes when nothing of it runs, at once if nothing does now."""
        call = self._calls.get(call_id)
        self.forget(call_id)
        if call is None or call.outcome is not None:
            on_stopped()
        else:
            call.on_end.append(on_stopped)
            call.stop(verdict)

    def states(self) -> Dict[str, str]:
        """Id → `running` or `finished`."""
        return {each.id: "running" if each.outcome is None else "finished" for each in self._calls.values()}

    def _ended(self, call: Call) -> None:
        del self._calls[call.id]
        if call.id in self._forgotten:
            return
        self._calls[call.id] = call  # behind those that ended before
        finished = [each for each in self._calls.values() if each.outcome is not None]
        kept_bytes = sum(each.kept_bytes for each in finished)
        for kept_calls, oldest in zip(range(len(finished), 1, -1), finished):
            if kept_calls <= _KEPT_CALLS and kept_bytes <= _KEPT_BYTES:
                return
            kept_bytes -= oldest.kept_bytes
            self.forget(oldest.id)
