"""Files that are none (E10): devices, hard links, symbolic links out, FIFOs, sockets, holes. Leaves them in
/workspace/trap for the file tools.
"""

from __future__ import annotations

import os
import socket
import stat
import struct

from tests.attack.inside.attempts import attempt, say

_TRAP = "/workspace/trap"
_LINKED = (
    "/etc/shadow",
    "/etc/passwd",
    "/bin/bash",
    "/opt/corral/guest/main.py",
    "/proc/1/environ",
    "/dev/zero",
)
_NOT_OURS = ("/etc/passwd", "/etc/shadow", "/etc/ld.so.cache", "/usr/bin/python3", "/opt/corral/guest/main.py", "/sbin")


def device(kind: int, major: int, minor: int) -> None:
    path = f"{_TRAP}/device-{kind}-{major}-{minor}"
    os.mknod(path, kind | 0o666, os.makedev(major, minor))
    os.open(path, os.O_RDWR)


def flags_of(path: str) -> str:
    bits = os.statvfs(path).f_flag
    return " ".join(name for name, bit in {"nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV}.items() if bits & bit)


def hard_link(path: str) -> None:
    os.link(path, f"{_TRAP}/hard-{path.replace('/', '-')}")


def by_descriptor(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.link(f"/proc/self/fd/{fd}", f"{_TRAP}/linkat-{path.replace('/', '-')}", follow_symlinks=True)


def immutable() -> None:
    import fcntl

    fd = os.open(f"{_TRAP}/plain", os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, struct.pack("<L", 0x10))  # FS_IOC_SETFLAGS, immutable: nobody could delete it


def traps() -> None:
    """What the file tools will meet."""
    os.mkfifo(f"{_TRAP}/fifo")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{_TRAP}/socket")
    for name, target in {
        "to-shadow": "/etc/shadow",
        "to-passwd": "/etc/passwd",
        "to-environ": "/proc/1/environ",
        "to-memory": "/proc/1/mem",
        "to-own-memory": "/proc/self/mem",
        "to-kernel": "/proc/kcore",
        "to-zero": "/dev/zero",
        "to-random": "/dev/urandom",
        "to-terminal": "/dev/ptmx",
        "to-input": "/proc/self/fd/0",
        "to-root": "/",
        "to-proc": "/proc",
        "loop": "loop",
        "loop-a": "loop-b",
        "loop-b": "loop-a",
        "up": "../../../../../../../../etc/passwd",
    }.items():
        os.symlink(target, f"{_TRAP}/{name}")
    with open(f"{_TRAP}/holes", "wb") as file:
        file.truncate(1 << 40)
    here = _TRAP
    for _ in range(300):  # deeper than a path may be long
        here = os.path.join(here, "d" * 200)
        try:
            os.mkdir(here)
        except OSError:
            break


if __name__ == "__main__":
    os.makedirs(_TRAP, exist_ok=True)
    with open(f"{_TRAP}/plain", "w") as file:
        file.write("plain\n")
    for folder in ("/workspace", "/tmp", "/dev/shm", "/home/agent", "/run", "/var/tmp", "/.agents"):
        say(f"mount flags of {folder}", flags_of(folder) if os.path.isdir(folder) else "no such folder")
    for kind, major, minor in (
        (stat.S_IFBLK, 8, 0),
        (stat.S_IFBLK, 254, 0),
        (stat.S_IFBLK, 7, 0),
        (stat.S_IFCHR, 1, 1),
    ):
        attempt(f"mknod {major}:{minor}", device, kind, major, minor)
    attempt("mknod 0:0 (whiteout)", lambda: os.mknod(f"{_TRAP}/white", stat.S_IFCHR, 0))
    for path in _LINKED:
        attempt(f"hard link of {path}", hard_link, path)
        attempt(f"hard link of {path} by descriptor", by_descriptor, path)
    for path in _NOT_OURS:
        attempt(f"open {path} for writing", os.open, path, os.O_WRONLY)
        attempt(f"rename {path}", os.rename, path, f"{path}.gone")
    attempt("make a file immutable", immutable)
    attempt("trusted xattr", lambda: os.setxattr(f"{_TRAP}/plain", "trusted.overlay.opaque", b"y"))
    attempt("security xattr", lambda: os.setxattr(f"{_TRAP}/plain", "security.selinux", b"x"))
    traps()
