"""Reaching the guest and what is behind it: sockets and hints (E1), tracing and reading its processes (E3).

Arguments: the case's id; for E1 also the server's port.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from typing import Any

from tests.attack.inside.attempts import attempt, call, say

_SOCKETS = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/user/1000/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/snapd.socket",
    "/proc/1/root/run/docker.sock",
    "/run/corral/guest.sock",
)
_ABSTRACT = ("containerd-shim/x.sock", "/containerd-shim/moby/x/shim.sock", "docker", "/tmp/.X11-unix/X0", "corral")
_HOSTS = ("127.0.0.1", "::1", "172.17.0.1", "192.168.0.1", "10.0.0.1", "169.254.169.254", "fd00:ec2::254")
_MARKS = ("docker", "podman", "corral", "kube", "token", "secret", "passw", "api_key", "credential", "aws_", "google_")
_OPEN = ("/opt/corral/guest/", "/run/corral-trust/")
"""Where everybody may read what programs of the sandbox load: no hint of anything else."""


def _shown(name: str) -> str:
    value = os.environ[name]
    for place in _OPEN:
        value = value.replace(place, "")
    return f"{name}={value}"


def outside(port: int) -> None:
    for path in _SOCKETS:
        attempt(f"connect {path}", _connect, socket.AF_UNIX, path)
    for name in _ABSTRACT:
        attempt(f"connect abstract @{name}", _connect, socket.AF_UNIX, f"\0{name}")
    for host in _HOSTS:
        for number in (2375, 2376, port, 80):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            attempt(f"connect {host} {number}", _connect, family, (host, number))
    found = list(_sockets())
    say("find sockets in the file system", f"succeeded: {found}" if found else "none")
    with open("/proc/net/unix") as file:
        others = [line.split()[-1] for line in file.readlines()[1:] if line.split()[-1].startswith("@")]
    say("abstract sockets of others", f"succeeded: {others}" if others else "none")
    hints = [name for name in os.environ if any(mark in _shown(name).lower() for mark in _MARKS)]
    say("secrets or engine names in the environment", f"succeeded: {hints}" if hints else "none")
    with open("/proc/self/mountinfo") as file:
        mounted = [line.split()[4] for line in file if ".sock" in line or "docker.sock" in line]
    say("sockets among the mounts", f"succeeded: {mounted}" if mounted else "none")
    present = [path for path in ("/.dockerenv", "/run/.containerenv", "/run/secrets") if _has_content(path)]
    say("what the engine leaves in the root", f"succeeded: {present}" if present else "none")
    interfaces = [name for name in os.listdir("/sys/class/net") if name != "lo"]
    say("network interfaces but loopback", f"succeeded: {interfaces}" if interfaces else "none")


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect(address)


def _sockets() -> Iterator[str]:
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys")]
        for name in names:
            path = os.path.join(folder, name)
            try:
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    yield path
            except OSError:
                continue


def _has_content(path: str) -> bool:
    return os.path.isdir(path) or (os.path.isfile(path) and os.path.getsize(path) > 0)


def tracing() -> None:
    processes = list(_others())
    assert len(processes) > 1, "the guest is not found"
    for pid, owner in processes:
        who = f"process {pid} of {owner}"
        attempt(f"ptrace(ATTACH) {who}", call, "ptrace", 16, pid, None, None)
        attempt(f"ptrace(SEIZE) {who}", call, "ptrace", 0x4206, pid, None, None)
        attempt(f"process_vm_readv {who}", _peek, pid)
        attempt(f"process_vm_writev {who}", _poke, pid)
        for name in ("environ", "maps", "mem", "auxv", "stack", "syscall", "pagemap", "io"):
            attempt(f"read /proc/{pid}/{name} ({owner})", _read, f"/proc/{pid}/{name}")
        for name in ("fd", "fdinfo", "map_files", "cwd/", "root/"):
            attempt(f"list /proc/{pid}/{name} ({owner})", _listed, f"/proc/{pid}/{name}")
        attempt(f"readlink /proc/{pid}/exe ({owner})", os.readlink, f"/proc/{pid}/exe")
        whose = who if owner == "root" else f"the agent's own process {pid}"
        attempt(f"open the descriptors of {whose}", _opened, pid)
        attempt(f"pidfd_getfd {who}", _steal, pid)
        attempt(f"kcmp {who}", call, "kcmp", os.getpid(), pid, 2, 0, 0)
        attempt(f"process_madvise {who}", _advise, pid)
        if owner == "root":
            for number in (0, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
                attempt(f"signal {number:d} to {who}", os.kill, pid, number)
            attempt(f"prlimit {who}", resource.prlimit, pid, resource.RLIMIT_NOFILE, (3, 3))
            attempt(f"setpriority {who}", os.setpriority, os.PRIO_PROCESS, pid, 19)
            attempt(f"sched_setaffinity {who}", os.sched_setaffinity, pid, {0})
            attempt(f"sched_setscheduler(IDLE) {who}", _idle, pid)
            attempt(f"ioprio_set {who}", call, "ioprio_set", 1, pid, 3 << 13)
            attempt(f"write /proc/{pid}/comm", _write, f"/proc/{pid}/comm")
            attempt(f"write /proc/{pid}/oom_score_adj", _write, f"/proc/{pid}/oom_score_adj")
            attempt(f"write /proc/{pid}/mem", _write, f"/proc/{pid}/mem")
    attempt("write the guest's program", lambda: _write("/opt/corral/guest/main.py"))
    attempt("add to the guest's program", lambda: _create("/opt/corral/guest/json.py"))
    attempt("add to the guest's byte code", lambda: _create("/opt/corral/guest/__pycache__/main.pyc"))
    attempt("put a module before the guest's", lambda: _create("/opt/corral/socket.py"))
    attempt("replace the system's Python", lambda: _create("/usr/local/bin/python3"))
    attempt("replace the guest's folder", lambda: os.rename("/opt/corral", "/opt/other"))
    attempt("preload a library into all", lambda: _create("/etc/ld.so.preload"))
    attempt("read the guest's socket folder", lambda: str(os.listdir("/run/corral")))
    attempt("make a socket in its place", lambda: _create("/run/corral/guest.sock2"))
    attempt("ptrace(SETOPTIONS) of process 1, untraced", _claim_by_parent)


def _others() -> Iterator[tuple[int, str]]:
    """Process 1, the guest and its hands: everything that our own call did not start."""
    ours = _ancestors()
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        pid = int(name)
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
            owner = os.stat(f"/proc/{pid}").st_uid
            with open(f"/proc/{pid}/status") as file:
                real = next(field.split()[1] for field in file if field.startswith("Uid:"))
        except (OSError, StopIteration):
            continue
        is_hand = b"guest.main" in line or pid == 1
        if is_hand and pid != os.getpid():
            yield pid, "root" if real == "0" else "agent" + (" (ours)" if pid in ours else f" {owner}")


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1:
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rsplit(")", 1)[1].split()[1])
        found.add(pid)
    return found


def _peek(pid: int) -> str:
    buffer = ctypes.create_string_buffer(64)
    local = struct.pack("<QQ", ctypes.addressof(buffer), 64)
    return f"{call('process_vm_readv', pid, local, 1, struct.pack('<QQ', 0x400000, 64), 1, 0)} bytes"


def _poke(pid: int) -> str:
    buffer = ctypes.create_string_buffer(64)
    local = struct.pack("<QQ", ctypes.addressof(buffer), 64)
    return f"{call('process_vm_writev', pid, local, 1, struct.pack('<QQ', 0x400000, 64), 1, 0)} bytes"


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return f"{len(file.read(64))} bytes"


def _listed(path: str) -> str:
    return f"{len(os.listdir(path))} names"


def _opened(pid: int) -> str:
    """The descriptors that can be had by their names in proc, for writing or reading. /dev/null is nobody's secret."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        for flags in (os.O_WRONLY, os.O_RDONLY):
            path = f"/proc/{pid}/fd/{name}"
            try:
                os.close(os.open(path, flags | os.O_NONBLOCK))
            except OSError:
                continue
            target = os.readlink(path)
            if target != "/dev/null":
                found.append(f"{name} {flags:d} {target}")
    if not found:
        raise PermissionError(1, "none")
    return str(found)


def _steal(pid: int) -> str:
    fd = call("pidfd_open", pid, 0)
    return "descriptors " + str([call("pidfd_getfd", fd, number, 0) for number in range(3, 8)])


def _advise(pid: int) -> int:
    fd = call("pidfd_open", pid, 0)
    return call("process_madvise", fd, struct.pack("<QQ", 0x400000, 4096), 1, 21, 0)


def _idle(pid: int) -> None:
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _write(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"0")
    os.close(fd)


def _create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def _claim_by_parent() -> int:
    return call("ptrace", 0x4200, 1, None, 0)  # SETOPTIONS of a process that we do not trace


if __name__ == "__main__":
    if sys.argv[1] == "E1":
        outside(int(sys.argv[2]))
    else:
        tracing()
