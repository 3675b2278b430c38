"""Counters of the sandbox's limits, and what they make of an exit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.guest import cgroup
from orchestrator.guest.cgroup import LimitCounters
from orchestrator.guest.trees import descendants
from orchestrator.guest.verdicts import Case, Judge, full_disk, judge


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


# disks


class Disks:
    """Takes the place of `os.statvfs`: what each folder's file system says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.systems: dict[str, dict[str, int]] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(os, "statvfs", self.statvfs)

    def statvfs(self, path: str) -> SimpleNamespace:
        self.asked.append(path)
        if path not in self.systems:
            raise FileNotFoundError(path)
        roomy = {"f_frsize": 4096, "f_blocks": 1000, "f_bavail": 500, "f_files": 100, "f_favail": 50}
        return SimpleNamespace(**{**roomy, **self.systems[path]})


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> Disks:
    return Disks(monkeypatch)


@pytest.mark.parametrize(
    ("system", "lacks"),
    [
        ({}, None),
        ({"f_bavail": 0}, "bytes"),
        ({"f_bavail": 255}, "bytes"),
        ({"f_bavail": 256}, None),
        ({"f_favail": 0}, "files"),
        ({"f_favail": 0, "f_bavail": 0}, "bytes"),
        ({"f_favail": 0, "f_files": 0}, None),
        ({"f_bavail": 0, "f_blocks": 0}, None),
    ],
)
def test_a_disk_is_full_if_it_lacks_bytes_or_files(disks: Disks, system: dict[str, int], lacks: str | None) -> None:
    disks.systems = {"/tmp": system}
    full = None if lacks is None else {"path": "/tmp", "size_bytes": 4_096_000, "lacks": lacks}
    assert full_disk(["/gone", "/tmp"]) == full


def test_the_first_full_disk_is_named(disks: Disks) -> None:
    disks.systems = {"/a": {}, "/b": {"f_bavail": 0}, "/c": {"f_bavail": 0}}
    full = full_disk(["/a", "/b", "/c"])
    assert full is not None
    assert full["path"] == "/b"


def opened(group: Path) -> Case:
    (group / "memory.events").write_text("oom_kill 0\n")
    (group / "pids.events").write_text("max 0\n")
    return Judge(LimitCounters(), ["/disk"]).open()


def test_a_full_disk_counts_only_if_the_command_failed(group: Path, disks: Disks) -> None:
    disks.systems = {"/disk": {"f_bavail": 0}}
    case = opened(group)
    assert case.verdict({"exit_code": 0, "signal": None}) == {"verdict": "exited"}
    assert disks.asked == [], "a call that went well asked for more than its counters"
    full = {"path": "/disk", "size_bytes": 4_096_000, "lacks": "bytes"}
    assert case.verdict({"exit_code": 1, "signal": None}) == {"verdict": "disk_full", "full": full}
    assert case.verdict({"exit_code": None, "signal": 7}) == {"verdict": "disk_full", "full": full}
    (group / "memory.events").write_text("oom_kill 1\n")
    assert case.verdict({"exit_code": 1, "signal": None}) == {"verdict": "oom"}


def test_a_file_operation_says_itself_that_there_is_no_room(group: Path, disks: Disks) -> None:
    disks.systems = {"/disk": {}}
    case = opened(group)
    missing, full = {"code": "enoent", "message": "x"}, {"code": "enospc", "message": "x"}
    assert case.refusal(missing) == {"verdict": "refused", "error": missing}
    assert case.refusal(full) == {"verdict": "disk_full", "error": full}
    disks.systems = {"/disk": {"f_bavail": 0}}
    assert case.refusal(missing) == {"verdict": "refused", "error": missing}
    assert case.refusal(full)["full"]["path"] == "/disk"


def test_a_call_learns_whether_a_process_could_not_be_made(group: Path) -> None:
    case = opened(group)
    assert not case.is_crowded()
    (group / "pids.events").write_text("max 1\n")
    assert case.is_crowded()


# processes


def test_descendants_are_all_that_live_below() -> None:
    program = "import subprocess, sys; p = subprocess.Popen(['sleep', '30']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert set(descendants(child.pid)) == {grandchild}
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
        os.kill(grandchild, 9)
        child.wait()
        assert descendants(child.pid) == set()
