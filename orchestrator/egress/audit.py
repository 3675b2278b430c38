"""What is told of crossings: an entry each in the environment's log, and a count in place of entries that are too many.

Imports `store`, for its port alone. Entries hold no header values and no queries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from orchestrator.clock import Clock
from orchestrator.egress.crossing import Crossing
from orchestrator.errors import StoreError
from orchestrator.store.records import NewEvent
from orchestrator.wire.base import encode_json

log = structlog.get_logger(__name__)

CONNECTION, DENIED, SUMMARY = "network.connection", "network.denied", "network.summary"
_BURST = 100
_PER_SECOND = 2.0
"""Entries of one environment in the long run: some hundred thousand in a day."""
_SUMMARY_AFTER_S = 5.0
_PATH_CHARS = 300
_REASON_CHARS = 300

Note = Callable[[str, Sequence[NewEvent]], Awaitable[None]]


class Keep(Protocol):
    """Adds to what an environment has used up for good."""

    async def __call__(self, environment_id: str, /, *, more_bytes: int) -> None: ...


@dataclass(slots=True)
class _Ledger:
    """Of one environment."""

    tokens: float = _BURST
    filled_s: float = 0.0
    left_out: int = 0
    left_out_denied: int = 0
    left_out_bytes: int = 0
    since_s: float = 0.0


class Audit:
    """Writes soon, in the order of what happened. `open` before use, `aclose` writes what is left."""

    def __init__(self, note: Note, clock: Clock, keep: Keep | None = None) -> None:
        """Without `keep` nobody remembers how much went either way."""
        self._note = note
        self._keep = keep
        self._moved_bytes: Counter[str] = Counter()
        self._clock = clock
        self._ledgers: dict[str, _Ledger] = {}
        self._entries: dict[str, list[NewEvent]] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._write_all(), name="egress-audit")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for environment_id, ledger in self._ledgers.items():
            self._sum_up(environment_id, ledger)
        await self.flush()

    def report(self, environment_id: str, crossing: Crossing, duration_s: float) -> None:
        """Takes note of one crossing that is over."""
        self._moved_bytes[environment_id] += crossing.sent_bytes + crossing.received_bytes
        now = self._clock.monotonic()
        ledger = self._ledgers.setdefault(environment_id, _Ledger(filled_s=now))
        ledger.tokens = min(_BURST, ledger.tokens + _PER_SECOND * (now - ledger.filled_s))
        ledger.filled_s = now
        if ledger.left_out and now - ledger.since_s >= _SUMMARY_AFTER_S:
            self._sum_up(environment_id, ledger)
        if ledger.tokens >= 1:
            ledger.tokens -= 1
            kind = DENIED if crossing.verdict == "denied" else CONNECTION
            self._add(environment_id, NewEvent(kind, encode_json(_told(crossing, duration_s))))
            return
        if not ledger.left_out:
            ledger.since_s = now
        ledger.left_out += 1
        ledger.left_out_denied += crossing.verdict == "denied"
        ledger.left_out_bytes += crossing.sent_bytes + crossing.received_bytes
        self._wanted.set()

    def forget(self, environment_id: str) -> None:
        """The environment is gone, and its log with it."""
        self._ledgers.pop(environment_id, None)
        self._entries.pop(environment_id, None)
        self._moved_bytes.pop(environment_id, None)

    async def flush(self) -> None:
        """Writes what there is. What cannot be written is logged, and lost."""
        while self._entries:
            environment_id, entries = self._entries.popitem()
            try:
                await self._note(environment_id, entries)
            except StoreError as error:
                log.warning("egress_not_noted", environment_id=environment_id, count=len(entries), reason=error.message)
        while self._keep is not None and self._moved_bytes:
            environment_id, moved_bytes = self._moved_bytes.popitem()
            try:
                if moved_bytes:
                    await self._keep(environment_id, more_bytes=moved_bytes)
            except StoreError as error:
                log.warning("traffic_not_kept", environment_id=environment_id, bytes=moved_bytes, reason=error.message)

    async def _write_all(self) -> None:
        while True:
            has_left_out = any(ledger.left_out for ledger in self._ledgers.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SUMMARY_AFTER_S if has_left_out else None):
                    await self._wanted.wait()
            self._wanted.clear()
            now = self._clock.monotonic()
            for environment_id, ledger in self._ledgers.items():
                if ledger.left_out and now - ledger.since_s >= _SUMMARY_AFTER_S:
                    self._sum_up(environment_id, ledger)
            await self.flush()

    def _sum_up(self, environment_id: str, ledger: _Ledger) -> None:
        if ledger.left_out:
            told = {"count": ledger.left_out, "denied": ledger.left_out_denied, "bytes": ledger.left_out_bytes}
            self._add(environment_id, NewEvent(SUMMARY, encode_json(told)))
            ledger.left_out = ledger.left_out_denied = ledger.left_out_bytes = 0

    def _add(self, environment_id: str, entry: NewEvent) -> None:
        self._entries.setdefault(environment_id, []).append(entry)
        self._wanted.set()


def _told(crossing: Crossing, duration_s: float) -> dict[str, object]:
    return {
        "verdict": crossing.verdict,
        "interactions": list(crossing.interactions) or None,
        "host": crossing.host,
        "port": crossing.port,
        "protocol": crossing.kind,
        "method": crossing.method or None,
        "path": crossing.path[:_PATH_CHARS] or None,
        "rule": crossing.rule or None,
        "credentials": list(crossing.credentials) or None,
        "address": crossing.address or None,
        "reason": crossing.reason[:_REASON_CHARS] or None,
        "sent_bytes": crossing.sent_bytes,
        "received_bytes": crossing.received_bytes,
        "duration_ms": round(duration_s * 1000, 1),
    }
