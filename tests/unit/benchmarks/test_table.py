"""What people and programs read of a row."""

from __future__ import annotations

from benchmarks import table
from benchmarks.figures import Row, Summary, Unit, p50_at_least, p50_at_most, times_better

SHORT = Row(
    "launch",
    Unit.MS,
    Summary(41.25, 99.5, 200),
    "docker run",
    Summary(412.5, 500.0, 20),
    (times_better(6), p50_at_most(40)),
)


def test_a_line_has_every_figure_and_the_verdict():
    words = table.line(SHORT).split()
    assert words[:5] == ["launch", "ms", "41.2", "99.5", "200"]
    assert words[5:10] == ["docker", "run", "412.5", "500.0", "10.00"]
    assert words[-1] == "SHORT"


def test_columns_stand_below_their_names():
    names, rule = table.header().splitlines()
    line = table.line(SHORT)
    assert names.index("baseline") == line.index("docker run")
    assert names.index("goal") == line.index("≥ 6 ×")
    assert set(rule) == {"-", " "}


def test_rates_are_whole_and_a_missing_p99_is_blank():
    row = Row("appends", Unit.PER_S, Summary(33_000.4, None, 1), "sqlite3", Summary(5_000, None, 1), (p50_at_least(2),))
    words = table.line(row).split()
    assert words == ["appends", "/s", "33,000", "1", "sqlite3", "5,000", "6.60", "p50", "≥", "2", "ok"]


def test_json_holds_figures_unrounded_and_each_goal_by_itself():
    document = table.as_json(SHORT)
    assert document["ours"] == {"p50": 41.25, "p99": 99.5, "count": 200}
    assert document["baseline"] == {"name": "docker run", "p50": 412.5, "p99": 500.0, "count": 20}
    assert document["ratio"] == 10.0
    assert document["goals"] == [{"goal": "≥ 6 ×", "ok": True}, {"goal": "p50 ≤ 40", "ok": False}]
    assert document["verdict"] == "SHORT"


def test_markdown_has_a_line_for_each_row_and_units_at_the_figures():
    header, rule, line = table.markdown([SHORT]).splitlines()
    assert header.count("|") == rule.count("|") == line.count("|")
    assert line == "| launch | 41.2 ms | 99.5 ms | docker run | 412.5 ms | 10.00 | ≥ 6 ×, p50 ≤ 40 | SHORT |"
