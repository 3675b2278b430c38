"""Kernel surface: keyring (E4), dangerous calls and socket families (E5), mounts and namespaces (E6), time, name,
reboot, modules (E12). Run with the case's id.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import socket
import struct
import sys
from typing import Any

from tests.attack.inside.attempts import LIBC, attempt, call

_NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}
_AT_FDCWD = -100


def zeros(size: int) -> Any:
    return ctypes.create_string_buffer(size)


def keyring() -> None:
    session, user, user_session = -3, -4, -5
    attempt("add_key(user)", lambda: call("add_key", b"user", b"corral", b"secret", 6, session))
    attempt("add_key(keyring, user)", lambda: call("add_key", b"keyring", b"corral", None, 0, user))
    attempt("add_key(big_key)", lambda: call("add_key", b"big_key", b"corral", zeros(65536), 65536, user_session))
    attempt("request_key(user)", lambda: call("request_key", b"user", b"corral", None, session))
    attempt("request_key with call-out", lambda: call("request_key", b"user", b"corral:x", b"payload", session))
    for operation, number in {"GET_KEYRING_ID": 0, "JOIN_SESSION": 1, "DESCRIBE": 6, "SEARCH": 10, "READ": 11}.items():
        attempt(f"keyctl({operation})", call, "keyctl", number, session, 1, 0, 0)
    attempt("keyctl(GET_PERSISTENT)", lambda: call("keyctl", 22, -1, session))
    attempt("read /proc/keys", lambda: _readable("/proc/keys"))
    attempt("read /proc/key-users", lambda: _readable("/proc/key-users"))


def _readable(path: str) -> str:
    with open(path, "rb") as file:
        content = file.read(4096)
    if not content:
        raise FileNotFoundError(2, "empty: masked")
    return f"{len(content)} bytes"


def surface() -> None:
    attempt("bpf(MAP_CREATE)", lambda: call("bpf", 0, struct.pack("<IIII", 1, 4, 4, 1) + bytes(56), 72))
    attempt("bpf(PROG_LOAD)", lambda: call("bpf", 5, struct.pack("<II", 1, 2) + bytes(64), 72))
    attempt("perf_event_open(self)", lambda: call("perf_event_open", _perf(), 0, -1, -1, 0))
    attempt("perf_event_open(all)", lambda: call("perf_event_open", _perf(), -1, 0, -1, 0))
    attempt("userfaultfd", lambda: call("userfaultfd", 0))
    attempt("userfaultfd(USER_MODE_ONLY)", lambda: call("userfaultfd", 1))
    attempt("open /dev/userfaultfd", lambda: os.open("/dev/userfaultfd", os.O_RDWR))
    attempt("io_uring_setup", lambda: call("io_uring_setup", 8, zeros(120)))
    attempt("io_uring_enter", lambda: call("io_uring_enter", 0, 1, 0, 0, None, 0))
    attempt("io_uring_register", lambda: call("io_uring_register", 0, 0, None, 0))
    attempt("move_pages", lambda: call("move_pages", 1, 0, None, None, None, 0))
    attempt("lookup_dcookie", lambda: call("lookup_dcookie", 0, zeros(64), 64))
    attempt("nfsservctl", lambda: call("nfsservctl", 0, None, None))
    attempt("uselib", lambda: call("uselib", b"/lib/x"))
    attempt("quotactl", lambda: call("quotactl", 0x800002 << 8, b"/dev/vda", 0, zeros(64)))
    attempt("fanotify_init", lambda: call("fanotify_init", 0, 0))
    attempt("acct", lambda: call("acct", b"/workspace/acct"))
    for family in range(47):
        if family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
            attempt(f"socket(family {family})", _any_socket, family)
    for protocol in range(1, 23):
        name = {6: "XFRM", 12: "NETFILTER", 15: "KOBJECT_UEVENT", 16: "GENERIC"}.get(protocol, "")
        attempt(f"socket(AF_NETLINK, {protocol} {name})", _any_socket, 16, protocol)
    attempt("socket(AF_INET, SOCK_RAW)", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close())
    attempt("socket(AF_INET6, SOCK_RAW)", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58).close())
    attempt("socketpair(AF_ALG)", lambda: _socketpair(38))
    attempt("netlink: add a route", _add_route)
    attempt("setsockopt(SO_MARK)", lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1))
    attempt("iptables: IPT_SO_SET_REPLACE", lambda: socket.socket().setsockopt(0, 64, bytes(128)))
    attempt("setsockopt(TCP_ULP tls)", lambda: socket.socket().setsockopt(6, 31, b"tls"))
    if platform.machine() == "x86_64":
        attempt("x32: io_uring_setup by number", lambda: _numbered(0x40000000 | 425, 8))
        attempt("x32: socket by number", lambda: _numbered(0x40000000 | 41, 38, 5, 0))
        attempt("int 0x80: socketcall(socket, AF_ALG)", lambda: _interrupt_80(102))
        attempt("int 0x80: keyctl", lambda: _interrupt_80(288))
        attempt("int 0x80: getpid", lambda: _interrupt_80(20))


def _perf() -> bytes:
    return struct.pack("<IIQ", 1, 128, 0) + bytes(112)


def _any_socket(family: int, protocol: int = 0) -> str:
    last: OSError | None = None
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind, protocol).close()
            return f"type {kind}"
        except OSError as error:
            last = error
    assert last is not None
    raise last


def _socketpair(family: int) -> None:
    pair = (ctypes.c_int * 2)()
    if LIBC.socketpair(family, 5, 0, pair) < 0:
        raise OSError(ctypes.get_errno(), "socketpair")


def _add_route() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        route = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 4, 253, 1, 0)
        netlink.send(struct.pack("=IHHII", 16 + len(route), 24, 0x605, 1, 0) + route)
        answer = netlink.recv(4096)
        code = struct.unpack_from("=i", answer, 16)[0]
        if code:
            raise OSError(-code, "netlink")


def _numbered(number: int, *arguments: int) -> int:
    result = int(LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(each) for each in arguments]))
    if result < 0:
        raise OSError(ctypes.get_errno(), "syscall")
    return result


def _interrupt_80(number: int) -> int:
    # push rbx; mov eax, edi; mov ebx, 1; xor ecx, ecx; xor edx, edx; int 0x80; movsxd rax, eax; pop rbx; ret
    code = bytes.fromhex("5389f8bb0100000031c931d2cd804863c05bc3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    result = int(ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(address)(number))
    if result < 0:
        raise OSError(-result, "int 0x80")
    return result


def mounts() -> None:
    attempt("mount(tmpfs)", lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None))
    attempt("mount(proc)", lambda: call("mount", b"proc", b"/mnt", b"proc", 0, None))
    attempt("mount(bind / on /mnt)", lambda: call("mount", b"/", b"/mnt", None, 4096, None))
    attempt("mount(remount / rw)", lambda: call("mount", b"none", b"/", None, 32, None))
    attempt("mount(remount /proc/sys rw)", lambda: call("mount", b"none", b"/proc/sys", None, 32 | 4096, None))
    attempt("mount(/workspace without nosuid)", lambda: call("mount", b"none", b"/workspace", None, 32 | 4096, None))
    for path in ("/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/sys", "/workspace", "/tmp"):
        attempt(f"umount {path}", call, "umount2", path.encode(), 2)
    attempt("fsopen(tmpfs)", lambda: call("fsopen", b"tmpfs", 0))
    attempt("fsconfig", lambda: call("fsconfig", 0, 6, None, None, 0))
    attempt("fsmount", lambda: call("fsmount", 0, 0, 0))
    attempt("fspick", lambda: call("fspick", _AT_FDCWD, b"/", 0))
    attempt("open_tree(CLONE)", lambda: call("open_tree", _AT_FDCWD, b"/", 1))
    attempt("move_mount", lambda: call("move_mount", _AT_FDCWD, b"/tmp", _AT_FDCWD, b"/mnt", 0))
    attempt("mount_setattr", lambda: call("mount_setattr", _AT_FDCWD, b"/", 0, bytes(32), 32))
    for name, flag in _NAMESPACES.items():
        attempt(f"unshare({name})", call, "unshare", flag)
        if name != "time":  # the old clone has no flag for it
            attempt(f"clone({name})", _clone, flag)
    attempt("unshare(user and mount)", lambda: call("unshare", 0x10020000))
    attempt("clone3(user)", lambda: call("clone3", struct.pack("<Q", 0x10000000) + bytes(56), 64))
    attempt("pivot_root", lambda: call("pivot_root", b"/tmp", b"/tmp"))
    attempt("chroot(.)", lambda: call("chroot", b"/tmp"))
    attempt("open_by_handle_at", _open_by_handle)
    attempt("name_to_handle_at(/)", lambda: call("name_to_handle_at", _AT_FDCWD, b"/", zeros(256), zeros(8), 0))
    attempt("swapon", lambda: call("swapon", b"/workspace/swap", 0))
    attempt("swapoff", lambda: call("swapoff", b"/workspace/swap"))
    for name in ("mnt", "pid", "net", "user", "uts", "ipc", "cgroup"):
        attempt(
            f"setns(own {name})",
            _enter,
            f"/proc/self/ns/{name}",
        )
        attempt(f"setns({name} of process 1)", _enter, f"/proc/1/ns/{name}")
    attempt("setns(process 1 by pidfd)", lambda: call("setns", call("pidfd_open", 1, 0), 0x20000))
    attempt("climb out by inherited descriptors", _climb)


def _clone(flag: int) -> None:
    child = call("clone", flag | 17, None, None, None, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _enter(namespace: str) -> int:
    return call("setns", os.open(namespace, os.O_RDONLY), 0)


def _open_by_handle() -> int:
    handle = struct.pack("<Ii", 8, 1) + struct.pack("<II", 2, 0)  # inode 2 is a file system's root
    return call(
        "open_by_handle_at", os.open("/workspace", os.O_RDONLY), ctypes.create_string_buffer(handle), os.O_RDONLY
    )


def _climb() -> str:
    found = []
    root = os.stat("/")
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fchdir(int(name))
        except OSError:
            continue
        for _ in range(64):
            os.chdir("..")
        here = os.stat(".")
        if (here.st_dev, here.st_ino) != (root.st_dev, root.st_ino):
            found.append(name)
    if found:
        return f"descriptors {found}"
    raise PermissionError(1, "every descriptor leads to our own root")


def system() -> None:
    now = struct.pack("<qq", 1_577_836_800, 0)
    attempt("clock_settime(REALTIME)", lambda: call("clock_settime", 0, now))
    attempt("clock_settime(TAI)", lambda: call("clock_settime", 11, now))
    attempt("settimeofday", lambda: call("settimeofday", now, None))
    attempt("adjtimex(offset)", lambda: call("adjtimex", struct.pack("<Iiq", 1, 0, 1000) + bytes(200)))
    attempt("clock_adjtime", lambda: call("clock_adjtime", 0, struct.pack("<Iiq", 1, 0, 1000) + bytes(200)))
    attempt("open /dev/rtc", lambda: os.open("/dev/rtc", os.O_RDWR))
    attempt("sethostname", lambda: call("sethostname", b"owned", 5))
    attempt("setdomainname", lambda: call("setdomainname", b"owned", 5))
    attempt("write /proc/sys/kernel/hostname", lambda: os.open("/proc/sys/kernel/hostname", os.O_WRONLY))
    attempt("reboot(RESTART)", lambda: call("reboot", 0xFEE1DEAD, 0x28121969, 0x01234567, 0))
    attempt("reboot(CAD_OFF)", lambda: call("reboot", 0xFEE1DEAD, 0x28121969, 0, 0))
    attempt("kexec_load", lambda: call("kexec_load", 0, 0, None, 0))
    attempt("kexec_file_load", lambda: call("kexec_file_load", 0, 0, 0, b"", 0))
    attempt("init_module", lambda: call("init_module", b"\x7fELF", 4, b""))
    attempt("finit_module", lambda: call("finit_module", os.open("/bin/sh", os.O_RDONLY), b"", 0))
    attempt("delete_module", lambda: call("delete_module", b"overlay", 0x800))
    attempt("syslog(read all)", lambda: call("syslog", 3, zeros(4096), 4096))
    attempt("syslog(console off)", lambda: call("syslog", 6, None, 0))
    attempt("open /dev/kmsg", lambda: os.open("/dev/kmsg", os.O_RDWR))
    attempt("iopl", lambda: call("iopl", 3))
    attempt("ioperm", lambda: call("ioperm", 0x70, 2, 1))
    attempt("vhangup", lambda: call("vhangup"))
    attempt("open /dev/mem", lambda: os.open("/dev/mem", os.O_RDWR))


CASES = {"E4": keyring, "E5": surface, "E6": mounts, "E12": system}

if __name__ == "__main__":
    CASES[sys.argv[1]]()
