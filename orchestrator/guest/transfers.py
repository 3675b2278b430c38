"""Tar streams out of the sandbox. Made by a hand as `agent`, read only as fast as the orchestrator takes them.

Unlike a call, a transfer keeps nothing: it can be repeated. (Tar streams into the sandbox are calls, see
`services.py`.)
"""

from __future__ import annotations

import os
from typing import List, Optional

from .hands import Answer, HandPool, encode_request
from .link import Stream
from .reactor import Reactor

_PIECE_BYTES = 256 * 1024


class Archive:
    """One tar stream. Ends with MESSAGE {"result"} or {"error"}, then END."""

    def __init__(self, reactor: Reactor, pool: HandPool, stream: Stream, paths: List[str], cwd: str) -> None:
        self._reactor = reactor
        self._pool = pool
        self._stream = stream
        self._answer: Optional[Answer] = None
        message = encode_request({"do": "file", "operation": "archive", "arguments": {"paths": paths, "cwd": cwd}})
        self._hand = pool.take()
        self._hand.on_answer = self._answered
        self._hand.on_end = self._hand_ended
        read_end, write_end = os.pipe()
        self._fd: Optional[int] = read_end
        os.set_blocking(read_end, False)
        null = os.open("/dev/null", os.O_RDONLY)
        self._hand.send(message, [null, write_end])
        os.close(null)
        os.close(write_end)
        stream.on_credit = self._watch
        stream.on_close = self._give_up
        self._watch()

    def _watch(self) -> None:
        if self._fd is not None:
            self._reactor.watch(self._fd, self._read if self._stream.room_bytes > 0 else None)

    def _read(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, min(_PIECE_BYTES, max(1, self._stream.room_bytes)))
        except BlockingIOError:
            return
        if data:
            self._stream.send(data)
            self._watch()
        else:
            self._close()
            self._finish()

    def _answered(self, answer: Answer) -> None:
        self._answer = answer
        self._pool.give(self._hand)
        self._finish()

    def _hand_ended(self) -> None:
        self._answer = {"error": {"code": "failed", "message": "the archive broke off"}}
        self._finish()

    def _finish(self) -> None:
        if self._fd is None and self._answer is not None and self._stream.is_open:
            self._stream.on_close = lambda: None
            self._stream.send_message(self._answer)
            self._stream.end()

    def _close(self) -> None:
        if self._fd is not None:
            self._reactor.forget(self._fd)
            os.close(self._fd)
            self._fd = None

    def _give_up(self) -> None:
        self._close()
        if self._answer is None:
            self._hand.kill()
