"""What proc and sys let the agent write and read (E7): the known ways out by name, then every file there is."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tests.attack.inside.attempts import attempt, say

_WRITTEN = {
    "/proc/sys/kernel/core_pattern": "|/workspace/x",
    "/proc/sys/kernel/modprobe": "/workspace/x",
    "/proc/sys/kernel/hotplug": "/workspace/x",
    "/proc/sys/kernel/sysrq": "1",
    "/proc/sys/kernel/yama/ptrace_scope": "0",
    "/proc/sys/kernel/randomize_va_space": "0",
    "/proc/sys/vm/panic_on_oom": "1",
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/fs/binfmt_misc/register": ":x:M::x::/workspace/x:",
    "/proc/sys/net/ipv4/ip_forward": "1",
    "/proc/sys/kernel/shmmax": "1",
    "/proc/sysrq-trigger": "h",
    "/proc/irq/0/smp_affinity": "1",
    "/proc/mtrr": "x",
    "/proc/self/oom_score_adj": "-1000",
    "/proc/self/uid_map": "0 0 4294967295",
    "/proc/self/loginuid": "0",
    "/proc/1/oom_score_adj": "1000",
    "/proc/1/attr/current": "x",
    "/sys/kernel/uevent_helper": "/workspace/x",
    "/sys/kernel/mm/transparent_hugepage/enabled": "always",
    "/sys/kernel/debug/x": "x",
    "/sys/kernel/security/x": "x",
    "/sys/power/state": "mem",
    "/sys/power/disk": "reboot",
    "/sys/module/overlay/parameters/metacopy": "Y",
    "/sys/class/block/vda/uevent": "add",
    "/sys/fs/cgroup/release_agent": "/workspace/x",
    "/sys/fs/cgroup/cgroup.procs": "1",
    "/sys/fs/cgroup/cgroup.subtree_control": "-memory",
    "/sys/fs/cgroup/pids.max": "max",
    "/sys/fs/cgroup/memory.max": "max",
}
_GROUPS = ("memory", "pids", "cpu", "devices", "freezer", "rdma", "systemd", "blkio", "net_cls")
_OF_A_GROUP = {
    "release_agent": "/workspace/x",
    "notify_on_release": "1",
    "cgroup.procs": "1",
    "tasks": "1",
    "devices.allow": "a",
    "memory.limit_in_bytes": "-1",
    "pids.max": "max",
    "freezer.state": "FROZEN",
}
_MASKED = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/kmsg",
    "/proc/kpageflags",
    "/proc/vmallocinfo",
    "/proc/slabinfo",
    "/proc/1/environ",
    "/proc/1/maps",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/firmware/acpi",
    "/sys/firmware/dmi",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
    "/proc/acpi",
    "/proc/asound",
    "/dev/mem",
    "/dev/kmsg",
    "/dev/fuse",
    "/dev/kvm",
    "/dev/vda",
    "/dev/loop0",
    "/dev/loop-control",
    "/dev/net/tun",
    "/dev/console",
)


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)


def read(path: str) -> str:
    if os.path.isdir(path):
        names = os.listdir(path)
        if not names:
            raise FileNotFoundError(2, "empty")
        return f"{len(names)} names"
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    content = os.read(fd, 64)
    if not content:
        raise FileNotFoundError(2, "empty")
    return f"{len(content)} bytes"


def all_files() -> Iterator[str]:
    for top in ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/net", "/sys"):
        for folder, _, names in os.walk(top):
            for name in names:
                yield os.path.join(folder, name)
    for name in os.listdir("/proc"):
        if os.path.isfile(f"/proc/{name}"):
            yield f"/proc/{name}"


def sweep() -> None:
    """Opens, and never writes, everything: what opens for writing is a way out that nobody thought of."""
    count, opened = 0, []
    for path in all_files():
        count += 1
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            opened.append(path)
        except OSError:
            continue
    say(f"open {count} files of proc and sys for writing", f"succeeded: {opened[:20]}" if opened else "EACCES")


if __name__ == "__main__":
    for path, text in _WRITTEN.items():
        attempt(f"write {path}", write, path, text)
    for group in _GROUPS:
        for name, text in _OF_A_GROUP.items():
            path = f"/sys/fs/cgroup/{group}/{name}"
            if os.path.exists(path):
                attempt(f"write {path}", write, path, text)
        if os.path.isdir(f"/sys/fs/cgroup/{group}"):
            attempt(f"mkdir /sys/fs/cgroup/{group}/x", os.mkdir, f"/sys/fs/cgroup/{group}/x")
    attempt("mkdir /sys/fs/cgroup/x", lambda: os.mkdir("/sys/fs/cgroup/x"))
    for path in _MASKED:
        attempt(f"read {path}", read, path)
    sweep()
