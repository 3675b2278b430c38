"""Descriptors and what the kernel counts per user ID (R4): `take NAME` holds all it can get, `probe` tries what any
program needs.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import resource
import socket
import sys
import time
from collections.abc import Callable

from tests.attack.inside.attempts import LIBC, attempt, say

_F_SETPIPE_SZ = 1031


def many(make: Callable[[], object], limit: int = 100_000) -> str:
    """How many of a kind there are until the kernel refuses."""
    held: list[object] = []
    try:
        while len(held) < limit:
            held.append(make())
    except OSError as error:
        _KEPT.append(held)
        return f"{len(held)}, then {error.strerror}"
    _KEPT.append(held)
    return f"{len(held)}, no end"


_KEPT: list[object] = []


def files() -> str:
    return many(lambda: os.open("/dev/null", os.O_RDONLY))


def file_families() -> str:
    """Twenty processes with all the files each may have."""
    for _ in range(20):
        if os.fork() == 0:
            files()
            time.sleep(30)
            os._exit(0)
    return files()


def inotify() -> str:
    def make() -> int:
        fd = LIBC.inotify_init1(0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(fd)

    return many(make)


def big_pipes() -> str:
    def make() -> tuple[int, int]:
        ends = os.pipe()
        fcntl.fcntl(ends[0], _F_SETPIPE_SZ, 1 << 20)
        return ends

    return many(make)


def in_flight() -> str:
    """Descriptors that were sent and never received; the kernel counts them per user ID."""
    null = os.open("/dev/null", os.O_RDONLY)
    held = []

    def make() -> None:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        held.append(pair)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 250))]
        for _ in range(4):
            pair[0].sendmsg([b"x"], rights)

    _KEPT.append(held)
    return many(make)


def timers() -> str:
    """Queued signals, also counted per user ID."""

    def make() -> None:
        timer = ctypes.c_void_p()
        if LIBC.timer_create(1, None, ctypes.byref(timer)) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return many(make)


def queues() -> str:
    """Message queues of POSIX: bytes are counted per user ID."""
    LIBC.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    names = iter(range(100_000))

    def make() -> int:
        fd = LIBC.mq_open(f"/corral{next(names)}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(fd)

    return many(make)


def connections() -> str:
    """Connections over loopback, both ends held."""
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)

    def make() -> object:
        near = socket.create_connection(server.getsockname(), timeout=2)
        return near, server.accept()

    return many(make)


def leases() -> str:
    """Locked memory, counted per user ID for some kinds."""
    import mmap

    def make() -> object:
        page = mmap.mmap(-1, 1 << 20)
        if LIBC.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page))), 1 << 20) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return page

    return many(make, 4096)


def probe() -> None:
    """What a program in another sandbox needs of the same kinds."""
    attempt("probe files", lambda: len([os.open("/dev/null", os.O_RDONLY) for _ in range(100)]))
    attempt("probe inotify", lambda: _one(inotify, LIBC.inotify_init1, 0))
    attempt("probe pipe of 64 KiB", _pipe_capacity)
    attempt("probe sending a descriptor", _send_one)
    attempt("probe timers", lambda: _one(timers, LIBC.timer_create, 1, None, ctypes.byref(ctypes.c_void_p())))
    attempt("probe message queue", _queue)
    attempt("probe connection", lambda: socket.create_server(("127.0.0.1", 0)).close())


def _one(_like: object, function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _pipe_capacity() -> None:
    held = [os.pipe() for _ in range(8)]
    capacity = min(fcntl.fcntl(writer, 1032) for _, writer in held)
    if capacity < 65536:
        raise OSError(28, f"only {capacity} bytes")


def _send_one() -> None:
    near, far = socket.socketpair()
    near.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 10))])
    far.recv(1)


def _queue() -> None:
    LIBC.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    _one(queues, LIBC.mq_open, b"/corral-probe", os.O_CREAT | os.O_RDWR, 0o600, None)
    LIBC.mq_unlink(b"/corral-probe")


KINDS = {
    each.__name__: each
    for each in (files, file_families, inotify, big_pipes, in_flight, timers, queues, connections, leases)
}

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2)
    if sys.argv[1] == "probe":
        probe()
    else:
        say(sys.argv[2], KINDS[sys.argv[2]]())
        print("begun", flush=True)
        time.sleep(120)
