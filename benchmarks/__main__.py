"""The runner: measures family after family, prints each row as it is there, and keeps all of them as JSON and Markdown.

A goal that is missed is printed as such and is no failure; the exit code is 0 unless something broke.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import (
    burst,
    egress,
    event_log,
    footprint,
    forks,
    launch,
    lives,
    pauses,
    readers,
    recovery,
    start,
    streams,
    table,
    tool_calls,
    transfers,
)
from benchmarks.figures import Row
from benchmarks.plain_engine import NotAvailableError, PlainEngine
from benchmarks.plan import Plan
from orchestrator.config import Settings

OUTPUT = Path(__file__).resolve().parents[1] / "bench-output"
_ROUNDS = 20
_QUICK_ROUNDS = 3
_FAMILIES: Mapping[str, Callable[[Plan], list[Row]]] = {
    "start": start.run,
    "launch": launch.run,
    "burst": burst.run,
    "tool-calls": tool_calls.run,
    "transfers": transfers.run,
    "forks": forks.run,
    "pauses": pauses.run,
    "lives": lives.run,
    "recovery": recovery.run,
    "egress": egress.run,
    "event-log": event_log.run,
    "streams": streams.run,
    "readers": readers.run,
    "footprint": footprint.run,
}


def main() -> int:
    """Returns the exit code."""
    arguments = _arguments()
    OUTPUT.mkdir(exist_ok=True)
    rounds = arguments.rounds or (_QUICK_ROUNDS if arguments.quick else _ROUNDS)
    plan = Plan(Settings.load(), rounds, arguments.quick, OUTPUT)
    machine = _machine(plan)
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="   ", end="\n\n")
    print(table.header(), flush=True)
    began = time.monotonic()
    rows: list[Row] = []
    try:
        for name in arguments.only or _FAMILIES:
            try:
                measured = _FAMILIES[name](plan)
            except NotAvailableError as error:
                print(f"{name}: left out, {error}", flush=True)
                continue
            rows += measured
            print(*map(table.line, measured), sep="\n", flush=True)
    finally:
        document = {"machine": machine, "rounds": rounds, "rows": [table.as_json(row) for row in rows]}
        (OUTPUT / "bench.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (OUTPUT / "bench.md").write_text(table.markdown(rows), encoding="utf-8")
    print(f"\n{_closing(rows)}; {time.monotonic() - began:.0f} s; {OUTPUT.name}/bench.json")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures Corral beside its baselines.")
    parser.add_argument("--only", action="append", choices=_FAMILIES, metavar="NAME", help=f"{', '.join(_FAMILIES)}")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"measurements of each kind (default {_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds: does it run, not how fast")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _machine(plan: Plan) -> dict[str, Any]:
    engine = PlainEngine(plan.settings)
    try:
        version = engine.version
    finally:
        engine.close()
    return {
        "CPUs": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "engine": version,
        "Python": platform.python_version(),
        "image": plan.settings.image,
        "rounds": plan.rounds,
    }


def _closing(rows: list[Row]) -> str:
    with_goal = [row for row in rows if row.goals]
    short = [row for row in with_goal if row.missed]
    if not short:
        return f"all {len(with_goal)} goals reached"
    return f"{len(short)} of {len(with_goal)} fall short: " + "; ".join(
        f"{row.name} ({', '.join(goal.text for goal in row.missed)})" for row in short
    )


if __name__ == "__main__":
    sys.exit(main())
