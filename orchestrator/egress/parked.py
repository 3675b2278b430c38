"""Connections to servers that one program of an environment has done with and the next may use. Imports `transfer`.

Over TLS a new one costs several ways there and back.
"""

from __future__ import annotations

import asyncio

import h11

from orchestrator.egress.transfer import Line

_KEPT_S = 10.0
_KEPT = 8


class ParkedLines:
    """Those of one environment, all of them TLS to a proven host. `clear` when its rules change or it is gone."""

    def __init__(self) -> None:
        self._lines: list[tuple[Line, asyncio.TimerHandle]] = []

    def put(self, line: Line) -> None:
        """Keeps it for a while, if it is fit for another request; closes it otherwise."""
        if (line.protocol.our_state, line.protocol.their_state) != (h11.IDLE, h11.IDLE) or not line.is_used:
            line.outside.close()
            return
        handle = asyncio.get_running_loop().call_later(_KEPT_S, self._drop, line)
        self._lines.append((line, handle))
        if len(self._lines) > _KEPT:
            self._drop(self._lines[0][0])

    def take(self, target: tuple[str, int]) -> Line | None:
        """The last one to this host and port. Its server may have closed it meanwhile."""
        for index in reversed(range(len(self._lines))):
            line, handle = self._lines[index]
            if line.target == target:
                del self._lines[index]
                handle.cancel()
                return line
        return None

    def clear(self) -> None:
        """Closes all."""
        for line, _ in list(self._lines):
            self._drop(line)

    def _drop(self, line: Line) -> None:
        for index, (each, handle) in enumerate(self._lines):
            if each is line:
                del self._lines[index]
                handle.cancel()
                line.outside.close()
                return
