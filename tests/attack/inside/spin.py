"""Asking for more CPU than one's share (R5)."""

from __future__ import annotations

import os
import struct

from tests.attack.inside.attempts import attempt, call

_DEADLINE = struct.pack("<IIQiIQQQ", 48, 6, 0, 0, 0, 10_000_000, 30_000_000, 30_000_000)


def policy(number: int, priority: int) -> None:
    os.sched_setscheduler(0, number, os.sched_param(priority))


def group_priority() -> None:
    fd = os.open("/proc/self/autogroup", os.O_WRONLY)
    os.write(fd, b"-20")


if __name__ == "__main__":
    attempt("SCHED_FIFO 99", lambda: policy(os.SCHED_FIFO, 99))
    attempt("SCHED_RR 1", lambda: policy(os.SCHED_RR, 1))
    attempt("SCHED_DEADLINE", lambda: call("sched_setattr", 0, _DEADLINE, 0))
    attempt("nice -20", lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))
    attempt("nice -1", lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1))
    attempt("real-time I/O class", lambda: call("ioprio_set", 1, 0, 1 << 13))
    attempt("autogroup -20", group_priority)
