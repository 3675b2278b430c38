from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from orchestrator.guest import reactor as module
from orchestrator.guest.reactor import Reactor, Timer


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_timers_fire_in_the_order_of_their_times() -> None:
    reactor, fired = Reactor(), []
    reactor.after(0.02, lambda: fired.append("late"))
    reactor.after(0.0, lambda: fired.append("first"))
    reactor.after(0.0, lambda: fired.append("second"))
    reactor.after(0.03, reactor.stop)
    reactor.run()
    assert fired == ["first", "second", "late"]


def test_a_cancelled_timer_does_not_fire() -> None:
    reactor, fired = Reactor(), []
    reactor.after(0.0, lambda: fired.append("no")).cancel()
    reactor.after(0.01, reactor.stop)
    reactor.run()
    assert fired == []


def test_a_timer_may_be_cancelled_by_another_of_the_same_moment() -> None:
    reactor, fired = Reactor(), []
    later: list[Timer] = []

    def cancel_the_other() -> None:
        later[0].cancel()

    reactor.after(0.0, cancel_the_other)
    later.append(reactor.after(0.0, lambda: fired.append("no")))
    reactor.after(0.01, reactor.stop)
    reactor.run()
    assert fired == []


@pytest.mark.parametrize("delay_s", [30 * 24 * 3600.0, 1e12, float("inf")])
def test_a_timer_in_a_far_future_does_not_break_the_wait(delay_s: float) -> None:
    reactor = Reactor()
    reactor.after(delay_s, lambda: None)
    done = os.pipe()
    reactor.watch(done[0], reactor.stop)
    os.write(done[1], b"x")
    reactor.run()
    for end in done:
        os.close(end)


def test_cancelled_timers_are_not_kept_until_their_time() -> None:
    reactor = Reactor()
    for _ in range(10_000):
        reactor.after(600.0, lambda: None).cancel()
    assert len(reactor._timers) < 1000


def test_reads_when_there_is_something_to_read(pipe: tuple[int, int]) -> None:
    reactor, seen = Reactor(), []

    def on_readable() -> None:
        seen.append(os.read(pipe[0], 10))
        reactor.stop()

    reactor.watch(pipe[0], on_readable)
    reactor.after(0.01, lambda: os.write(pipe[1], b"hello"))
    reactor.run()
    assert seen == [b"hello"]


def test_watching_again_replaces_what_happens(pipe: tuple[int, int]) -> None:
    reactor, seen = Reactor(), []
    reactor.watch(pipe[0], lambda: seen.append("old"))

    def on_readable() -> None:
        seen.append("new")
        reactor.stop()

    reactor.watch(pipe[0], on_readable)
    os.write(pipe[1], b"x")
    reactor.run()
    assert seen == ["new"]


def test_a_forgotten_descriptor_is_quiet_and_may_be_forgotten_twice(pipe: tuple[int, int]) -> None:
    reactor, seen = Reactor(), []
    reactor.watch(pipe[0], lambda: seen.append("no"))
    reactor.forget(pipe[0])
    reactor.forget(pipe[0])
    os.write(pipe[1], b"x")
    reactor.after(0.02, reactor.stop)
    reactor.run()
    assert seen == []


def test_a_callback_may_close_what_is_ready_in_the_same_round() -> None:
    """Its number may belong to another descriptor by then."""
    reactor, seen = Reactor(), []
    pipes = [os.pipe(), os.pipe()]
    open_ends = {end for ends in pipes for end in ends}

    def closing(mine: int, other: int) -> None:
        seen.append(mine)
        reactor.forget(other)
        os.close(other)
        open_ends.discard(other)
        reactor.forget(mine)
        reactor.stop()

    reactor.watch(pipes[0][0], lambda: closing(pipes[0][0], pipes[1][0]))
    reactor.watch(pipes[1][0], lambda: closing(pipes[1][0], pipes[0][0]))
    for _, writer in pipes:
        os.write(writer, b"x")
    reactor.run()
    assert len(seen) == 1
    for end in open_ends:
        os.close(end)


def test_readable_and_writable_are_told_apart(pipe: tuple[int, int]) -> None:
    reactor, seen = Reactor(), []

    def on_writable() -> None:
        seen.append("writable")
        reactor.stop()

    reactor.watch(pipe[1], on_writable=on_writable)
    reactor.watch(pipe[0], on_readable=lambda: seen.append("readable"))
    reactor.run()
    assert seen == ["writable"]


def test_a_busy_descriptor_does_not_keep_timers_waiting(pipe: tuple[int, int]) -> None:
    reactor = Reactor()
    reactor.watch(pipe[1], on_writable=lambda: None)
    started = time.monotonic()
    reactor.after(0.02, reactor.stop)
    reactor.run()
    assert time.monotonic() - started < 1.0


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize(("pass_time", "counts"), [(time.sleep, False), (busy, True)])
def test_the_clock_stands_still_with_the_process_and_not_with_a_busy_one(
    monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None], counts: bool
) -> None:
    """A process that sleeps where it never does is one that was frozen; one that is late because it works is not."""
    monkeypatch.setattr(module, "_STANDSTILL_S", 0.2)
    reactor, fired = Reactor(), []
    reactor.after(0.0, lambda: pass_time(0.8))
    reactor.after(1.0, lambda: fired.append(time.monotonic()))
    reactor.after(1.01, reactor.stop)
    began, began_here = time.monotonic(), reactor.now()
    reactor.run()
    assert 1.0 <= reactor.now() - began_here < 1.3
    assert fired[0] - began < 1.3 if counts else 1.6 < fired[0] - began < 2.3


def test_nobody_is_woken_when_no_timer_is_left() -> None:
    reactor = Reactor()
    timers = [reactor.after(delay_s, lambda: None) for delay_s in (0.1, 600.0, 5.0)]
    assert reactor._wait_s() is not None
    for timer in timers:
        timer.cancel()
    assert reactor._wait_s() is None


def test_an_error_that_nobody_expected_ends_neither_the_loop_nor_what_else_happens(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_REST_S", 0.3)
    reactor, seen = Reactor(), []

    def fail(name: str) -> None:
        seen.append(name)
        raise OSError(24, f"no more for {name}")

    os.write(pipe[1], b"x")
    reactor.watch(pipe[0], lambda: fail("reader"))
    reactor.after(0.0, lambda: fail("timer"))
    reactor.after(0.1, lambda: seen.append("on"))
    reactor.after(0.5, reactor.stop)
    reactor.run()
    assert sorted(seen[:2]) == ["reader", "timer"]
    assert seen[2:4] == ["on", "reader"], "a descriptor that failed rests and is watched again"
    assert "no more for reader" in capsys.readouterr().err


def test_a_resting_descriptor_that_is_closed_is_not_watched_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its number may belong to another one by then."""
    monkeypatch.setattr(module, "_REST_S", 0.05)
    reactor, seen = Reactor(), []
    first, second = os.pipe(), os.pipe()

    def fail() -> None:
        seen.append("first")
        raise OSError(5, "x")

    def replace() -> None:
        reactor.forget(first[0])
        os.dup2(second[0], first[0])

    for _, writer in (first, second):
        os.write(writer, b"x")
    reactor.watch(first[0], fail)
    reactor.after(0.02, replace)
    reactor.after(0.2, reactor.stop)
    reactor.run()
    assert seen == ["first"]
    for end in (*first, *second):
        os.close(end)
    assert capsys.readouterr().err
