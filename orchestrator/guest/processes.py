"""Calls that run in a hand: a process, or a file operation. Time limits, verdicts, and killing whole trees.

A call ends when its first process exits, not when the last holder of its pipe does. Processes left in the background
live on below their hand; what they still write is read and dropped. A time-out or cancel kills all that descends
from the hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional

from .calls import Call
from .hands import Answer, HandPool, HandProcess, NoHand, encode_request, exit_of
from .reactor import Reactor, Timer
from .trees import Sweep
from .verdicts import Judge

_PIPE_READ_BYTES = 256 * 1024
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_INPUT_PIPE_BYTES = 512 * 1024
_START_TIMEOUT_S = 10.0
"""A hand that the agent stopped never answers."""
_CROWD_CHECK_S = 1.0
"""Shells try for minutes to make a process before they give up."""


class InputPipe:
    """Feeds a pipe without ever blocking the guest. `on_taken` is told how many bytes went in (or nowhere)."""

    def __init__(self, reactor: Reactor, fd: int, on_taken: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._fd: Optional[int] = fd
        self._on_taken = on_taken
        self._waiting: Deque[memoryview] = deque()
        self._ended = False
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # a limit of the host's
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _INPUT_PIPE_BYTES)

    def feed(self, data: Optional[bytes]) -> None:
        """Adds input; None ends it."""
        if data is None:
            self._ended = True
        elif self._fd is None:
            self._on_taken(len(data))  # nobody reads any more: taken and dropped
        else:
            self._waiting.append(memoryview(data))
        self._write()

    def close(self) -> None:
        if self._fd is not None:
            self._reactor.forget(self._fd)
            os.close(self._fd)
            self._fd = None
        if self._waiting:
            dropped_bytes = sum(map(len, self._waiting))
            self._waiting.clear()
            self._on_taken(dropped_bytes)

    def _write(self) -> None:
        if self._fd is None:
            return
        try:
            while self._waiting:
                written_bytes = os.write(self._fd, self._waiting[0])
                self._waiting[0] = self._waiting[0][written_bytes:]
                if not self._waiting[0]:
                    self._waiting.popleft()
                self._on_taken(written_bytes)
        except BlockingIOError:
            self._reactor.watch(self._fd, on_writable=self._write)
            return
        except OSError:
            self.close()
            return
        if self._fd is None:
            return  # who was told of what went in has closed it: the link is gone
        self._reactor.forget(self._fd)
        if self._ended:
            self.close()


class OutputPipe:
    """Reads a pipe to its end, also after the call has ended, so that no writer ever blocks."""

    def __init__(self, reactor: Reactor, fd: int, on_data: Callable[[bytes], None]) -> None:
        self._reactor = reactor
        self._fd: Optional[int] = fd
        self.on_data = on_data
        os.set_blocking(fd, False)
        reactor.watch(fd, self._read)

    def drain(self) -> None:
        """Reads what is in the pipe now: at most its capacity, since a background process may write for ever."""
        if self._fd is None:
            return
        capacity_bytes = fcntl.fcntl(self._fd, _F_GETPIPE_SZ)
        while capacity_bytes > 0 and self._fd is not None:
            read_bytes = self._read()
            if read_bytes == 0:
                return
            capacity_bytes -= read_bytes

    def close(self) -> None:
        if self._fd is not None:
            self._reactor.forget(self._fd)
            os.close(self._fd)
            self._fd = None

    def _read(self) -> int:
        assert self._fd is not None
        try:
            data = os.read(self._fd, _PIPE_READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if data:
            self.on_data(data)
        else:
            self.close()
        return len(data)


class HandTask:
    """Carries out one call in one hand."""

    def __init__(
        self,
        reactor: Reactor,
        pool: HandPool,
        judge: Judge,
        call: Call,
        request: Dict[str, Any],
        *,
        timeout_s: float,
        takes_input: bool = False,
    ) -> None:
        """Begins at once.

        Raises:
            FrameError: the request is too large. OSError: the guest has no descriptors left. Nothing was begun.
        """
        message = encode_request(request)
        self._reactor = reactor
        self._pool = pool
        self._call = call
        self._case = judge.open()
        self._started = reactor.now()
        self._pid: Optional[int] = None
        self._verdict: Optional[str] = None
        self._input: Optional[InputPipe] = None
        try:
            self._hand = pool.take()
        except NoHand:
            end_background(reactor, pool)
            call.finish({"verdict": "pids", "exit_code": None, "signal": None})
            return
        try:
            ends = open_ends(takes_input)
        except OSError:
            pool.give(self._hand)
            raise
        self._hand.on_answer = self._answer
        self._hand.on_end = self._hand_ended
        self._deadline = reactor.after(timeout_s, lambda: self.stop("timeout"))
        self._start_deadline: Optional[Timer] = None
        if request["do"] == "spawn":  # a file operation's first answer is its result
            self._start_deadline = reactor.after(_START_TIMEOUT_S, self._hand.kill)
            if pool.keepers:
                reactor.after(_CROWD_CHECK_S, self._make_room)
        call.stop = self.stop
        self._send(message, *ends)

    def stop(self, verdict: str) -> None:
        """Kills the call's whole tree and ends the call with `verdict`."""
        if self._call.outcome is None and self._verdict is None:
            self._verdict = verdict
            TreeKill(self._reactor, self._hand)

    def _make_room(self) -> None:
        if self._call.outcome is None and self._case.is_crowded():
            end_background(self._reactor, self._pool)

    def _send(self, message: bytes, output_end: int, write_end: int, read_end: int, input_end: int = -1) -> None:
        self._output = OutputPipe(self._reactor, output_end, self._call.write)
        if input_end >= 0:
            self._input = InputPipe(self._reactor, input_end, self._call.input_taken)
            self._call.take_input = self._input.feed
        self._hand.send(message, [read_end, write_end])
        os.close(read_end)
        os.close(write_end)

    def _answer(self, answer: Answer) -> None:
        self._has_started()
        if "pid" in answer:
            self._pid = answer["pid"]
        elif "exit" in answer:
            self._end(exit_of(answer["exit"]), reusable=bool(answer.get("idle")))
        elif "result" in answer:
            self._end({"verdict": "done", "result": answer["result"]}, reusable=True)
        elif "error" in answer:
            if answer["error"].get("code") == "no_process":
                end_background(self._reactor, self._pool)
                self._end({"verdict": "pids", "exit_code": None, "signal": None}, reusable=True)
            else:
                self._end(self._case.refusal(answer["error"]), reusable=True)

    def _has_started(self) -> None:
        if self._start_deadline is not None:
            self._start_deadline.cancel()

    def _hand_ended(self) -> None:
        self._end({"exit_code": None, "signal": int(signal.SIGKILL)}, reusable=False, lost=True)

    def _end(self, outcome: Dict[str, Any], *, reusable: bool, lost: bool = False) -> None:
        self._has_started()
        if self._call.outcome is not None:
            return
        if self._verdict is not None and not lost:
            return  # a kill is under way; it ends the call when nothing is left
        self._deadline.cancel()
        self._call.stop = lambda _verdict: None  # what is left in the pipe has been written by then
        self._output.drain()
        self._output.on_data = lambda _data: None
        if self._input is not None:
            self._input.close()
        if self._verdict is not None or "verdict" not in outcome:
            outcome.update(self._case.verdict(outcome) if self._verdict is None else {"verdict": self._verdict})
            if outcome.get("exit_code") != 0 and self._case.is_crowded():
                # What earlier calls left running fills the sandbox; without this no later call would get through.
                end_background(self._reactor, self._pool)
        outcome["duration_ms"] = round((self._reactor.now() - self._started) * 1000, 3)
        if reusable:
            self._pool.give(self._hand)
        elif self._pid is not None and not lost:
            self._pool.retire(self._hand)
        self._call.finish(outcome)


def open_ends(takes_input: bool) -> List[int]:
    """Output's reading and writing end, input's reading end, and if there is input its writing end."""
    opened: List[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe() if takes_input else [os.open(os.devnull, os.O_RDONLY)]
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    return opened


class TreeKill:
    """Kills everything below a hand, then the hand."""

    def __init__(self, reactor: Reactor, hand: HandProcess) -> None:
        hand.is_doomed = True
        Sweep(reactor, hand.family, hand.kill)


def end_background(reactor: Reactor, pool: HandPool) -> None:
    """Kills what ended calls left in the background: the way out when nothing can be started any more."""
    for hand in pool.keepers:
        TreeKill(reactor, hand)
