"""Trees of processes: finding them in /proc, and killing them whole, whatever they do meanwhile."""

from __future__ import annotations

import os
import signal
from typing import AbstractSet, Callable, Dict, Iterable, List, Optional, Set

from .reactor import Reactor

_SWEEP_INTERVAL_S = 0.01
_SWEEP_TIMEOUT_S = 2.0
"""After the last process that was not met before. What is still there by then cannot be killed."""
_FROZEN_LIMIT = 100_000
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""How exactly `started_at` tells."""


class Sweep:
    """Kills what `find` finds until it finds nothing, then calls `then`. One pass is not enough: a fork bomb is faster.

    Neither a stopped process nor one that ignores signals survives; what a process started in between is found by the
    next look, since all are stopped before the first is killed. `find` is told what is known, so that each look is
    shorter than the one before: processes that live for a moment are gone when a long look comes to stopping them.
    """

    def __init__(self, reactor: Reactor, find: Callable[[Set[int]], Set[int]], then: Callable[[], None]) -> None:
        """The first pass is over on return."""
        self._reactor = reactor
        self._find = find
        self._then = then
        self._seen: Set[int] = set()
        self._give_up = reactor.now() + _SWEEP_TIMEOUT_S
        self._pass()

    def _pass(self) -> None:
        frozen: Set[int] = set()
        while len(frozen) < _FROZEN_LIMIT:
            found = self._find(frozen)
            if not found:
                break
            for pid in found:
                send_signal(pid, signal.SIGSTOP)
            frozen |= found
        for pid in frozen:
            send_signal(pid, signal.SIGKILL)
        if not frozen <= self._seen:
            self._seen |= frozen
            self._give_up = self._reactor.now() + _SWEEP_TIMEOUT_S
        if frozen and self._reactor.now() < self._give_up:
            self._reactor.after(_SWEEP_INTERVAL_S, self._pass)
        else:
            self._then()


def descendants(root: int, known: AbstractSet[int] = frozenset()) -> Set[int]:
    """Ids of all living processes below `root`, without those of them that are known."""
    return below([root, *known], children(known))


def below(roots: Iterable[int], children: Dict[int, List[int]]) -> Set[int]:
    """All that descends from `roots` by what `children` says."""
    found: Set[int] = set()
    waiting = list(roots)
    while waiting:
        fresh = [pid for pid in children.get(waiting.pop(), []) if pid not in found]
        found.update(fresh)
        waiting += fresh
    return found


def children(known: AbstractSet[int] = frozenset()) -> Dict[int, List[int]]:
    """Each process's living children, as far as it has any; `known` processes are not looked at."""
    found: Dict[int, List[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in known:
            parent = _parent_of(int(name))
            if parent is not None:
                found.setdefault(parent, []).append(int(name))
    return found


def send_signal(pid: int, number: int) -> None:
    """Signals a process; one that is gone is fine."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def is_dying(pid: int) -> bool:
    """Whether a process is gone, or has been killed and only not come to its end yet."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return has_pending_kill(file.read())
    except OSError:
        return True


def has_pending_kill(status: bytes) -> bool:
    """The same, by what its `/proc/PID/status` says."""
    for line in status.splitlines():
        name, _, signals = line.partition(b":")
        if name in (b"SigPnd", b"ShdPnd") and int(signals, 16) >> (signal.SIGKILL - 1) & 1:
            return True
    return False


def started_at(pid: int) -> float:
    """Seconds since boot at which a process began; 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[19]) / CLOCK_TICKS_PER_S if fields else 0.0


def session_of(pid: int) -> int:
    """The id of a process's session; 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def _parent_of(pid: int) -> Optional[int]:
    fields = _stat(pid)
    if not fields:
        return None
    # A process whose first thread has ended looks like a zombie, and lives on in its other threads.
    is_dead = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return None if is_dead else int(fields[1])


def _stat(pid: int) -> List[bytes]:
    """The fields of a process's status from the third, its state, on; none if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except OSError:
        return []
    # The command's name may hold spaces and parentheses; the fields after the last one are plain.
    return content[content.rfind(b")") + 2 :].split()
