"""Counters of the sandbox's limits, and what they make of an exit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.guest import cgroup
from orchestrator.guest.cgroup import LimitCounters
from orchestrator.guest.processes import descendants, judge


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "_OOM_KILLS", ((f"{tmp_path}/memory.events", b"oom_kill"),))
    monkeypatch.setattr(cgroup, "_PIDS_DENIED", ((f"{tmp_path}/pids.events", b"max"),))
    return tmp_path


def test_counters_are_read_anew_each_time(group: Path) -> None:
    memory, pids = group / "memory.events", group / "pids.events"
    memory.write_text("low 0\nhigh 5\nmax 7\noom 2\noom_kill 1\n")
    pids.write_text("max 0\n")
    counters = LimitCounters()
    assert counters.read() == {"oom": 1, "pids": 0}
    memory.write_text("low 0\nhigh 5\nmax 7\noom 2\noom_kill 12\n")
    pids.write_text("max 3\n")
    assert counters.read() == {"oom": 12, "pids": 3}


def test_what_cannot_be_read_stays_zero(group: Path) -> None:
    (group / "memory.events").write_text("oom_kill many\ngarbage\n\n")
    assert LimitCounters().read() == {"oom": 0, "pids": 0}


@pytest.mark.parametrize(
    ("ended", "counted", "verdict"),
    [
        ({"exit_code": 0, "signal": None}, {}, "exited"),
        ({"exit_code": 1, "signal": None}, {}, "exited"),
        ({"exit_code": None, "signal": 9}, {}, "killed"),
        ({"exit_code": None, "signal": 9}, {"oom": 1}, "oom"),
        ({"exit_code": 137, "signal": None}, {"oom": 1}, "oom"),
        ({"exit_code": 0, "signal": None}, {"oom": 1}, "exited"),
        ({"exit_code": 254, "signal": None}, {"pids": 4}, "pids"),
        ({"exit_code": 0, "signal": None}, {"pids": 4}, "exited"),
        ({"exit_code": 1, "signal": None}, {"pids": 4, "oom": 1}, "oom"),
    ],
)
def test_a_limit_counts_only_if_the_command_failed(
    ended: dict[str, Any], counted: dict[str, int], verdict: str
) -> None:
    before = {"oom": 3, "pids": 5}
    after = {name: value + counted.get(name, 0) for name, value in before.items()}
    assert judge(ended, before, after) == verdict


def test_descendants_are_all_that_live_below() -> None:
    program = "import subprocess, sys; p = subprocess.Popen(['sleep', '30']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert set(descendants(child.pid)) == {grandchild}
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
        os.kill(grandchild, 9)
        child.wait()
        assert descendants(child.pid) == []
