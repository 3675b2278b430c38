"""Rows for people (a plain table, a line at a time; Markdown for pages) and for programs (JSON). Prints nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.figures import Row, Summary, Unit

_COLUMNS = ("what", "unit", "p50", "p99", "n", "baseline", "p50", "p99", "× better", "goal", "")
_WIDTHS = (31, 4, 8, 8, 5, 29, 8, 8, 8, 27, 5)
_TO_THE_RIGHT = frozenset({2, 3, 4, 6, 7, 8})


def header() -> str:
    """Two lines: the columns' names, a rule."""
    return f"{_line(_COLUMNS)}\n{_line(tuple('-' * width for width in _WIDTHS))}"


def line(row: Row) -> str:
    """One row, as wide as the header unless a name is longer than its column."""
    ours, baseline = row.ours, row.baseline
    goal = ", ".join(each.text for each in row.goals)
    return _line(
        (
            row.name,
            row.unit.value,
            *_figures(ours, row.unit),
            str(ours.count),
            row.baseline_name,
            *_figures(baseline, row.unit),
            f"{row.ratio:.2f}",
            goal,
            row.verdict,
        )
    )


def markdown(rows: Sequence[Row]) -> str:
    """All rows as a table for a page of documentation."""
    lines = ["| what | p50 | p99 | baseline | p50 | × better | goal | |", "|---|--:|--:|---|--:|--:|---|---|"]
    for row in rows:
        rate = row.unit.value if row.unit is Unit.PER_S else f" {row.unit.value}"
        p50, p99 = _figures(row.ours, row.unit)
        cells = (
            row.name,
            f"{p50}{rate}",
            f"{p99}{rate}" if p99 else "",
            row.baseline_name,
            f"{_figures(row.baseline, row.unit)[0]}{rate}",
            f"{row.ratio:.2f}",
            ", ".join(each.text for each in row.goals),
            row.verdict,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_json(row: Row) -> dict[str, Any]:
    """The row as `bench.json` has it; figures in the row's unit, unrounded."""
    return {
        "name": row.name,
        "unit": row.unit.value,
        "ours": dataclasses.asdict(row.ours),
        "baseline": {"name": row.baseline_name, **dataclasses.asdict(row.baseline)},
        "ratio": row.ratio,
        "goals": [{"goal": goal.text, "ok": goal.is_met(row)} for goal in row.goals],
        "verdict": row.verdict,
    }


def _figures(summary: Summary, unit: Unit) -> tuple[str, str]:
    return _number(summary.p50, unit), "" if summary.p99 is None else _number(summary.p99, unit)


def _number(value: float, unit: Unit) -> str:
    if unit is Unit.PER_S:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: tuple[str, ...]) -> str:
    padded = (
        cell.rjust(width) if at in _TO_THE_RIGHT else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return "  ".join(padded).rstrip()
