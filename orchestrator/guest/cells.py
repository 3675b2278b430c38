"""Calls that run a cell in the sandbox's one Python interpreter. The guest's side; `interpreter.py` is the other.

Cells queue: one runs at a time, state lasts between them. Cancel and time-out interrupt the cell first (SIGINT) and
keep the state; only if the interpreter does not come back it is killed and the next cell starts a new one, and the
outcome says so.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from typing import AbstractSet, Any, Deque, Dict, List, Optional, Set, Tuple

from .calls import Call
from .frames import DATA, END, MAX_PAYLOAD_BYTES, MESSAGE, OPEN, Decoder, FrameError, decode_json, encode, encode_json
from .hands import Answer, HandPool, NoHand, encode_request, exit_of
from .processes import (
    OutputPipe,
    TreeKill,
    end_background,
    open_ends,
)
from .reactor import Reactor
from .trees import CLOCK_TICKS_PER_S, Sweep, send_signal, started_at
from .verdicts import Judge

_INTERRUPT_GRACE_S = 1.5
_EXIT_GRACE_S = 0.5
_ATTACHMENTS_LIMIT = 16
_ATTACHMENTS_LIMIT_BYTES = 16 << 20
_TYPE_LIMIT_CHARS = 100
_SEND_TIMEOUT_S = 2.0
NOT_BEGUN = {"exit_code": None, "signal": None, "duration_ms": 0}
"""The outcome of a cell that was stopped before it began, without its verdict."""
_PROGRAM = "import sys; sys.path[:0] = [{parent!r}]; from {package}.interpreter import main; main()"


class Cell:
    """A cell that waits or runs."""

    def __init__(self, call: Call, code: bytes, env: Dict[str, str], timeout_s: float) -> None:
        self.call = call
        self.code = code
        self.env = env
        self.timeout_s = timeout_s


class CellQueue:
    """Runs cells one after another; starts an interpreter when there is none."""

    def __init__(self, reactor: Reactor, pool: HandPool, judge: Judge, cwd: str) -> None:
        self._reactor = reactor
        self._pool = pool
        self._judge = judge
        self._cwd = cwd
        self._waiting: Deque[Cell] = deque()
        self._running: Optional[RunningCell] = None
        self._interpreter: Optional[Interpreter] = None

    def add(self, cell: Cell) -> None:
        """Queues a cell; its call finishes in any case."""

        def withdraw(verdict: str) -> None:
            if cell in self._waiting:
                self._waiting.remove(cell)
                cell.call.finish(dict(NOT_BEGUN, verdict=verdict))

        cell.call.stop = withdraw
        self._waiting.append(cell)
        self._next()

    def warm(self, env: Dict[str, str]) -> None:
        """Starts the interpreter before the first cell needs it. Raises `NoHand`, `OSError`."""
        if self._interpreter is None:
            self._interpreter = Interpreter(self._reactor, self._pool, env, self._cwd, self._interpreter_ended)

    def _next(self) -> None:
        if self._running is None and self._waiting:
            cell = self._waiting.popleft()
            try:
                self.warm(cell.env)
            except NoHand:
                end_background(self._reactor, self._pool)
                cell.call.finish({"verdict": "pids", "exit_code": None, "signal": None})
                self._reactor.after(0, self._next)
                return
            except OSError as error:
                cell.call.finish({"verdict": "refused", "error": {"code": "failed", "message": str(error)}})
                self._reactor.after(0, self._next)
                return
            assert self._interpreter is not None
            self._running = RunningCell(self._reactor, self._judge, self._interpreter, cell, self._cell_ended)

    def _cell_ended(self) -> None:
        self._running = None
        # Not from within the callback of the cell that just ended.
        self._reactor.after(0, self._next)

    def _interpreter_ended(self, answer: Optional[Answer]) -> None:
        self._interpreter = None
        if self._running is not None:
            lost: Dict[str, Optional[int]] = {"exit_code": None, "signal": int(signal.SIGKILL)}
            self._running.interpreter_ended(exit_of(answer["exit"]) if answer else lost)


class RunningCell:
    """The one cell that runs now."""

    def __init__(self, reactor: Reactor, judge: Judge, interpreter: "Interpreter", cell: Cell, on_end: Any) -> None:
        self._reactor = reactor
        self._interpreter = interpreter
        self._call = cell.call
        self._on_end = on_end
        self._verdict: Optional[str] = None
        self._case = judge.open()
        self._started = reactor.now()
        self._started_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._deadline = reactor.after(cell.timeout_s, lambda: self.stop("timeout"))
        cell.call.stop = self.stop
        interpreter.run(cell, self._done)

    def stop(self, verdict: str) -> None:
        if self._verdict is None and self._call.outcome is None:
            self._verdict = verdict
            self._interpreter.interrupt()
            self._deadline.cancel()
            self._deadline = self._reactor.after(_INTERRUPT_GRACE_S / 2, self._insist)

    def _insist(self) -> None:
        # The first interrupt may have come before the code ran.
        self._interpreter.interrupt()
        self._deadline = self._reactor.after(_INTERRUPT_GRACE_S / 2, self._interpreter.kill)

    def _done(self, is_ok: bool, kinds: List[str], attachments: List[bytes]) -> None:
        ended = {"exit_code": 0 if is_ok else 1, "signal": None}
        outcome = dict(self._judged(ended, ended), state="kept", attachment_types=kinds)
        if self._verdict is None:
            self._end(outcome, attachments)
        else:
            self._deadline.cancel()
            Sweep(self._reactor, self._started_processes, lambda: self._end(outcome, attachments))

    def interpreter_ended(self, ended: Dict[str, Optional[int]]) -> None:
        failure = dict(ended, exit_code=ended["exit_code"] or 1)  # however it ended, the cell did not
        self._end(dict(self._judged(ended, failure), state="lost"), [])

    def _judged(self, ended: Dict[str, Any], failure: Dict[str, Any]) -> Dict[str, Any]:
        return dict(ended, **({"verdict": self._verdict} if self._verdict else self._case.verdict(failure)))

    def _end(self, outcome: Dict[str, Any], attachments: List[bytes]) -> None:
        if self._call.outcome is not None:
            return  # its interpreter ended during the sweep
        self._deadline.cancel()
        self._call.stop = lambda _verdict: None  # what is left in the pipe has been written by then
        outcome["duration_ms"] = round((self._reactor.now() - self._started) * 1000, 3)
        self._interpreter.release()
        self._on_end()
        self._call.finish(outcome, attachments)

    def _started_processes(self, known: AbstractSet[int]) -> Set[int]:
        earliest = self._started_boot - 1 / CLOCK_TICKS_PER_S
        return {pid for pid in self._interpreter.below(known) if started_at(pid) >= earliest}


class Interpreter:
    """One interpreter process in a hand of its own."""

    def __init__(self, reactor: Reactor, pool: HandPool, env: Dict[str, str], cwd: str, on_end: Any) -> None:
        self._reactor = reactor
        self._pool = pool
        self._on_end = on_end
        self._on_done: Any = None
        self._decoder = Decoder()
        self._header: Optional[Dict[str, Any]] = None
        self._attached = bytearray()
        self.pid = -1
        self._hand = pool.take()
        try:
            output_end, write_end, null = open_ends(takes_input=False)
        except OSError:
            pool.give(self._hand)
            raise
        try:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            for fd in (output_end, write_end, null):
                os.close(fd)
            pool.give(self._hand)
            raise
        self._control.settimeout(_SEND_TIMEOUT_S)
        self._output = OutputPipe(self._reactor, output_end, lambda _data: None)
        self._hand.on_answer = self._answer
        self._hand.on_end = lambda: self._ended(None)
        self._start(env, cwd, [null, write_end, theirs.detach()])
        reactor.watch(self._control.fileno(), self._receive)

    def _start(self, env: Dict[str, str], cwd: str, theirs: List[int]) -> None:
        folder = os.path.dirname(os.path.abspath(__file__))
        package = __package__ or "guest"
        for _ in package.split("."):
            folder = os.path.dirname(folder)
        program = _PROGRAM.format(parent=folder, package=package)
        # Not isolated (-I): the agent's own packages and variables are its business.
        argv = ["python3", "-c", program]
        request = encode_request({"do": "spawn", "argv": argv, "cwd": cwd, "env": env})
        self._hand.send(request, theirs)
        for fd in theirs:
            os.close(fd)

    def run(self, cell: Cell, on_done: Any) -> None:
        """Sends a cell; `on_done(is_ok, attachment types, attachments)` comes when it ends by itself."""
        self._on_done = on_done
        self._output.on_data = cell.call.write
        message = encode_json(OPEN, 1, {"env": cell.env})
        for start in range(0, len(cell.code), MAX_PAYLOAD_BYTES):
            message += encode(DATA, 1, cell.code[start : start + MAX_PAYLOAD_BYTES])
        try:
            self._control.sendall(message + encode(END, 1))
        except OSError:
            self.kill()

    def interrupt(self) -> None:
        if self.pid > 0:
            send_signal(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Ends the interpreter and all below it; `on_end` follows when nothing of it is left."""
        if not self._hand.is_doomed:
            TreeKill(self._reactor, self._hand)

    def below(self, known: AbstractSet[int]) -> Set[int]:
        """What its cells started and still runs, without what is known of it; also what its parents left behind."""
        return self._hand.family({self.pid, *known}) - {self.pid}

    def release(self) -> None:
        """Takes what the cell wrote before its end; later output belongs to no cell and is dropped."""
        self._output.drain()
        self._output.on_data = lambda _data: None
        self._on_done = None

    def _answer(self, answer: Answer) -> None:
        if "pid" in answer:
            self.pid = answer["pid"]
        elif "exit" in answer:
            if self._hand.is_doomed:
                return  # its hand's end says that nothing is left
            self._ended(answer)
            if answer.get("idle"):
                self._pool.give(self._hand)
            else:
                self._pool.retire(self._hand)
        elif "error" in answer:
            self._output.on_data(answer["error"]["message"].encode() + b"\n")
            self._ended(None)
            self._pool.give(self._hand)

    def _ended(self, answer: Optional[Answer]) -> None:
        if self._on_end is None:
            return
        on_end, self._on_end = self._on_end, None
        self._reactor.forget(self._control.fileno())
        self._control.close()
        on_end(answer)

    def _receive(self) -> None:
        try:
            data = self._control.recv(256 * 1024)
            for kind, _stream, payload in self._decoder.feed(data):
                self._take(kind, payload)
        except (OSError, FrameError):
            data = b""
        if not data and self._control.fileno() >= 0:
            self._reactor.forget(self._control.fileno())
            # It has ended, and its exit status is on the way; or it only closed its end, and is of no more use.
            self._reactor.after(_EXIT_GRACE_S, self._kill_unless_ended)

    def _kill_unless_ended(self) -> None:
        if self._on_end is not None:
            self.kill()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == MESSAGE:
            self._header = decode_json(payload)
            self._attached = bytearray()
        elif kind == DATA:
            self._attached += payload
            if len(self._attached) > _ATTACHMENTS_LIMIT_BYTES:
                raise FrameError("too many attachments")
        elif kind == END and self._header is not None and self._on_done is not None:
            header, self._header = self._header, None
            kinds, sizes = _attachments_of(header)
            attachments = []
            for size in sizes:
                attachments.append(bytes(self._attached[:size]))
                del self._attached[:size]
            self._on_done(bool(header.get("ok")), kinds, attachments)


def _attachments_of(header: Dict[str, Any]) -> Tuple[List[str], List[int]]:
    """Types and sizes. The agent's code can write to the interpreter's socket too: what it says must not end the guest.

    Raises:
        FrameError: not what an interpreter says.
    """
    kinds, sizes = header.get("types"), header.get("sizes")
    if not isinstance(kinds, list) or not isinstance(sizes, list) or not len(kinds) == len(sizes) <= _ATTACHMENTS_LIMIT:
        raise FrameError("the interpreter's answer is damaged")
    if not all(isinstance(kind, str) and len(kind) <= _TYPE_LIMIT_CHARS for kind in kinds):
        raise FrameError("an attachment's type is damaged")
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise FrameError("an attachment's size is damaged")
    return kinds, sizes
