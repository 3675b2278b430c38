from __future__ import annotations

from orchestrator.sandboxes.uses import Uses
from tests.fakes.clock import ManualClock


def test_what_is_held_is_not_idle_however_long() -> None:
    clock = ManualClock()
    uses = Uses(clock)
    with uses.hold("a"):
        clock.advance(1000)
        assert uses.is_held("a")
        assert uses.idle_s("a") == 0
    clock.advance(7)
    assert not uses.is_held("a")
    assert uses.idle_s("a") == 7


def test_the_last_of_several_holders_counts() -> None:
    clock = ManualClock()
    uses = Uses(clock)
    with uses.hold("a"):
        with uses.hold("a"):
            clock.advance(5)
        assert uses.is_held("a")
        clock.advance(5)
    assert uses.idle_s("a") == 0


def test_one_that_nobody_has_used_here_is_idle_since_the_server_began() -> None:
    clock = ManualClock()
    uses = Uses(clock)
    clock.advance(30)
    uses.renew("b")
    clock.advance(3)
    assert (uses.idle_s("a"), uses.idle_s("b"), uses.observed_s) == (33, 3, 33)
    uses.forget("b")
    assert uses.idle_s("b") == 33


def test_a_clock_that_is_set_makes_nothing_idle() -> None:
    clock = ManualClock()
    uses = Uses(clock)
    clock.jump(1e6)
    assert uses.idle_s("a") == 0
