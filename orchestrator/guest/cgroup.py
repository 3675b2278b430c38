"""Counters of the sandbox's limits, read from the control group that the container sees (version 1, hybrid or 2)."""

from __future__ import annotations

from typing import Dict, Optional, Sequence, Tuple

_OOM_KILLS: Sequence[Tuple[str, str]] = (
    ("/sys/fs/cgroup/memory.events", "oom_kill"),
    ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
)
_PIDS_DENIED: Sequence[Tuple[str, str]] = (
    ("/sys/fs/cgroup/pids.events", "max"),
    ("/sys/fs/cgroup/pids/pids.events", "max"),
)


class LimitCounters:
    """How often a limit was hit so far. Where a counter cannot be read it stays 0."""

    def __init__(self) -> None:
        self._oom = _first_readable(_OOM_KILLS)
        self._pids = _first_readable(_PIDS_DENIED)

    def read(self) -> Dict[str, int]:
        """`{"oom": …, "pids": …}`, both only growing."""
        return {"oom": _counter(self._oom), "pids": _counter(self._pids)}


def _first_readable(candidates: Sequence[Tuple[str, str]]) -> Optional[Tuple[str, str]]:
    for path, key in candidates:
        if _value(path, key) is not None:
            return path, key
    return None


def _counter(source: Optional[Tuple[str, str]]) -> int:
    return (_value(*source) or 0) if source else 0


def _value(path: str, key: str) -> Optional[int]:
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    except (OSError, ValueError):
        pass
    return None
