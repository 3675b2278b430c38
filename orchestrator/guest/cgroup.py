"""Counters of the sandbox's limits, read from the control group that the container sees (version 1, hybrid or 2)."""

from __future__ import annotations

import os
from typing import Dict, Optional, Sequence, Tuple

_OOM_KILLS: Sequence[Tuple[str, bytes]] = (
    ("/sys/fs/cgroup/memory.events", b"oom_kill"),
    ("/sys/fs/cgroup/memory/memory.oom_control", b"oom_kill"),
)
_PIDS_DENIED: Sequence[Tuple[str, bytes]] = (
    ("/sys/fs/cgroup/pids.events", b"max"),
    ("/sys/fs/cgroup/pids/pids.events", b"max"),
)
_READ_BYTES = 4096


class LimitCounters:
    """How often a limit was hit so far. Where a counter cannot be read it stays 0."""

    def __init__(self) -> None:
        self._oom = _first_readable(_OOM_KILLS)
        self._pids = _first_readable(_PIDS_DENIED)

    def read(self) -> Dict[str, int]:
        """`{"oom": …, "pids": …}`, both only growing."""
        return {"oom": self._oom.read() if self._oom else 0, "pids": self._pids.read() if self._pids else 0}


class _Counter:
    """One number in one file, which stays open: each call reads its counters twice."""

    def __init__(self, path: str, key: bytes) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self._key = key

    def read(self) -> int:
        try:
            content = os.pread(self._fd, _READ_BYTES, 0)
        except OSError:
            return 0
        for line in content.splitlines():
            name, _, value = line.partition(b" ")
            if name == self._key and value.isdigit():
                return int(value)
        return 0


def _first_readable(candidates: Sequence[Tuple[str, bytes]]) -> Optional[_Counter]:
    for path, key in candidates:
        try:
            return _Counter(path, key)
        except OSError:
            pass
    return None
