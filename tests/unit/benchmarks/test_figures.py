"""Verdicts of the benchmarks: which end is bad, what a ratio means, when a goal is missed."""

from __future__ import annotations

import math

import pytest

from benchmarks.figures import (
    Goal,
    Row,
    Summary,
    Unit,
    at_most_above,
    at_most_times,
    p50_at_least,
    p50_at_most,
    p99_at_most,
    summarize,
    times_better,
)


def row(ours: float, baseline: float, *goals: Goal, unit: Unit = Unit.MS, p99: float | None = None) -> Row:
    return Row("it", unit, Summary(ours, p99, 1), "that", Summary(baseline, None, 1), goals)


def test_p99_of_times_is_the_slow_end():
    assert summarize([float(ms) for ms in range(1, 201)], Unit.MS) == Summary(100.0, 198.0, 200)


def test_p99_of_rates_is_the_low_end():
    assert summarize([float(rate) for rate in range(1, 201)], Unit.PER_S) == Summary(101.0, 3.0, 200)


def test_p99_of_few_samples_is_the_worst():
    assert summarize([3.0, 1.0, 2.0], Unit.MS) == Summary(2.0, 3.0, 3)


def test_nothing_measured_is_no_summary():
    with pytest.raises(ValueError, match="nothing was measured"):
        summarize([], Unit.MS)


@pytest.mark.parametrize(
    ("unit", "ours", "baseline", "ratio"),
    [(Unit.MS, 10, 60, 6), (Unit.MIB, 20, 5, 0.25), (Unit.PER_S, 30, 10, 3), (Unit.MS, 0, 1, math.inf)],
)
def test_ratio_says_how_many_times_better(unit: Unit, ours: float, baseline: float, ratio: float):
    assert row(ours, baseline, unit=unit).ratio == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("goal", "reached", "missed"),
    [
        (times_better(6), row(10, 60), row(10, 59)),
        (times_better(2), row(20, 10, unit=Unit.PER_S), row(19, 10, unit=Unit.PER_S)),
        (at_most_times(1.25), row(125, 100), row(126, 100)),
        (at_most_above(2), row(3.9, 2), row(4.1, 2)),
        (p50_at_most(40), row(40, 1), row(40.1, 1)),
        (p99_at_most(120), row(1, 1, p99=120), row(1, 1, p99=121)),
        (p50_at_least(20_000), row(20_000, 1, unit=Unit.PER_S), row(19_999, 1, unit=Unit.PER_S)),
    ],
)
def test_goals(goal: Goal, reached: Row, missed: Row):
    assert goal.is_met(reached)
    assert not goal.is_met(missed)


def test_a_goal_for_p99_is_missed_where_there_is_none():
    assert not p99_at_most(1000).is_met(row(1, 1))


def test_one_missed_goal_makes_a_row_fall_short():
    some = row(50, 400, times_better(6), p50_at_most(40))
    assert some.verdict == "SHORT"
    assert [goal.text for goal in some.missed] == ["p50 ≤ 40"]


def test_verdicts_without_misses():
    assert row(30, 400, times_better(6), p50_at_most(40)).verdict == "ok"
    assert row(30, 400).verdict == ""
