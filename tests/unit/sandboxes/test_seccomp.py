"""The seccomp profile: what it must never let through, and the shape the engine expects."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

import pytest

from orchestrator.sandboxes import seccomp

DANGEROUS = [
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "clone3",
    "create_module",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "quotactl",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
]


def rules() -> list[dict[str, Any]]:
    return list(json.loads(seccomp.profile())["syscalls"])


@pytest.mark.parametrize("name", DANGEROUS)
def test_dangerous_calls_are_not_allowed(name: str) -> None:
    allowing = [rule for rule in rules() if name in rule["names"] and rule["action"] == "SCMP_ACT_ALLOW"]
    assert allowing == []


def test_everything_unnamed_fails() -> None:
    assert json.loads(seccomp.profile())["defaultAction"] == "SCMP_ACT_ERRNO"


def test_socket_families_are_a_closed_list() -> None:
    allowing = [rule for rule in rules() if rule["action"] == "SCMP_ACT_ALLOW"]
    conditions = [rule["args"] for rule in allowing if rule["names"] == ["socket"]]
    families = sorted(each[0]["value"] for each in conditions)
    assert families == [1, 2, 10, 16]
    netlink = next(each for each in conditions if each[0]["value"] == 16)
    assert netlink[1]["value"] == 0
    assert "socket" not in seccomp.ALLOWED


def test_audit_is_not_there_rather_than_forbidden() -> None:
    """Told EPERM, `useradd` gives up."""
    (rule,) = [rule for rule in rules() if rule["names"] == ["socket"] and rule["action"] == "SCMP_ACT_ERRNO"]
    assert rule["errnoRet"] == errno.EPROTONOSUPPORT
    assert [each["value"] for each in rule["args"]] == [socket.AF_NETLINK, 9]


def test_clone_is_allowed_without_namespaces_only() -> None:
    (rule,) = [rule for rule in rules() if rule["names"] == ["clone"]]
    (condition,) = rule["args"]
    assert condition["op"] == "SCMP_CMP_MASKED_EQ"
    assert condition["valueTwo"] == 0
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert condition["value"] & flag == flag
    assert "clone" not in seccomp.ALLOWED
