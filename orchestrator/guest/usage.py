"""What the sandbox uses and may use, from the control group that it sees (version 1, hybrid or 2) and its file systems.

What cannot be read (gVisor shows little), or has no limit, is None, never 0.
"""

from __future__ import annotations

import os
from typing import Callable, Dict, Optional, Union

Figures = Dict[str, Optional[Union[int, float]]]

_ROOT = "/sys/fs/cgroup"
_NO_LIMIT = 1 << 60
"""Version 1 says "none" by a number near 2^63."""
_READ_BYTES = 16 * 1024


def usage(workspace: str, root: str = _ROOT) -> Figures:
    """Figures with their units in their names. `memory_bytes` is the working set: file cache that may go is not in it;
    the peak has it. Disk figures are of the file system of `workspace`, if it has one of its own.
    """
    is_unified = os.path.exists(f"{root}/memory.current")
    figures = _unified(root) if is_unified else _per_controller(root)
    figures.update(_disk(workspace))
    return figures


def _unified(root: str) -> Figures:
    quota, _, period = (_text(f"{root}/cpu.max") or "").partition(" ")
    return {
        "cpu_time_s": _scaled(_field(f"{root}/cpu.stat", "usage_usec"), 1e6),
        "cpu_limit_cores": _ratio(_number(quota), _number(period)),
        "memory_bytes": _less(_file(f"{root}/memory.current"), _field(f"{root}/memory.stat", "inactive_file")),
        "memory_peak_bytes": _file(f"{root}/memory.peak"),
        "memory_limit_bytes": _file(f"{root}/memory.max"),
        "pids": _file(f"{root}/pids.current"),
        "pids_limit": _file(f"{root}/pids.max"),
    }


def _per_controller(root: str) -> Figures:
    memory = f"{root}/memory/memory"
    return {
        "cpu_time_s": _scaled(_file(f"{root}/cpuacct/cpuacct.usage"), 1e9),
        "cpu_limit_cores": _ratio(_file(f"{root}/cpu/cpu.cfs_quota_us"), _file(f"{root}/cpu/cpu.cfs_period_us")),
        "memory_bytes": _less(_file(f"{memory}.usage_in_bytes"), _field(f"{memory}.stat", "total_inactive_file")),
        "memory_peak_bytes": _file(f"{memory}.max_usage_in_bytes"),
        "memory_limit_bytes": _file(f"{memory}.limit_in_bytes"),
        "pids": _file(f"{root}/pids/pids.current"),
        "pids_limit": _file(f"{root}/pids/pids.max"),
    }


def _disk(workspace: str, stat: Callable[[str], os.stat_result] = os.stat) -> Figures:
    names = ("disk_used_bytes", "disk_limit_bytes", "disk_inodes", "disk_inodes_limit")
    figures: Figures = dict.fromkeys(names)
    try:
        if stat(workspace).st_dev == stat("/").st_dev:
            return figures  # a layer on the machine's disk, which others fill, too
        disk = os.statvfs(workspace)
    except OSError:
        return figures
    used = disk.f_blocks - disk.f_bfree
    figures["disk_used_bytes"] = used * disk.f_frsize
    figures["disk_limit_bytes"] = (used + disk.f_bavail) * disk.f_frsize
    if disk.f_files:
        figures["disk_inodes"] = disk.f_files - disk.f_ffree
        figures["disk_inodes_limit"] = disk.f_files
    return figures


def _text(path: str) -> Optional[str]:
    try:
        with open(path, "rb") as file:
            return file.read(_READ_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return None


def _number(text: Optional[str]) -> Optional[int]:
    """None also for "max", for -1 and for numbers that mean no limit."""
    if text is None or not text.isdigit():
        return None
    number = int(text)
    return number if number < _NO_LIMIT else None


def _file(path: str) -> Optional[int]:
    return _number(_text(path))


def _field(path: str, name: str) -> Optional[int]:
    for line in (_text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value)
    return None


def _scaled(count: Optional[int], units: float) -> Optional[float]:
    return None if count is None else round(count / units, 6)


def _ratio(count: Optional[int], of: Optional[int]) -> Optional[float]:
    return None if count is None or not of else round(count / of, 3)


def _less(count: Optional[int], part: Optional[int]) -> Optional[int]:
    return None if count is None else max(0, count - (part or 0))
