"""`python -m tests.crash`: kills servers again and again and looks whether anything is lost, done twice or left over.

Exit code 0: as many deaths as asked, nothing violated. 1: something was violated, or a moment was not reached. The
report, and after a violation all that is needed to understand it, is in the output folder.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

from orchestrator import __version__
from tests.crash.lane import Lane
from tests.crash.ledger import Violation
from tests.crash.report import Report

_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="crash.sh", description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="deaths in all")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the plan; printed")
    parser.add_argument("--lanes", type=int, default=2, help="servers side by side")
    parser.add_argument(
        "--driver", choices=("docker", "local"), default="docker", help="local: sandboxes are processes"
    )
    parser.add_argument("--out", type=Path, default=Path("crash-output"), help="folder of the report")
    parser.add_argument("--report", action="store_true", help="write the report into docs/reliability.md, too")
    parser.add_argument("--allow-unreached", action="store_true", help="short runs do not come to every moment")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.out, ignore_errors=True)
    chosen.out.mkdir(parents=True)
    asked = {name: getattr(chosen, name) for name in ("kills", "seed", "lanes", "driver")}
    print(f"crash: seed {chosen.seed}, {chosen.kills} deaths, {chosen.lanes} lanes, driver {chosen.driver}", flush=True)
    # Whoever ends the harness early finds nothing of it left either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    with ExitStack() as cleaning:
        # Sockets of sandboxes that are processes lie below it, and their paths are limited.
        place = Path(tempfile.mkdtemp(prefix="crash-"))
        cleaning.callback(shutil.rmtree, place)
        lanes = [
            Lane(number, _folder(place, number), chosen.seed + number, chosen.driver) for number in range(chosen.lanes)
        ]
        for lane in lanes:
            cleaning.callback(lane.clear)
        violation = asyncio.run(_run(lanes, chosen.kills))
        report = Report.of(lanes, {**asked, "version": __version__}, time.monotonic() - begun, violation)
        report.write(chosen.out)
        print(report.text())
        if violation:
            shutil.copytree(place, chosen.out / "lanes", ignore=shutil.ignore_patterns("disks", "s"))
            print(
                f"VIOLATED: {violation}\nSee {chosen.out}/lanes. Again: scripts/crash.sh --seed {chosen.seed} "
                f"--kills {chosen.kills} --lanes {chosen.lanes} --driver {chosen.driver}",
                file=sys.stderr,
            )
    if chosen.report and not violation:
        report.write_between_marks(_PAGE)
    unreached = [] if chosen.allow_unreached else report.figures["unreached"]
    if unreached:
        print(f"no server died at: {', '.join(unreached)}", file=sys.stderr)
    return 1 if violation or unreached or report.kills < chosen.kills else 0


def _folder(place: Path, number: int) -> Path:
    folder = place / str(number)
    folder.mkdir()
    return folder


async def _run(lanes: list[Lane], kills: int) -> str:
    """Runs all lanes; what was violated in the first that fails, whose failure ends the others."""
    shares = [kills // len(lanes) + (number < kills % len(lanes)) for number in range(len(lanes))]
    try:
        async with asyncio.TaskGroup() as group:
            for lane, share in zip(lanes, shares, strict=True):
                group.create_task(lane.run(share))
    except ExceptionGroup as failures:
        violations = [each for each in _leaves(failures) if isinstance(each, Violation)]
        if len(violations) < len(_leaves(failures)):
            traceback.print_exception(failures)
            return "the harness broke"
        return "; ".join(str(each) for each in violations)
    return ""


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
