"""Every way to hold memory (R2). Run with its name: it takes more than there is, and says so if nothing stopped it."""

from __future__ import annotations

import array
import ctypes
import os
import resource
import socket
import sys
import time

from tests.attack.inside.attempts import LIBC

_GIB = 1 << 30
_PIECE = 16 << 20
_TOO_MUCH = 9 * _GIB // 4
"""More than the 2 GiB that a sandbox has."""


def anonymous() -> None:
    kept: list[bytearray] = []
    while len(kept) * _PIECE < _TOO_MUCH:
        kept.append(bytearray(b"x" * _PIECE))


def families() -> None:
    """Many processes, each with little."""
    for _ in range(24):
        if os.fork() == 0:
            kept = bytearray(b"x" * (_TOO_MUCH // 24))
            time.sleep(20)
            os._exit(len(kept) and 0)
    wait_for_families(24)


def wait_for_families(count: int) -> None:
    """Ends with the first child that is killed."""
    for _ in range(count):
        if os.waitstatus_to_exitcode(os.wait()[1]) != 0:
            sys.exit(9)


def memfd() -> None:
    fd = os.memfd_create("bomb")
    piece = b"x" * _PIECE
    for _ in range(_TOO_MUCH // _PIECE):
        os.write(fd, piece)


def tmpfs() -> None:
    fill("/tmp/bomb")


def shm_file() -> None:
    fill("/dev/shm/bomb")


def fill(path: str) -> None:
    piece = b"x" * _PIECE
    with open(path, "wb", buffering=0) as file:
        for _ in range(_TOO_MUCH // _PIECE):
            file.write(piece)


def system_v() -> None:
    """Shared segments that outlive every process of ours."""
    LIBC.shmat.restype = ctypes.c_void_p
    for _ in range(_TOO_MUCH // (64 << 20)):
        segment = LIBC.shmget(0, ctypes.c_size_t(64 << 20), 0o1600)
        if segment < 0:
            sys.exit(f"shmget: {os.strerror(ctypes.get_errno())}")
        address = LIBC.shmat(segment, None, 0)
        ctypes.memset(ctypes.c_void_p(address), 1, 64 << 20)


def messages() -> None:
    """Kernel memory in message queues, which outlive us too."""
    text = ctypes.create_string_buffer(b"\x01" + bytes(7) + b"x" * 8192)
    for number in range(32_000):
        queue = LIBC.msgget(0, 0o1600)
        if queue < 0:
            sys.exit(f"after {number} queues: {os.strerror(ctypes.get_errno())}")
        while LIBC.msgsnd(queue, text, ctypes.c_size_t(8190), 0o4000) == 0:
            pass


def page_cache() -> None:
    """Reads a file of holes, which is cache and nothing else; the kernel should take it back by itself."""
    with open("/workspace/holes", "wb") as file:
        file.truncate(_TOO_MUCH)
    with open("/workspace/holes", "rb", buffering=0) as file:
        while file.read(_PIECE):
            pass
    os.unlink("/workspace/holes")


def pipes() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    held: list[tuple[int, int]] = []
    try:
        while len(held) < 4000:
            reader, writer = os.pipe()
            held.append((reader, writer))
            os.set_blocking(writer, False)
            try:
                os.write(writer, b"x" * (1 << 20))
            except BlockingIOError:
                continue
    except OSError as error:
        sys.exit(f"after {len(held)} pipes: {error.strerror}")


def sockets() -> None:
    """Full socket buffers in ever more processes."""
    children = 0
    while children < 200:
        if os.fork() == 0:
            held = []
            try:
                while True:
                    pair = socket.socketpair()
                    held.append(pair)
                    for each in pair:
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
                        each.setblocking(False)
                        try:
                            while each.send(b"x" * 65536):
                                pass
                        except BlockingIOError:
                            continue
            except OSError:
                time.sleep(20)
                os._exit(0)
        children += 1
        time.sleep(0.01)
        gone, status = os.waitpid(-1, os.WNOHANG)
        if gone and status:
            sys.exit(9)
    wait_for_families(children)


def page_tables() -> None:
    """Little memory, many tables of it: a page in every second megabyte of an endless mapping."""
    size = 1 << 42
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = LIBC.mmap(None, size, 3, 0x4022, -1, 0)  # private, anonymous, without reserve
    zero = array.array("B", [0])
    for offset in range(0, size, 2 << 20):
        ctypes.memmove(address + offset, zero.buffer_info()[0], 1)


ATTACKS = {
    each.__name__: each
    for each in (
        anonymous,
        families,
        memfd,
        tmpfs,
        shm_file,
        system_v,
        messages,
        page_cache,
        pipes,
        sockets,
        page_tables,
    )
}

if __name__ == "__main__":
    ATTACKS[sys.argv[1]]()
    print("nothing stopped it")
