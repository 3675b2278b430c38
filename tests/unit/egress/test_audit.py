"""What is told of crossings, and what of too many of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.egress.audit import Audit
from orchestrator.egress.crossing import Crossing, Verdict
from orchestrator.errors import StoreError
from orchestrator.store.records import NewEvent
from tests.fakes.clock import ManualClock

pytestmark = pytest.mark.anyio


class Log:
    """Of one environment."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.fails = False

    async def note(self, log_id: str, events: Sequence[NewEvent]) -> None:
        if self.fails:
            raise StoreError("the disk is full")
        assert log_id == "env"
        self.entries += [(event.kind, json.loads(event.body)) for event in events]


def crossing(verdict: Verdict = "allowed", **fields: Any) -> Crossing:
    return Crossing("http", "a.example", 80, verdict=verdict, sent_bytes=1, received_bytes=2, **fields)


async def test_an_entry_says_who_was_reached_and_never_more_than_that() -> None:
    log = Log()
    audit = Audit(log.note, ManualClock())
    audit.report("env", crossing(method="GET", path="/" + "x" * 5000, rule="*", address="1.1.1.1"), 0.25)
    audit.report("env", crossing("denied", reason="no " * 1000, credentials=("crm",), interactions=("v1_a",)), 0)
    await audit.flush()
    (kind, told), (denied_kind, denied) = log.entries
    assert (kind, denied_kind) == ("network.connection", "network.denied")
    assert (told["host"], told["port"], told["method"], told["duration_ms"]) == ("a.example", 80, "GET", 250.0)
    assert (told["credentials"], told["interactions"]) == (None, None)
    assert (denied["credentials"], denied["interactions"]) == (["crm"], ["v1_a"])
    assert len(told["path"]) == len(denied["reason"]) == 300


async def test_what_goes_either_way_is_kept_beside_the_entries() -> None:
    log = Log()
    kept: list[tuple[str, int]] = []

    async def keep(environment_id: str, /, *, more_bytes: int) -> None:
        if log.fails:
            raise StoreError("the disk is full")
        kept.append((environment_id, more_bytes))

    audit = Audit(log.note, ManualClock(), keep)
    for _ in range(200):  # also of those that get no entry
        audit.report("env", crossing(), 0)
    await audit.flush()
    await audit.flush()
    assert kept == [("env", 600)]
    audit.report("env", crossing(), 0)
    audit.forget("env")
    await audit.flush()
    log.fails = True
    audit.report("env", crossing(), 0)
    await audit.flush()
    assert kept == [("env", 600)]


async def test_floods_are_summed_up_and_entries_come_again_later() -> None:
    log, clock = Log(), ManualClock()
    audit = Audit(log.note, clock)
    for number in range(1000):
        audit.report("env", crossing("denied" if number % 2 else "allowed"), 0)
    clock.advance(10)
    audit.report("env", crossing(), 0)
    await audit.flush()
    kinds = [kind for kind, _ in log.entries]
    assert kinds.count("network.connection") + kinds.count("network.denied") == 101
    assert [body for kind, body in log.entries if kind == "network.summary"] == [
        {"count": 900, "denied": 450, "bytes": 2700}
    ]


async def test_the_end_tells_what_was_left_out() -> None:
    log = Log()
    audit = Audit(log.note, ManualClock())
    audit.open()
    for _ in range(150):
        audit.report("env", crossing(), 0)
    await audit.aclose()
    assert log.entries[-1] == ("network.summary", {"count": 50, "denied": 0, "bytes": 150})


async def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    log = Log()
    audit = Audit(log.note, ManualClock())
    log.fails = True
    audit.report("env", crossing(), 0)
    await audit.flush()
    log.fails = False
    audit.report("env", crossing(), 0)
    audit.report("other", crossing(), 0)
    audit.forget("other")
    await audit.flush()
    assert len(log.entries) == 1
