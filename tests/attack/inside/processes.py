"""Processes that are too many or will not go (R1, R9, R10). Run with the name of the attack; none of them ends well."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time

from tests.attack.inside.attempts import LIBC, call

_ALL = [number for number in signal.Signals if number not in (signal.SIGKILL, signal.SIGSTOP)]


def begin() -> None:
    """Tells that the attack is on its way."""
    print("begun", flush=True)


def deaf() -> None:
    for number in _ALL:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue


def forks() -> None:
    begin()
    while True:
        try:
            os.fork()
        except OSError:
            pass


def daemons() -> None:
    """Each child leaves its session and its parent, ignores signals, and goes on; the first process looks idle."""
    begin()
    deaf()
    if os.fork() > 0:
        time.sleep(3600)
    while True:
        try:
            child = os.fork()
            if child == 0:
                os.setsid()
            elif os.fork() > 0:
                os._exit(0)
        except OSError:
            pass


def threads() -> None:
    begin()
    resource.setrlimit(resource.RLIMIT_STACK, (65536, 65536))
    threading.stack_size(32768)
    while True:
        try:
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        except RuntimeError:
            time.sleep(0.001)


def until_refused() -> None:
    """Forks until the kernel refuses, and fails because of it."""
    begin()
    while True:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)


def short_lived() -> None:
    """So many processes: waited for, left as zombies, and orphaned, one after the other."""
    children = 0
    count = int(sys.argv[2])
    for number in range(count):
        child = os.fork()
        if child == 0:
            if number % 3 == 2 and os.fork() > 0:
                os._exit(0)
            os._exit(number % 7)
        if number % 3 != 1:
            os.waitpid(child, 0)
        else:
            children += 1
            if children % 200 == 0:  # the rest stay zombies until we end
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    children -= 1
                    if children == 0:
                        break
    print(f"made {count}")


def leave_daemons() -> None:
    """Fifty daemons by double fork, deaf, each in a session of its own."""
    for _ in range(50):
        if os.fork() == 0:
            os.setsid()
            if os.fork() > 0:
                os._exit(0)
            deaf()
            for fd in range(3):
                os.close(fd)
            time.sleep(3600)
            os._exit(0)
        os.wait()


def deaf_daemons() -> None:
    leave_daemons()
    begin()
    time.sleep(3600)


def ignoring() -> None:
    deaf()
    begin()
    while True:
        time.sleep(60)


def trapping() -> None:
    def again(_number: int, _frame: object) -> None:
        os.fork()

    for number in _ALL:
        try:
            signal.signal(number, again)
        except (OSError, ValueError):
            continue
    begin()
    while True:
        time.sleep(60)


def stopped() -> None:
    begin()
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_all() -> None:
    """Everything that the agent may signal stops: its hand, the spare ones, itself."""
    begin()
    time.sleep(0.3)
    deaf()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                os.kill(int(name), signal.SIGSTOP)
            except (PermissionError, ProcessLookupError):
                continue
    os.kill(os.getpid(), signal.SIGSTOP)


def kill_all() -> None:
    begin()
    os.kill(-1, signal.SIGKILL)
    time.sleep(60)


def traced() -> None:
    """A child that its parent traces and holds, and a parent that is stopped."""
    child = os.fork()
    if child == 0:
        call("ptrace", 0, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    begin()
    os.kill(os.getpid(), signal.SIGSTOP)


def uninterruptible() -> None:
    """The parent of a vfork sleeps without listening to signals, as long as its child lives."""
    begin()
    if LIBC.vfork() == 0:
        while True:
            LIBC.usleep(ctypes.c_uint(1_000_000))


def nested() -> None:
    """A chain of 300 sessions, each the parent of the next; all deaf."""
    begin()
    deaf()
    for _ in range(300):
        if os.fork() > 0:
            time.sleep(3600)
        os.setsid()
    time.sleep(3600)


ATTACKS = {
    each.__name__: each
    for each in (
        forks,
        daemons,
        threads,
        until_refused,
        short_lived,
        leave_daemons,
        deaf_daemons,
        ignoring,
        trapping,
        stopped,
        stop_all,
        kill_all,
        traced,
        uninterruptible,
        nested,
    )
}

if __name__ == "__main__":
    ATTACKS[sys.argv[1]]()
