"""Decisions of the reconciler: what is due, what is too old, what rows and platform do not agree on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sandboxes.adoption import compare, status_of
from orchestrator.sandboxes.driver import Found, SandboxRef, SandboxState
from orchestrator.sandboxes.stages import Expiry, StageSettings, next_stage
from orchestrator.sandboxes.uses import Uses
from orchestrator.store.records import SandboxRow
from tests.fakes.clock import ManualClock

SETTINGS = StageSettings(pause_after_s=10, stop_after_s=20, delete_after_s=1000)
STATUSES = ("pending", "active", "paused", "stopped", "lost", "deleting")


def row(name: str, status: str = "active", *, clock: ManualClock | None = None, sandbox_id: str = "") -> SandboxRow:
    now = (clock or ManualClock()).now()
    return SandboxRow(name, status, None, sandbox_id or f"s-{name}", "token", None, None, now)


@pytest.mark.parametrize(
    ("status", "idle_s", "can_pause", "due"),
    [
        ("active", 9.9, True, None),
        ("active", 10, True, "paused"),
        ("active", 19, False, None),
        ("active", 20, True, "stopped"),
        ("active", 20, False, "stopped"),
        ("paused", 19, True, None),
        ("paused", 20, True, "stopped"),
        ("stopped", 900, True, None),
        ("pending", 900, True, None),
        ("lost", 900, True, None),
        ("deleting", 900, True, None),
    ],
)
def test_what_is_due(status: str, idle_s: float, can_pause: bool, due: str | None) -> None:
    assert next_stage(status, idle_s, SETTINGS, can_pause=can_pause) == due


@given(st.floats(0, 1e9), st.sampled_from(STATUSES), st.booleans())
def test_what_is_switched_off_never_comes(idle_s: float, status: str, can_pause: bool) -> None:
    off = StageSettings(pause_after_s=0, stop_after_s=0)
    assert next_stage(status, idle_s, off, can_pause=can_pause) is None


@given(st.lists(st.floats(0, 15), max_size=30), st.booleans())
def test_without_a_use_it_only_goes_on(steps_s: list[float], can_pause: bool) -> None:
    order = ["active", "paused", "stopped"]
    idle_s, status = 0.0, "active"
    for step_s in steps_s:
        idle_s += step_s
        due = next_stage(status, idle_s, SETTINGS, can_pause=can_pause)
        if due is not None:
            assert order.index(due) > order.index(status)
            status = due
    assert (status == "stopped") == (idle_s >= 20)


# what is too old


class Ageing:
    """A server that looks at one environment from time to time."""

    def __init__(self, delete_after_s: float = 1000) -> None:
        self.clock = ManualClock()
        self.uses = Uses(self.clock)
        self.expiry = Expiry(self.clock, self.uses, delete_after_s)
        self.row = row("a", "stopped", clock=self.clock)

    def is_deleted(self) -> bool:
        return self.expiry.look([self.row]) == [self.row]


def test_what_is_too_old_is_deleted_by_the_second_look_minutes_later() -> None:
    server = Ageing()
    server.clock.advance(999)
    assert not server.is_deleted()
    server.clock.advance(2)
    assert not server.is_deleted()
    server.clock.advance(299)
    assert not server.is_deleted()
    server.clock.advance(2)
    assert server.is_deleted()


def test_a_server_that_has_just_started_deletes_nothing() -> None:
    server = Ageing()
    server.clock.advance(5000)
    server.uses = Uses(server.clock)
    server.expiry = Expiry(server.clock, server.uses, 1000)
    assert not server.is_deleted()
    server.clock.advance(599)
    assert not server.is_deleted()


def test_a_clock_that_jumps_ahead_deletes_nothing_by_itself() -> None:
    server = Ageing()
    server.clock.advance(700)
    assert not server.is_deleted()
    server.clock.jump(1e6)
    assert not server.is_deleted()
    server.clock.advance(200)
    assert not server.is_deleted()
    server.clock.jump(-1e6)
    assert not server.is_deleted(), "somebody noticed"
    server.clock.jump(1e6)
    server.clock.advance(299)
    assert not server.is_deleted()


def test_one_in_use_is_not_deleted_and_neither_is_anything_without_an_age_limit() -> None:
    server = Ageing()
    with server.uses.hold("a"):
        for _ in range(10):
            server.clock.advance(1000)
            assert not server.is_deleted()
    never = Ageing(delete_after_s=0)
    for _ in range(10):
        never.clock.advance(1e6)
        assert not never.is_deleted()


def test_short_ages_need_no_long_looks() -> None:
    server = Ageing(delete_after_s=1)
    server.clock.advance(1.1)
    assert not server.is_deleted()
    server.clock.advance(1.1)
    assert server.is_deleted()


def test_a_last_use_that_is_yet_to_come_is_found() -> None:
    server = Ageing()
    assert server.expiry.future([server.row]) == []
    server.clock.jump(-timedelta(days=1).total_seconds())
    assert server.expiry.future([server.row]) == [server.row]


# rows and platform


def found(sandbox_id: str, state: SandboxState, *, has_files: bool = True) -> Found:
    return Found(SandboxRef(sandbox_id, "token"), state, has_files)


@pytest.mark.parametrize(
    ("state", "has_files", "status"),
    [
        (SandboxState.RUNNING, True, "active"),
        (SandboxState.PAUSED, True, "paused"),
        (SandboxState.EXITED, True, "stopped"),
        (SandboxState.CREATED, True, "stopped"),
        (SandboxState.ABSENT, True, "stopped"),
        (SandboxState.ABSENT, False, "lost"),
        (SandboxState.UNKNOWN, True, None),
        (SandboxState.UNKNOWN, False, None),
    ],
)
def test_what_a_row_should_say(state: SandboxState, has_files: bool, status: str | None) -> None:
    assert status_of(state, has_files=has_files) == status


def test_rows_and_platform_are_compared() -> None:
    there = [
        found("s-runs", SandboxState.RUNNING),
        found("s-ended", SandboxState.EXITED),
        found("s-pruned", SandboxState.ABSENT),
        found("s-back", SandboxState.EXITED),
        found("s-begun", SandboxState.CREATED),
        found("s-hidden", SandboxState.UNKNOWN),
        found("waits", SandboxState.RUNNING),
        found("nobody's", SandboxState.RUNNING),
    ]
    rows = [
        row("runs"),
        row("ended"),
        row("pruned", "stopped"),
        row("back", "lost"),
        row("begun", "pending"),
        row("hidden"),
        row("gone"),
        row("made", sandbox_id="in hand"),
        row("removed", "deleting"),
    ]
    differences = compare(there, rows, {"waits", "in hand"})
    assert differences.changed == {"ended", "back", "gone"}
    assert [ref.sandbox_id for ref in differences.orphans] == ["nobody's"]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(SandboxState)),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(STATUSES)),
    st.sets(st.sampled_from("abcdef")),
)
def test_what_somebody_knows_is_never_an_orphan(
    states: dict[str, SandboxState], statuses: dict[str, str], in_hand: set[str]
) -> None:
    rows = [row(name, status, sandbox_id=name) for name, status in statuses.items()]
    differences = compare([found(name, state) for name, state in states.items()], rows, in_hand)
    orphans = {ref.sandbox_id for ref in differences.orphans}
    assert orphans == states.keys() - statuses.keys() - in_hand
    assert differences.changed <= statuses.keys() - in_hand
