"""Terminals: a process with a pseudo-terminal, for people. The process runs below a hand as `agent`.

A terminal ends with its stream: nobody follows it again. Its end is a hang-up, as if the line was cut: the kernel sends
SIGHUP when the guest closes its side; what is still there after a grace is killed with all that descends from it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
from typing import Any, Dict, List, Optional, Tuple

from .frames import FrameError
from .hands import Answer, HandPool, NoHand, User, encode_request, exit_of
from .link import Stream
from .processes import InputPipe, TreeKill
from .pumps import Pump
from .reactor import Reactor, Timer

_HANGUP_GRACE_S = 2.0
_START_TIMEOUT_S = 10.0
"""A hand that the agent stopped never answers."""
_SIZE_LIMIT = 1000


class Terminal:
    """One terminal on one stream. MESSAGE in: {"resize": {"rows", "cols"}}; END in: hang up. At the end MESSAGE
    {"exit": {"exit_code", "signal"}}, then END.
    """

    def __init__(
        self,
        reactor: Reactor,
        pool: HandPool,
        stream: Stream,
        argv: List[str],
        env: Dict[str, str],
        cwd: str,
        size: bytes,
    ) -> None:
        """Begins at once. `size` is what `window_size` made. Raises `NoHand`, `FrameError`, `OSError`: no terminal."""
        self._reactor = reactor
        self._pool = pool
        self._stream = stream
        self._exit: Optional[Dict[str, Any]] = None
        self._grace: Optional[Timer] = None
        self._has_started = False
        self._is_to_hang_up = False
        self._is_hung_up = False
        self.is_over = False
        """Nothing of it runs any more, or only what it left in the background after a normal end."""
        master, self._slave = _open(pool.user)
        writer = -1
        try:
            # Of its own: the reactor knows one reader or writer for each descriptor.
            writer = os.dup(master)
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)
            task = {"do": "spawn", "argv": argv, "env": env, "cwd": cwd, "terminal": os.ttyname(self._slave)}
            message = encode_request(task)
            self._hand = pool.take()
        except (OSError, NoHand, FrameError):
            for fd in (master, self._slave, writer):
                if fd >= 0:
                    os.close(fd)
            raise
        self._master = master
        self._hand.on_answer = self._answered
        self._hand.on_end = self._hand_ended
        self._start_deadline = reactor.after(_START_TIMEOUT_S, self._hand.kill)
        self._hand.send(message, [self._slave, self._slave])
        self._input = InputPipe(reactor, writer, stream.take)
        stream.on_data = self._input.feed
        stream.on_message = self._on_message
        stream.on_end = self._hang_up
        stream.on_close = self._hang_up
        self._output = Pump(reactor, master, stream, self._all_sent)

    def _on_message(self, message: Dict[str, Any]) -> None:
        try:
            size = window_size(message["resize"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        if not self._is_hung_up and self._exit is None:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _answered(self, answer: Answer) -> None:
        self._start_deadline.cancel()
        if "pid" in answer:
            self._has_started = True
            if self._is_to_hang_up:
                self._hang_up()
        elif "exit" in answer:
            self._ended(exit_of(answer["exit"]), is_idle=bool(answer.get("idle")))
        elif "error" in answer:
            self._pool.give(self._hand)
            self.is_over = True
            self._stream.reset(str(answer["error"].get("code")), str(answer["error"].get("message")))
            self._hang_up()

    def _hand_ended(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
        self.is_over = True
        if self._exit is None:
            self._show_exit({"exit_code": None, "signal": int(signal.SIGKILL)})

    def _ended(self, ended: Dict[str, Optional[int]], *, is_idle: bool) -> None:
        if is_idle:
            if self._grace is not None:
                self._grace.cancel()
            self._pool.give(self._hand)
            self.is_over = True
        elif not self._is_hung_up:
            self._pool.retire(self._hand)
            self.is_over = True
        # Else what ignores the hang-up is killed with the hand when the grace is over.
        self._show_exit(ended)

    def _show_exit(self, ended: Dict[str, Optional[int]]) -> None:
        self._exit = {"exit": ended}
        self._input.close()
        self._close_slave()
        if self._is_hung_up:
            self._all_sent(None)
        else:
            self._output.finish()

    def _all_sent(self, _problem: Optional[OSError]) -> None:
        if self._exit is None:
            self._hang_up()  # nobody can use it any more, whatever broke it
        elif self._stream.is_open:
            self._stream.send_message(self._exit)
            self._stream.end()

    def _hang_up(self) -> None:
        if not self._has_started and not self.is_over:
            # The hand is about to open the terminal by its name, which must not be another's by then.
            self._is_to_hang_up = True
            return
        if self._is_hung_up:
            return
        self._is_hung_up = True
        self._input.close()
        self._output.close()
        self._close_slave()
        if not self.is_over:
            self._grace = self._reactor.after(_HANGUP_GRACE_S, lambda: TreeKill(self._reactor, self._hand))

    def _close_slave(self) -> None:
        # Open until now: without any holder the other side would look ended, also when programs only change places.
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1


def window_size(request: Dict[str, Any]) -> bytes:
    """The kernel's window size from {"rows", "cols"}, held within 1 and 1000. Raises `TypeError`, `ValueError`."""
    rows, cols = (min(max(int(request[name]), 1), _SIZE_LIMIT) for name in ("rows", "cols"))
    return struct.pack("HHHH", rows, cols, 0, 0)


def _open(user: User) -> Tuple[int, int]:
    """Both sides of a new terminal that belongs to `user`, whose programs open it by its name."""
    if not user.drop:
        return os.openpty()
    os.seteuid(user.uid)
    try:
        return os.openpty()
    finally:
        os.seteuid(0)
