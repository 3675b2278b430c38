"""Figures of the sandbox, from control groups of every kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.guest.usage import _disk, usage
from tests.unit.guest.conftest import Client
from tests.unit.guest.streams import Talk

CPU_AND_MEMORY = (
    "cpu_time_s",
    "cpu_limit_cores",
    "memory_bytes",
    "memory_peak_bytes",
    "memory_limit_bytes",
    "pids",
    "pids_limit",
)
DISK = ("disk_used_bytes", "disk_limit_bytes", "disk_inodes", "disk_inodes_limit")


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")


def figures(root: Path) -> list[float | None]:
    found = usage(str(root), str(root))
    assert list(found) == [*CPU_AND_MEMORY, *DISK]
    return [found[name] for name in CPU_AND_MEMORY]


def test_unified(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 2",
            "cpu.max": "150000 100000",
            "memory.current": "1000000",
            "memory.stat": "anon 5\nfile 6\ninactive_file 400000\nactive_file 7",
            "memory.peak": "2000000",
            "memory.max": "3000000",
            "pids.current": "12",
            "pids.max": "1024",
        },
    )
    assert figures(tmp_path) == [1.5, 1.5, 600_000, 2_000_000, 3_000_000, 12, 1024]


def test_unified_without_limits_on_an_older_kernel(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"cpu.max": "max 100000", "memory.current": "5", "memory.max": "max", "pids.current": "1", "pids.max": "max"},
    )
    assert figures(tmp_path) == [None, None, 5, None, None, 1, None]


def test_one_hierarchy_for_each_controller(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cpuacct/cpuacct.usage": "2500000000",
            "cpu/cpu.cfs_quota_us": "200000",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.usage_in_bytes": "1000000",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 250000",
            "memory/memory.max_usage_in_bytes": "1500000",
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "pids/pids.current": "3",
            "pids/pids.max": "max",
            "unified/cgroup.procs": "",
        },
    )
    assert figures(tmp_path) == [2.5, 2.0, 750_000, 1_500_000, None, 3, None]
    write(tmp_path, {"cpu/cpu.cfs_quota_us": "-1"})
    assert figures(tmp_path)[1] is None


def test_what_cannot_be_read_is_nothing_and_not_zero(tmp_path: Path) -> None:
    assert figures(tmp_path) == [None] * 7
    assert set(usage(str(tmp_path / "missing"), str(tmp_path)).values()) == {None}


def test_a_shared_disk_says_nothing_of_the_sandbox() -> None:
    same = os.stat_result((0, 0, 1, *[0] * 7))
    assert set(_disk("/workspace", lambda _path: same).values()) == {None}


def test_a_file_system_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs_result((4096, 4096, 1000, 400, 350, 640, 600, 600, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: disk)
    devices = {"/": 1, "/workspace": 2}
    found = _disk("/workspace", lambda path: os.stat_result((0, 0, devices[path], *[0] * 7)))
    assert [found[name] for name in DISK] == [600 * 4096, 950 * 4096, 40, 640]


def test_the_service(client: Client) -> None:
    talk = Talk(client, "usage")
    talk.until_end()
    (message,) = talk.messages
    assert set(message["usage"]) == {*CPU_AND_MEMORY, *DISK}
