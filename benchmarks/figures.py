"""Figures and what is expected of them: pure values, no measuring and no printing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    MS = "ms"
    PER_S = "/s"
    MIB = "MiB"
    S = "s"
    MIB_PER_S = "MiB/s"
    PERCENT = "%"

    @property
    def is_more_better(self) -> bool:
        return self in (Unit.PER_S, Unit.MIB_PER_S, Unit.PERCENT)


@dataclass(frozen=True, slots=True)
class Summary:
    """Many samples of one thing. `p99` is always the bad end: the slowest time, the lowest rate."""

    p50: float
    p99: float | None
    """None where only one figure was taken."""
    count: int


def summarize(samples: Sequence[float], unit: Unit) -> Summary:
    """At least one sample is needed; of few samples p99 is the worst one."""
    if not samples:
        raise ValueError("nothing was measured")
    worst_last = sorted(samples, reverse=unit.is_more_better)
    return Summary(_rank(worst_last, 0.5), _rank(worst_last, 0.99), len(samples))


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row should reach. `text` is what people read."""

    text: str
    is_met: Callable[[Row], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing beside its baseline."""

    name: str
    unit: Unit
    ours: Summary
    baseline_name: str
    baseline: Summary
    goals: tuple[Goal, ...] = ()

    @property
    def ratio(self) -> float:
        """How many times better than the baseline, by the medians; below 1 is worse."""
        better, worse = self.baseline.p50, self.ours.p50
        if self.unit.is_more_better:
            better, worse = worse, better
        return better / worse if worse else math.inf

    @property
    def missed(self) -> tuple[Goal, ...]:
        return tuple(goal for goal in self.goals if not goal.is_met(self))

    @property
    def verdict(self) -> str:
        """`ok`, `SHORT`, or nothing where there is no goal."""
        if not self.goals:
            return ""
        return "SHORT" if self.missed else "ok"


def times_better(factor: float) -> Goal:
    """At least `factor` times better than the baseline."""
    return Goal(f"≥ {factor:g} ×", lambda row: row.ratio >= factor)


def at_most_times(factor: float) -> Goal:
    """At most `factor` times the baseline's time or size."""
    return Goal(f"≤ {factor:g} × baseline", lambda row: row.ours.p50 <= factor * row.baseline.p50)


def at_most_above(margin: float) -> Goal:
    """The median at most so much above the baseline's."""
    return Goal(f"≤ {margin:g} above it", lambda row: row.ours.p50 - row.baseline.p50 <= margin)


def p50_at_most(limit: float) -> Goal:
    return Goal(f"p50 ≤ {limit:g}", lambda row: row.ours.p50 <= limit)


def p99_at_most(limit: float) -> Goal:
    return Goal(f"p99 ≤ {limit:g}", lambda row: row.ours.p99 is not None and row.ours.p99 <= limit)


def p50_at_least(limit: float) -> Goal:
    return Goal(f"p50 ≥ {limit:,g}", lambda row: row.ours.p50 >= limit)
