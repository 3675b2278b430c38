"""A hand, the agent's side: a process that gave up root in advance and does one thing at a time for the guest.

Runs as `agent` with no capability (but see `User.is_root`) and is the subreaper of all that it starts, so that whatever
a command leaves behind stays below the hand and can be found. Talks to the guest by frames over a socket pair;
descriptors travel with a request.

    request   OPEN     {"do": "spawn", "argv", "cwd", "env"}   with [stdin, output] or [stdin, output, third]
              OPEN     {…, "terminal": path}                   instead of the descriptors, which are not used
              OPEN     {"do": "file", "operation", "arguments"}  with [input, output]
    answers   MESSAGE  {"pid": n}                       the process runs
              MESSAGE  {"exit": status, "idle": bool}   wait status; `idle`: nothing is left below the hand
              MESSAGE  {"result": {…}} | {"error": {"code", "message"}}
"""

from __future__ import annotations

import array
import errno
import os
import select
import signal
import socket
from typing import Any, Callable, ContextManager, Dict, List, Optional

from . import file_tools
from .frames import MESSAGE, OPEN, Decoder, decode_json, encode_json

_READ_BYTES = 256 * 1024
_DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGXFSZ]


class Hand:
    """The request loop. `run` never returns."""

    def __init__(self, channel: socket.socket, of_files: Callable[[], ContextManager[None]]) -> None:
        """Within `of_files` this process is the user whose files are worked on."""
        self._channel = channel
        self._of_files = of_files
        self._decoder = Decoder()
        self._descriptors: List[int] = []
        self._child: Optional[int] = None
        self._retiring = False
        self._wakeup, wakeup_sender = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_sender, False)
        signal.set_wakeup_fd(wakeup_sender, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def run(self) -> None:
        while True:
            channel = self._channel.fileno()
            ready, _, _ = select.select([channel, self._wakeup], [], [])
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            if channel in ready:
                self._receive()

    def _receive(self) -> None:
        space = socket.CMSG_SPACE(3 * array.array("i").itemsize)
        # What arrives must not be inherited by what is started, beyond its own three.
        data, ancillary, _, _ = self._channel.recvmsg(_READ_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)  # the guest is gone or wants us gone
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array.array("i")
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
                self._descriptors.extend(descriptors)
        for kind, _stream, payload in self._decoder.feed(data):
            if kind == OPEN:
                descriptors_of_request, self._descriptors = self._descriptors, []
                self._do(decode_json(payload), descriptors_of_request)

    def _do(self, request: Dict[str, Any], descriptors: List[int]) -> None:
        try:
            if request["do"] == "spawn":
                self._spawn(request, descriptors)
            else:
                with self._of_files():
                    answer = file_tools.perform(request["operation"], request["arguments"], *descriptors[:2])
                self._say(answer)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _spawn(self, request: Dict[str, Any], descriptors: List[int]) -> None:
        moves: List[Any] = [
            (os.POSIX_SPAWN_DUP2, descriptors[0], 0),
            (os.POSIX_SPAWN_DUP2, descriptors[1], 1),
            (os.POSIX_SPAWN_DUP2, descriptors[1], 2),
        ]
        if len(descriptors) > 2:
            moves.append((os.POSIX_SPAWN_DUP2, descriptors[2], 3))
        if "terminal" in request:
            # The first terminal that the leader of a new session opens controls it; setsid comes before these.
            moves = [(os.POSIX_SPAWN_OPEN, 0, request["terminal"], os.O_RDWR, 0)]
            moves += [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
        try:
            os.chdir(request["cwd"])
            self._child = os.posix_spawnp(
                request["argv"][0],
                request["argv"],
                request["env"],
                file_actions=moves,
                setsid=True,
                setsigmask=[],
                setsigdef=_DEFAULT_SIGNALS,
            )
        except (OSError, ValueError) as error:
            is_full = isinstance(error, OSError) and error.errno == errno.EAGAIN
            code = "no_process" if is_full else "not_started"
            self._say({"error": {"code": code, "message": _reason(error, request)}})
        else:
            self._say({"pid": self._child})
        finally:
            os.chdir("/")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self._retiring:
                    os._exit(0)
                return
            if pid == 0:
                return
            if pid == self._child:
                self._child = None
                self._retiring = _has_children()
                self._say({"exit": status, "idle": not self._retiring})

    def _say(self, answer: Dict[str, Any]) -> None:
        try:
            self._channel.sendall(encode_json(MESSAGE, 0, answer))
        except OSError:
            os._exit(0)


def _has_children() -> bool:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _reason(error: Exception, request: Dict[str, Any]) -> str:
    if isinstance(error, OSError) and error.filename == request["cwd"]:
        return f"working directory {request['cwd']}: {error.strerror}"
    if isinstance(error, OSError):
        return f"{request['argv'][0]}: {error.strerror}"
    return str(error)
