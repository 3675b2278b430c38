"""What a program in a sandbox can reach: itself. Tried from inside, and compared with what the engine was told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Settings
from tests.e2e.caller import Caller
from tests.e2e.programs import bash, call, only_result, python, results, run_bash, run_python, script, text_of
from tests.e2e.server import ServerProcess

NO_CAPABILITIES = "0000000000000000"
GUEST = "$(pgrep -o -u root -f guest.main -P 1)"


@pytest.fixture(scope="module")
def inspected(server: ServerProcess, environment: str) -> Iterator[dict[str, Any]]:
    """The sandbox as the engine describes it."""
    container = server.container(environment)
    yield container.attrs
    container.client.close()


@pytest.mark.parametrize("program", ["shell", "cell", "background"])
def test_programs_run_without_any_privilege(caller: Caller, environment: str, program: str) -> None:
    status = "cat /proc/self/status; id -un; id -G; pwd"
    if program == "shell":
        shown = only_result(caller.create(bash(status), environment))
    elif program == "cell":
        code = (
            f"import subprocess\nprint(open('/proc/self/status').read())\nprint(subprocess.getoutput('{status[23:]}'))"
        )
        shown = only_result(caller.create(python(code), environment))
    else:
        code = f"(setsid bash -c '{status}' >shown &); sleep 0.3; cat shown"
        shown = only_result(caller.create(bash(code), environment))
    fields = dict(line.split(":\t", 1) for line in shown.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert fields[name] == NO_CAPABILITIES, name
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert set(fields["Uid"].split()) == {"1000"}
    assert set(fields["Gid"].split()) == {"1000"}
    assert fields["Groups"].split() in ([], ["1000"])
    assert shown.splitlines()[-3:] == ["agent", "1000", "/workspace"]


def test_file_tools_have_no_more_rights_than_programs(caller: Caller, environment: str) -> None:
    program = script(call("write_file", path="owned", content="x"), run_bash("stat -c %U owned"))
    assert text_of(results(caller.create(program, environment))[1]) == "agent\n"


def test_there_is_no_network(caller: Caller, environment: str) -> None:
    code = (
        "ls /sys/class/net; ip -o link 2>/dev/null | wc -l; cat /proc/net/route | wc -l\n"
        "timeout 3 bash -c '</dev/tcp/1.1.1.1/80' 2>&1 | tail -1\n"
        "timeout 3 bash -c '</dev/udp/169.254.169.254/80' 2>&1 | tail -1\n"
        "getent hosts example.com || echo no name"
    )
    interfaces, *rest = only_result(caller.create(bash(code), environment)).splitlines()
    assert interfaces == "lo"
    assert "no name" in rest
    assert len([line for line in rest if "nreachable" in line]) >= 1, rest
    by_python = "import socket\ns = socket.socket()\ns.settimeout(2)\ns.connect(('1.1.1.1', 53))"
    assert "OSError" in only_result(caller.create(python(by_python), environment))


def test_the_guest_is_out_of_reach(caller: Caller, environment: str) -> None:
    code = (
        f"guest={GUEST}; echo guest=$guest\n"
        "for pid in 1 $guest; do\n"
        "  cat /proc/$pid/environ >/dev/null && echo READ environ $pid\n"
        "  cat /proc/$pid/maps >/dev/null && echo READ maps $pid\n"
        "  cat /proc/$pid/mem >/dev/null && echo READ mem $pid\n"
        "  ls /proc/$pid/fd >/dev/null && echo READ fd $pid\n"
        "  ls /proc/$pid/root/ >/dev/null && echo READ root $pid\n"
        "  for signal in 0 9 15 19; do kill -$signal $pid && echo SIGNALLED $pid $signal; done\n"
        "done 2>/dev/null\n"
        'ls -A /run/corral 2>&1; python3 -c "import socket; s=socket.socket(socket.AF_UNIX); '
        "s.connect('/run/corral/guest.sock')\" 2>&1 | tail -1\n"
        "touch /opt/corral/guest/x 2>&1; echo over"
    )
    shown = only_result(caller.create(bash(code), environment))
    assert "guest=\n" not in shown, "the test does not find the guest"
    assert "READ" not in shown
    assert "SIGNALLED" not in shown
    assert shown.count("ermission denied") >= 2 or "Read-only" in shown
    assert shown.endswith("over\n")
    trace = (
        "import ctypes, subprocess\n"
        f"pid = int(subprocess.getoutput('echo {GUEST}'))\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.ptrace(16, pid, None, None), ctypes.get_errno())"
    )
    assert only_result(caller.create(python(trace), environment)).startswith("-1 ")
    assert only_result(caller.create(bash("kill -9 -1; echo not here"), environment)).endswith("[killed by signal 9]")
    assert only_result(caller.create(bash("echo on"), environment)) == "on\n"


def test_interpreter_does_not_hold_what_others_own(caller: Caller, environment: str) -> None:
    """No descriptor of the guest or of another call leaks into a program."""
    in_bash, in_python = results(
        caller.create(
            script(run_bash("ls /proc/self/fd"), run_python("import os; print(*os.listdir('/proc/self/fd'))")),
            environment,
        )
    )
    assert text_of(in_bash).split() == ["0", "1", "2", "3"], "3 is the folder itself"
    assert len(text_of(in_python).split()) <= 5, "besides these, the interpreter's own line to the guest"


def test_kernel_surface_is_closed(caller: Caller, environment: str) -> None:
    attempts = {
        "user namespace": "unshare -Ur true",
        "mount": "mount -t tmpfs none /mnt",
        "mount namespace": "unshare -m true",
        "su": "su -c id root </dev/null",
        "setuid": "cp /bin/bash b && chmod u+s b && ./b -p -c 'test $(id -u) = 0'",
        "sysrq": "echo h >/proc/sysrq-trigger",
        "core pattern": "echo x >/proc/sys/kernel/core_pattern",
        "host name": "hostname other",
        "clock": "date -s 2020-01-01",
        "device": "mknod d b 8 0",
        "kernel log": "dmesg",
        "root home": "ls /root",
        "shadow": "cat /etc/shadow",
        "system files": "touch /usr/bin/x",
        "cgroup": "mkdir /sys/fs/cgroup/x",
    }
    code = "cd /tmp\n" + "\n".join(
        f"if ({attempt}) >/dev/null 2>&1; then echo 'OPEN {name}'; fi" for name, attempt in attempts.items()
    )
    assert only_result(caller.create(bash(code + "\necho over"), environment)) == "over\n"
    sockets = (
        "import socket\nfor family, kind in ((17, 3), (40, 1), (38, 5), (16, 3)):\n"
        "    try:\n        socket.socket(family, kind).close()\n        print('OPEN', family)\n"
        "    except OSError as error:\n        print(family, error.errno)"
    )
    shown = only_result(caller.create(python(sockets), environment))
    for family in (17, 40, 38):
        assert f"OPEN {family}\n" not in shown, "AF_PACKET, AF_VSOCK, AF_ALG"


def test_no_engine_socket_and_no_secret_of_the_server(server: ServerProcess, caller: Caller, environment: str) -> None:
    code = "find / -xdev -type s 2>/dev/null; ls /var/run/docker.sock /run/podman 2>&1 | wc -l; env; cat /proc/mounts"
    shown = only_result(caller.create(bash(code), environment))
    assert "docker.sock\n" not in shown.replace("cannot access '/var/run/docker.sock'", "")
    assert "CORRAL_" not in shown
    assert str(server.data_dir) not in shown
    assert "crl_" not in shown


def test_limits_hold_as_set(engine: Settings, caller: Caller, environment: str, inspected: dict[str, Any]) -> None:
    wanted, host = engine.resources, inspected["HostConfig"]
    pids = wanted.pids or 1024
    assert host["Memory"] == wanted.memory_bytes
    assert host["MemorySwap"] == wanted.memory_bytes, "no swap beyond the memory"
    assert host["PidsLimit"] == pids
    assert host["NanoCpus"] == int(wanted.cpus * 1e9) or host["CpuQuota"] / host["CpuPeriod"] == wanted.cpus
    read = (
        "cd /sys/fs/cgroup\n"
        "cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes\n"
        "cat pids.max 2>/dev/null || cat pids/pids.max\n"
        "cat cpu.max 2>/dev/null || echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)\n"
        "ulimit -n; ulimit -c; df --output=size -B1 /tmp /dev/shm | tail -n +2"
    )
    memory, own_pids, cpu, files, core, tmp, shm = only_result(caller.create(bash(read), environment)).splitlines()
    assert int(memory) == wanted.memory_bytes
    assert int(own_pids) == pids
    quota, period = map(int, cpu.split())
    assert quota / period == wanted.cpus
    assert (int(files), core) == (wanted.open_files, "0")
    assert int(tmp) + int(shm) <= wanted.memory_bytes // 4


def test_engine_was_told_every_protection(inspected: dict[str, Any]) -> None:
    host, config = inspected["HostConfig"], inspected["Config"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert {name.removeprefix("CAP_") for name in host["CapAdd"]} == {"SETUID", "SETGID", "KILL", "SETPCAP"}
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert not any("unconfined" in option for option in host["SecurityOpt"])
    assert host["Init"] is True
    assert host["Privileged"] is False
    assert host["IpcMode"] == "private"
    assert host["PidMode"] == ""
    assert not host["Devices"]
    assert host["MaskedPaths"]
    assert host["ReadonlyPaths"]
    assert not [variable for variable in config["Env"] if "CORRAL" in variable or "KEY" in variable]


def test_nothing_of_the_host_is_bound_but_its_own_disk(inspected: dict[str, Any], server: ServerProcess) -> None:
    """And, read-only, its name table, and the guest where the image has an older one."""
    disks = server.data_dir / "disks"
    for mount in inspected["Mounts"]:
        source = Path(mount["Source"])
        if mount["Destination"] == "/opt/corral/guest":
            assert (mount["RW"], source.parent) == (False, disks / "guests")
        elif mount["Destination"] == "/etc/hosts":
            assert (mount["RW"], source) == (False, disks / "hosts")
        else:
            assert mount["Destination"] in ("/workspace", "/home/agent", "/.agents", "/var/tmp")
            assert source.parent == disks / "mounts" / inspected["Config"]["Labels"]["corral.sandbox"]


def test_with_a_disk_nothing_else_outlives_a_command(
    inspected: dict[str, Any], caller: Caller, environment: str
) -> None:
    """What the agent can write: its disk, and memory that the sandbox's limit counts."""
    if not inspected["Mounts"]:
        pytest.skip("no disks on this machine: sandboxes write into the engine's layers")
    assert inspected["HostConfig"]["ReadonlyRootfs"] is True
    found = only_result(caller.create(bash("find / -xdev -writable -not -type l 2>/dev/null; true"), environment))
    places = {"/tmp", "/var/tmp", "/workspace", "/home/agent", "/.agents"}
    assert set(found.split()) == places, "mount points, and nothing in the image itself"
    mounted = only_result(caller.create(bash("awk '$4 ~ /^rw/ {print $2, $3}' /proc/mounts"), environment))
    kinds = dict(line.split() for line in mounted.splitlines())
    assert {at for at, kind in kinds.items() if kind == "ext4"} >= places - {"/tmp"}
    assert kinds["/tmp"] == "tmpfs"
    assert set(kinds.values()) <= {"ext4", "tmpfs", "proc", "devpts", "mqueue", "sysfs", "cgroup"}


def test_sandboxes_do_not_see_each_other(caller: Caller, environment: str) -> None:
    other = caller.new_environment(bash("sleep 3201 >/dev/null 2>&1 & echo mine >/tmp/mine"))
    program = script(run_bash("ps -eo args; ls /tmp"), run_python("import os; os.path.exists('/tmp/mine')"))
    shown, exists = [text_of(step) for step in results(caller.create(program, environment))]
    assert "3201" not in shown
    assert "mine" not in shown.split()
    assert exists == "False\n"
    caller.delete_environment(other)


def test_spinning_takes_no_more_than_its_cpus(start_server: Any) -> None:
    server = start_server(RESOURCES__CPUS="0.5")
    with server.caller() as caller:
        code = "for i in 1 2; do timeout 1.5 bash -c 'while :; do :; done' & done; wait; times | tail -1"
        shown = only_result(caller.create(bash(code), "remote"))
    user, system = (float(each.partition("m")[2].rstrip("s")) for each in shown.split())
    assert user + system < 1.5 * 0.5 * 1.5
