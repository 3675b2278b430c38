"""Time, read in one place so that tests can hold it still. Nothing else calls `time.time` or `datetime.now`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the core needs to know about time."""

    def now(self) -> datetime:
        """Wall time, aware, UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class JumpWatch:
    """Notices that the wall clock was set: since the last look it has gone another way than the monotonic one."""

    def __init__(self, clock: Clock, tolerance_s: float) -> None:
        self._clock = clock
        self._tolerance_s = tolerance_s
        self._last = clock.now(), clock.monotonic()

    def look(self) -> float:
        """By how many seconds it was set since the last look, back if negative; 0 if by no more than is tolerated."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        before, self._last = self._last, (now, monotonic)
        jump_s = (now - before[0]).total_seconds() - (monotonic - before[1])
        return jump_s if abs(jump_s) > self._tolerance_s else 0.0


def rfc3339(moment: datetime) -> str:
    """The wire's time format with microseconds, for example `2026-11-20T09:00:41.120000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
