"""What a run of the harness saw, as figures and as tables. Pure, but for writing files."""

from __future__ import annotations

import json
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import moments
from tests.crash.lane import Lane, Start
from tests.crash.ledger import Going

_BEGIN, _END = "<!-- report: begin -->", "<!-- report: end -->"
_GOAL_S = 2.0


@dataclass(frozen=True, slots=True)
class Report:
    """All lanes together."""

    figures: dict[str, Any]

    @classmethod
    def of(cls, lanes: Sequence[Lane], chosen: dict[str, Any], duration_s: float, violation: str) -> Report:
        """`chosen` is what the harness was asked for; `violation` is empty if nothing was violated."""
        kills = sum((lane.tally.kills for lane in lanes), Counter[str]())
        passed = sum((Counter(lane.marks_passed) for lane in lanes), Counter[str]())
        hits = sum((lane.plan.hits for lane in lanes), Counter[str]())
        known = [
            name for name in moments.ALL if any(name in lane.plan.hits or name in lane.plan.unreached for lane in lanes)
        ]
        return cls(
            {
                **chosen,
                "machine": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
                "duration_s": round(duration_s, 1),
                "violation": violation,
                "kills": dict(kills),
                "moments": {name: {"passed": passed[name], "deaths": hits[name]} for name in known},
                "harms": dict(sum((lane.tally.harms for lane in lanes), Counter[str]())),
                "unreached": [name for name in known if not hits[name]],
                "stories": dict(sum((lane.load.told for lane in lanes), Counter[str]())),
                "calls": dict(sum((lane.ledger.outcomes for lane in lanes), Counter[str]())),
                "interactions": dict(sum((lane.ledger.statuses for lane in lanes), Counter[str]())),
                "events": sum(lane.ledger.events for lane in lanes),
                "checks": dict(sum((lane.ledger.checks for lane in lanes), Counter[str]())),
                "listening_ms": _spread(
                    [each.listening_s for lane in lanes for each in lane.tally.starts if each.listening_s]
                ),
                "recovery": _recovery(lanes),
                "stop_ms": _spread([each for lane in lanes for each in lane.tally.stops_s]),
                "footprint": _growth(lanes),
            }
        )

    @property
    def kills(self) -> int:
        return sum(self.figures["kills"].values())

    def write(self, folder: Path) -> None:
        """`report.json` and `report.md`."""
        (folder / "report.json").write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(self.text(), encoding="utf-8")

    def write_between_marks(self, page: Path) -> None:
        """Replaces the report in a page of the documentation."""
        before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
        _, _, after = rest.partition(_END)
        page.write_text(f"{before}{_BEGIN}\n\n{self.text()}\n{_END}{after}", encoding="utf-8")

    def text(self) -> str:
        """Markdown."""
        figures = self.figures
        lines = [
            f"{self.kills} deaths in {figures['duration_s']:.0f} s, {figures['lanes']} servers side by side, driver "
            f"`{figures['driver']}`, seed {figures['seed']}, version {figures['version']}, {figures['machine']}.",
            f"Violations: **{figures['violation'] or 0}**.",
            "",
            *_table(("deaths", "times"), sorted(figures["kills"].items())),
            *_table(("harm to sandboxes past the server", "times"), sorted(figures["harms"].items())),
            *_table(("invariant", "looked at"), sorted(figures["checks"].items())),
            *_table(("tool calls, by their results", "calls"), sorted(figures["calls"].items())),
            *_table(("interactions", "count"), sorted(figures["interactions"].items())),
            *_table(("time", "count", "p50 ms", "p95 ms", "p99 ms", "max ms"), self._times()),
            self._goal(),
            "",
            *_table(("a server holds, median", "first fifth", "last fifth"), self._footprint()),
            *_table(
                ("moment", "passed", "deaths there"),
                [(name, each["passed"], each["deaths"]) for name, each in figures["moments"].items()],
            ),
        ]
        return "\n".join(lines)

    def _goal(self) -> str:
        recovery = self.figures["recovery"]
        count = recovery["all_ms"].get("count", 0)
        return (
            f"In {recovery['within_goal']} of {count} measured starts all runs went on within {_GOAL_S:.0f} s; "
            f"{recovery['not_begun_again']} runs were not seen to go on before the next death."
        )

    def _footprint(self) -> list[tuple[Any, ...]]:
        return [(name.replace("_", " "), *each.values()) for name, each in self.figures["footprint"].items()]

    def _times(self) -> list[tuple[Any, ...]]:
        recovery = self.figures["recovery"]
        rows = {
            "start to listening": self.figures["listening_ms"],
            "start to one run going again": recovery["each_ms"],
            "start to all runs going again": recovery["all_ms"],
            "SIGTERM to exit": self.figures["stop_ms"],
        }
        return [(name, *each.values()) for name, each in rows.items() if each]


def _recovery(lanes: Sequence[Lane]) -> dict[str, Any]:
    """From a start to when the runs that a death had left were begun again, or had ended."""
    each_s: list[float] = []
    all_s: list[float] = []
    by_count: dict[int, list[float]] = {}
    missing = 0
    for lane in lanes:
        ends_at = [start.at for start in lane.tally.starts[1:]] + [float("inf")]
        for start, end_at in zip(lane.tally.starts, ends_at, strict=True):
            if not start.is_measured or not start.listening_s:
                continue
            found = [_again(start, end_at, going) for going in lane.tally.goings if _was_left(start, going)]
            times = [one for one in found if one is not None]
            missing += len(found) - len(times)
            each_s += times
            if times and len(times) == len(found):
                all_s.append(max(times))
                by_count.setdefault(len(times), []).append(max(times))
    return {
        "each_ms": _spread(each_s),
        "all_ms": _spread(all_s),
        "all_ms_by_runs_left": {count: _spread(times) for count, times in sorted(by_count.items())},
        "not_begun_again": missing,
        "within_goal": sum(one <= _GOAL_S for one in all_s),
    }


def _was_left(start: Start, going: Going) -> bool:
    return going.made < start.at < going.ended


def _again(start: Start, end_at: float, going: Going) -> float | None:
    return next((at - start.at for at in sorted([*going.begun, going.ended]) if start.at < at < end_at), None)


def _growth(lanes: Sequence[Lane]) -> dict[str, Any]:
    """What a server held, in the first and in the last fifth of its lane."""
    first: list[dict[str, int]] = []
    last: list[dict[str, int]] = []
    for lane in lanes:
        seen = [start.footprint for start in lane.tally.starts if start.footprint]
        fifth = max(1, len(seen) // 5)
        first += seen[:fifth]
        last += seen[-fifth:]
    return {
        name: {
            "first": statistics.median(each[name] for each in first),
            "last": statistics.median(each[name] for each in last),
        }
        for name in ("open_files", "threads", "memory_kib")
        if first
    }


def _spread(times_s: list[float]) -> dict[str, float]:
    if not times_s:
        return {}
    ordered = sorted(times_s)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 1)

    return {"count": len(ordered), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1)}


def _table(head: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> list[str]:
    if not rows:
        return []
    rule = ["---", *["--:"] * (len(head) - 1)]
    return [*(f"| {' | '.join(map(str, row))} |" for row in (head, rule, *rows)), ""]
