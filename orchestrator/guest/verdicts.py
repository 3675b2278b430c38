"""What ended a call that nobody stopped: limits of the sandbox, or the call itself. Reads counters before it, and
counters and file systems after it if it failed.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Optional, Sequence

from .cgroup import LimitCounters

_LITTLE_ROOM_BYTES = 1 << 20
"""Who fails to write may leave a little: file systems keep blocks for themselves and give some back later."""
NO_ROOM_CODES = ("enospc", "edquot")
"""How file operations say that a disk is full."""


class Judge:
    """Knows the sandbox's limits. `folders` are where a command may write, the most telling first."""

    def __init__(self, counters: LimitCounters, folders: Sequence[str]) -> None:
        self._counters = counters
        self._folders = folders

    def open(self) -> "Case":
        """Call it before what is to be judged begins."""
        return Case(self._counters, self._folders)


class Case:
    """One call."""

    def __init__(self, counters: LimitCounters, folders: Sequence[str]) -> None:
        self._counters = counters
        self._folders = folders
        self._before = counters.read()

    def verdict(self, ended: Dict[str, Any]) -> Dict[str, Any]:
        """`{"verdict": …}` for an exit code or signal; beside `disk_full` also `full`, see `full_disk`."""
        verdict = judge(ended, self._before, self._counters.read())
        if ended["exit_code"] != 0 and verdict in ("exited", "killed"):
            full = full_disk(self._folders)
            if full is not None:
                return {"verdict": "disk_full", "full": full}
        return {"verdict": verdict}

    def refusal(self, error: Dict[str, Any]) -> Dict[str, Any]:
        """The same for a file operation that failed with `error`."""
        if error.get("code") not in NO_ROOM_CODES:
            return {"verdict": "refused", "error": error}
        full = full_disk(self._folders)
        return {"verdict": "disk_full", "error": error, **({} if full is None else {"full": full})}

    def is_crowded(self) -> bool:
        """Whether a process could not be made since the call began."""
        return self._counters.read()["pids"] > self._before["pids"]


def judge(outcome: Dict[str, Any], before: Dict[str, int], after: Dict[str, int]) -> str:
    """What the counters say of an exit: `exited`, `oom`, `pids` or `killed`."""
    failed = outcome["exit_code"] != 0
    if failed and after["oom"] > before["oom"]:
        return "oom"
    if failed and after["pids"] > before["pids"]:
        return "pids"
    return "killed" if outcome["signal"] is not None else "exited"


def full_disk(folders: Sequence[str]) -> Optional[Dict[str, Any]]:
    """The first of `folders` whose file system has no room: `{"path", "size_bytes", "lacks": "bytes" | "files"}`."""
    for path in folders:
        try:
            found = os.statvfs(path)
        except OSError:
            continue
        lacks = "bytes" if found.f_bavail * found.f_frsize < _LITTLE_ROOM_BYTES else ""
        if found.f_files and not found.f_favail:  # some file systems do not count files
            lacks = lacks or "files"
        if lacks and found.f_blocks:
            return {"path": path, "size_bytes": found.f_blocks * found.f_frsize, "lacks": lacks}
    return None
