"""Ways out of a sandbox (cases E1 to E7 and E10 to E12): tried from inside, as the agent, or asked for over the API."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.attack.attacker import Attacker, Said
from tests.attack.report import Case, Verdict
from tests.e2e.caller import Caller
from tests.e2e.programs import call, run_bash
from tests.e2e.server import ServerProcess

DIFFERS = Verdict.DIFFERS
REFUSED = {
    "EPERM",
    "EACCES",
    "ENOSYS",
    "EAFNOSUPPORT",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "EOPNOTSUPP",
    "ENOTSUP",
    "EROFS",
    "ENOENT",
    "none",
}
UNREACHABLE = ("ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "ECONNREFUSED")
EXPECTED_SYMLINKS = ("to-shadow", "to-environ", "to-memory", "to-own-memory", "to-kernel", "to-zero", "to-random")


GVISOR = {
    "E3": (
        "read ",
        "list ",
        "open the descriptors of the agent's own",
        "setpriority",
        "sched_setaffinity",
        "sched_setscheduler",
    ),
    "E5": ("perf_event_open", "io_uring", "socket(AF_NETLINK, 15", "setsockopt(", "int 0x80", "x32"),
    "E6": ("unshare(", "clone("),
    "E7": ("write /proc/self/oom_score_adj", "read /proc/1/", "read /dev/net/tun"),
    "E12": ("syslog(",),
}
"""What gVisor's own kernel carries out, by how the attempt begins: nothing of it reaches the host's kernel."""


def judge(case: Case, said: list[Said], *, harmless: tuple[str, ...] = (), also: tuple[str, ...] = ()) -> None:
    """Records attempts that should all be refused. `also` are further outcomes that refuse; an attempt that begins with
    one of `harmless` may succeed, since it means the sandbox alone.
    """
    in_gvisor = GVISOR.get(case.id, ()) if case.runtime == "runsc" else ()
    for each in said:
        if each.got in REFUSED or each.got in also:
            case.tried(each.tried, each.got, ok=True)
        elif each.tried.startswith(harmless):
            case.differs(each.tried, f"{each.got}; means the sandbox alone")
        elif each.tried.startswith(in_gvisor):
            case.differs(each.tried, f"{each.got}, by gVisor's own kernel")
        else:
            case.tried(each.tried, each.got, ok=False)


@pytest.mark.case("E4")
def test_keyring(case: Case, shared_attacker: Attacker) -> None:
    judge(case, shared_attacker.run("kernel", "E4"), harmless=("read /proc/key-users",))


@pytest.mark.case("E5")
def test_kernel_surface(case: Case, shared_attacker: Attacker) -> None:
    judge(case, shared_attacker.run("kernel", "E5"), also=("killed by SIGSYS", "ENOPROTOOPT"))


@pytest.mark.case("E6")
def test_mounts_and_namespaces(case: Case, shared_attacker: Attacker) -> None:
    judge(case, shared_attacker.run("kernel", "E6"))


@pytest.mark.case("E7")
def test_pseudo_files(case: Case, shared_attacker: Attacker) -> None:
    judge(case, shared_attacker.run("pseudo_files"), harmless=("write /proc/self/loginuid",))


@pytest.mark.case("E12")
def test_clock_name_reboot_modules(case: Case, shared_attacker: Attacker) -> None:
    judge(case, shared_attacker.run("kernel", "E12"))


@pytest.mark.case("E1")
def test_engine_socket(case: Case, shared_attacker: Attacker, server: ServerProcess) -> None:
    judge(case, shared_attacker.run("guest", "E1", server.port), also=UNREACHABLE)


@pytest.mark.case("E3")
def test_guest(case: Case, shared_attacker: Attacker) -> None:
    judge(case, shared_attacker.run("guest", "E3"), also=("ESRCH",))


@pytest.mark.case("E2")
def test_privileges(case: Case, shared_attacker: Attacker) -> None:
    judge(case, shared_attacker.run("privileges"), also=("EINVAL",))


@pytest.mark.case("E2")
def test_file_tools_leave_no_set_id_bits(case: Case, shared_attacker: Attacker) -> None:
    mode = "python3 -c \"import os; s = os.stat('/workspace/tool'); print(oct(s.st_mode), s.st_uid)\""
    made, _, after = shared_attacker.play(
        run_bash(f"cd /workspace; cp /bin/true tool; chmod 6755 tool; {mode}"),
        call("write_file", path="tool", content="#!/bin/sh\nid\n"),
        run_bash(mode),
    )
    assert made == "0o106755 1000\n"
    case.tried("write_file over a set-uid file", after.strip(), ok=after == "0o100755 1000\n")


@pytest.mark.case("E10")
def test_special_files(case: Case, attacker: Attacker) -> None:
    said = attacker.run("files")
    flags = {each.tried: each.got for each in said if each.tried.startswith("mount flags")}
    for tried, got in flags.items():
        is_safe = set(got.split()) >= {"nosuid", "nodev"} or got == "no such folder"
        case.tried(
            tried, got or "none; mknod and set-id programs are refused all the same", ok=is_safe, otherwise=DIFFERS
        )
    rest = [each for each in said if each.tried not in flags]
    judge(case, rest, also=("EXDEV", "ENOTTY", "EISDIR"), harmless=("security xattr", "mknod 0:0"))

    for name in (
        "fifo",
        "socket",
        "to-terminal",
        "to-input",
        "to-root",
        "loop",
        "loop-a",
        *EXPECTED_SYMLINKS,
    ):
        before = time.monotonic()
        (shown,) = attacker.play(call("read_file", path=f"trap/{name}"))
        duration_s = time.monotonic() - before
        leaks = "root:x:" in shown or len(shown) > 300
        case.tried(f"read_file {name}", f"{shown[:80]!r} in {duration_s:.1f} s", ok=not leaks and duration_s < 5)
    before = time.monotonic()
    (shown,) = attacker.play(call("read_file", path="trap/holes"))
    duration_s = time.monotonic() - before
    case.tried("read_file of 1 TiB of holes", f"{shown[:80]!r} in {duration_s:.1f} s", ok=duration_s < 5)
    for title, turn, expected in (
        ("list_files", call("list_files", path="trap", recursive=True), "other"),
        ("search_files", call("search_files", path="trap", pattern="plain"), "plain"),
        ("write_file through a link out", call("write_file", path="trap/to-passwd", content="x"), "/etc/"),
        ("edit_file of a FIFO", call("edit_file", path="trap/fifo", old_text="a", new_text="b"), "not a regular file"),
        ("write_file over a FIFO", call("write_file", path="trap/fifo", content="x"), "trap/fifo"),
        ("delete_file through a link to /", call("delete_file", path="trap/to-root"), "deleted file"),
        ("delete_file of /", call("delete_file", path="/"), "stays"),
        ("delete_file of /etc", call("delete_file", path="/etc"), ": "),
        ("delete_file of the trap", call("delete_file", path="trap"), "deleted directory"),
    ):
        before = time.monotonic()
        (shown,) = attacker.play(turn)
        duration_s = time.monotonic() - before
        case.tried(title, f"{shown[-100:]!r} in {duration_s:.1f} s", ok=expected in shown and duration_s < 10)


@pytest.mark.case("E11")
@pytest.mark.parametrize("place", ["environment", "interaction", "agent_config"])
def test_host_namespaces_by_fields(case: Case, caller: Caller, place: str) -> None:
    fields: dict[str, Any] = {
        "network_mode": "host",
        "networkMode": "host",
        "pid_mode": "host",
        "ipc_mode": "host",
        "uts_mode": "host",
        "userns_mode": "host",
        "cgroupns": "host",
        "privileged": True,
        "cap_add": ["SYS_ADMIN"],
        "capabilities": ["ALL"],
        "security_opt": ["seccomp=unconfined"],
        "devices": ["/dev/sda"],
        "binds": ["/:/host"],
        "volumes": {"/": "/host"},
        "mounts": [{"source": "/", "target": "/host"}],
        "host_config": {"Privileged": True},
        "HostConfig": {"Privileged": True},
        "user": "root",
        "runtime": "runc",
        "image": "corral/base",
        "entrypoint": ["/bin/sh"],
        "command": ["/bin/sh"],
        "sysctls": {"kernel.core_pattern": "x"},
        "memory_bytes": 1 << 60,
    }
    before = caller.environments()
    for name, value in fields.items():
        if place == "environment":
            answer = caller.post("x", {"type": "remote", name: value})
        elif place == "interaction":
            answer = caller.post("x", "remote", **{name: value})
        else:
            answer = caller.post("x", "remote", agent_config={"type": "antigravity", name: value})
        message = str(answer.json().get("error", {}).get("message", ""))
        is_named = answer.status_code == 400 and name in message
        case.tried(f"{place}.{name}", f"{answer.status_code}: {message[:100]}", ok=is_named)
    for value in (
        {"type": "host"},
        {"type": "remote", "network": "host"},
        {"type": "remote", "network": {"mode": "host"}},
    ):
        answer = caller.post("x", value)
        case.tried(f"environment {value}", answer.status_code, ok=answer.status_code == 400)
    case.tried(
        "environments made by all this", len(caller.environments()) - len(before), ok=caller.environments() == before
    )
