"""Bytes that a hand makes as `agent` for a stream: archives and file watches, read only as fast as they are taken.

Unlike a call, such a stream keeps nothing: it can be repeated. (Tar streams into the sandbox are calls, see
`services.py`.)
"""

from __future__ import annotations

import os
from typing import Any, Dict, Optional

from .hands import Answer, HandPool, encode_request
from .link import Stream
from .pumps import Pump
from .reactor import Reactor


class Transfer:
    """One file operation whose output goes to a stream. Ends with MESSAGE {"result"} or {"error"}, then END; ended
    by whoever reads, its hand is killed.
    """

    def __init__(
        self, reactor: Reactor, pool: HandPool, stream: Stream, operation: str, arguments: Dict[str, Any]
    ) -> None:
        self._pool = pool
        self._stream = stream
        self._answer: Optional[Answer] = None
        self._is_all_sent = False
        message = encode_request({"do": "file", "operation": operation, "arguments": arguments})
        self._hand = pool.take()
        self._hand.on_answer = self._answered
        self._hand.on_end = self._hand_ended
        read_end, write_end = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        self._hand.send(message, [null, write_end])
        os.close(null)
        os.close(write_end)
        stream.on_close = self._give_up
        self._pump = Pump(reactor, read_end, stream, self._all_sent)

    @property
    def is_over(self) -> bool:
        return not self._stream.is_open

    def _all_sent(self, _problem: Optional[OSError]) -> None:
        self._is_all_sent = True
        self._finish()

    def _answered(self, answer: Answer) -> None:
        self._answer = answer
        self._pool.give(self._hand)
        self._finish()

    def _hand_ended(self) -> None:
        self._answer = {"error": {"code": "failed", "message": "what made it was killed"}}
        self._finish()

    def _finish(self) -> None:
        if self._is_all_sent and self._answer is not None and self._stream.is_open:
            self._stream.on_close = lambda: None
            self._stream.send_message(self._answer)
            self._stream.end()

    def _give_up(self) -> None:
        self._pump.close()
        if self._answer is None:
            self._hand.kill()
