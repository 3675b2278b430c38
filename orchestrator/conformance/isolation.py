"""Checks of isolation: who the agent is, what it can reach, and that it cannot harm the guest.

Only what every platform can hold; attacks on one platform's walls are that platform's own tests.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from orchestrator.conformance.bench import Bench, run, runs_python, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.sandboxes.handle import Sandbox

_OTHERS = """
import os
others = [int(n) for n in os.listdir("/proc") if n.isdigit()]
mine = os.getuid()
def uid(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("Uid:"): return int(line.split()[1])
others = [pid for pid in others if uid(pid) != mine]
"""
"""Processes that are not the agent's: the guest and what is above it."""
_TRACE = (
    _OTHERS
    + """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
ATTACH, SEIZE = 16, 0x4206
for pid in others:
    for request in (ATTACH, SEIZE):
        print(libc.ptrace(request, pid, None, None), ctypes.get_errno() in (1, 5, 38))
    for name in ("mem", "environ", "maps"):
        try: open(f"/proc/{pid}/{name}", "rb").read(1); print("read", name)
        except OSError: pass
print("tried", len(others) > 0)
"""
)
_CONNECT = """
import errno, socket
addresses = (socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "169.254.169.254"), (socket.AF_INET6, "2001:db8::1")
for family, address in addresses:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as s:
                s.settimeout(2)
                s.connect((address, 80))
                print("connected")
        except TimeoutError: print("timeout")
        except OSError: pass
try: socket.getaddrinfo("example.com", 80); print("resolved")
except OSError: pass
print("tried")
"""
_LOOPBACK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname(), 5) as client:
        client.sendall(b"hello")
        print(server.accept()[0].recv(5).decode())
"""
_CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWPID = 0x20000, 0x10000000, 0x40000000, 0x20000000
attempts = {
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    "umount": lambda: libc.umount2(b"/tmp", 2),
    "pivot_root": lambda: libc.syscall(155, b"/tmp", b"/tmp"),
    "mknod": lambda: libc.mknod(b"/tmp/device", 0o060666, os.makedev(8, 0)),
    "sethostname": lambda: libc.sethostname(b"other", 5),
    "settimeofday": lambda: libc.clock_settime(0, (ctypes.c_long * 2)(1, 1)),
    "reboot": lambda: libc.reboot(0x89ABCDEF),
    "swapon": lambda: libc.swapon(b"/tmp/x", 0),
    "init_module": lambda: libc.syscall(175, None, 0, b""),
    "bpf": lambda: libc.syscall(321, 0, None, 0),
    "keyctl": lambda: libc.syscall(250, 0, 0, 0, 0, 0),
    "unshare mount": lambda: libc.unshare(CLONE_NEWNS),
    "unshare net": lambda: libc.unshare(CLONE_NEWNET),
    "unshare pid": lambda: libc.unshare(CLONE_NEWPID),
    "setns": lambda: libc.setns(os.open("/proc/self/ns/net", 0), 0),
    "setuid": lambda: libc.setuid(0),
    "setgid": lambda: libc.setgid(0),
    "setgroups": lambda: libc.setgroups(1, (ctypes.c_int * 1)(0)),
    "chroot": lambda: libc.chroot(b"/tmp"),
    "realtime": lambda: libc.sched_setscheduler(0, 1, (ctypes.c_int * 1)(50)),
    "capset": lambda: libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)),
}
for name, attempt in attempts.items():
    try: done = attempt()
    except OSError: done = -1
    if done >= 0: print(name)
"""


class IsolationChecks(Platform):
    # who it is

    async def test_the_agent_is_a_user_without_privilege(self, box: Sandbox) -> None:
        ids = (await says(box, "id -u; id -g; id -G")).decode().split()
        if self.states(Difference.NO_ISOLATION):
            assert ids[0] == str(os.geteuid())
            return
        assert ids == ["1000", "1000", "1000"]

    async def test_cells_and_files_are_the_same_user(self, box: Sandbox, folder: str) -> None:
        await box.file(folder, "write", {"path": f"{folder}/by-file"}, b"text")
        await box.python(
            f"{folder}-cell", f"open('{folder}/by-cell', 'w').close()", timeout_s=20, output_limit_bytes=99
        )
        await says(box, f"touch {folder}/by-command")
        assert len(set((await says(box, f"find {folder} -mindepth 1 -printf '%U:%G\\n'")).split())) == 1

    async def test_the_agent_has_no_capability(self, box: Sandbox) -> None:
        status = (await says(box, "grep '^Cap' /proc/self/status")).decode()
        figures = dict(line.split(":\t") for line in status.splitlines())
        if self.states(Difference.NO_ISOLATION):
            own = await asyncio.to_thread(_own_capabilities)
            assert figures["CapBnd"] == own["CapBnd"]
            return
        assert {"CapInh", "CapPrm", "CapEff", "CapBnd"} <= set(figures)
        assert set(figures.values()) == {"0" * 16}

    async def test_no_program_gives_it_any(self, box: Sandbox) -> None:
        program = "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))"
        assert await runs_python(box, program) == "1\n"

    async def test_it_can_become_nobody_else(self, box: Sandbox) -> None:
        """Nor do what takes a privilege."""
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "user")
            return
        done = set((await runs_python(box, _CALLS)).splitlines())
        assert done <= ({"mknod", "unshare mount"} if self.states(Difference.OWN_KERNEL) else set())

    async def test_su_and_sudo_lead_nowhere(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "user")
            return
        for code in ("su -c id", "su nobody-there -c id", "sudo -n id", "newgrp root -c id", "setpriv --reuid 0 id"):
            outcome = await run(box, f"{code} </dev/null", timeout_s=10.0)
            assert not outcome.is_ok
            assert b"uid=0" not in outcome.head

    # the guest

    async def test_the_guest_cannot_be_signalled(self, bench: Bench) -> None:
        box = await bench.fresh()
        if self.states(Difference.NO_ISOLATION):
            assert (await says(box, "ps -o uid= -p $PPID")).split() == (await says(box, "id -u")).split()
            return
        guest = box.guest_id
        each = f"python3 -c '{_OTHERS}\nfor p in others: os.kill(p, 9)'"
        for code in ("kill -9 -1", "kill -9 1; kill -STOP 1", each):
            await run(box, code, timeout_s=10.0)
        assert await says(box, "echo still here") == b"still here\n"
        assert box.guest_id == guest
        assert box.is_connected

    async def test_the_guest_cannot_be_traced_or_read(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "pid")
            return
        answer = (await runs_python(box, _TRACE)).splitlines()
        assert answer[-1] == "tried True"
        readable = {"read environ", "read maps"} if self.states(Difference.OWN_KERNEL) else set()
        assert set(answer[:-1]) == {"-1 True"} | readable

    async def test_the_guests_socket_and_program_are_out_of_reach(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "mnt")
            return
        assert not (await run(box, "cd /run/corral")).is_ok
        writable = await says(box, "find /opt /run /usr /bin /etc -writable ! -type l 2>/dev/null | head")
        assert writable == b""

    async def test_killing_every_process_leaves_a_sandbox_that_works(self, bench: Bench) -> None:
        """The hands that wait for calls are the agent's own processes."""
        box = await bench.fresh()
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "pid")
            return
        await box.python("before", "x = 1", timeout_s=20, output_limit_bytes=99)
        for _ in range(3):
            await run(box, "kill -9 -1; kill -9 $$", timeout_s=10.0)
        assert await says(box, "echo still here") == b"still here\n"
        outcome = await box.python("after", "1 + 1", timeout_s=20, output_limit_bytes=99)
        assert outcome.head == b"2\n"

    async def test_a_hand_that_is_stopped_does_not_stop_the_next_call(self, bench: Bench) -> None:
        box = await bench.fresh()
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "pid")
            return
        await run(box, "kill -STOP -1; echo on", timeout_s=2.0)
        async with asyncio.timeout(50):
            while not (await run(box, "echo on", timeout_s=20.0)).is_ok:
                await asyncio.sleep(0.1)

    # files

    async def test_the_root_file_system_is_read_only(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "mnt")
            return
        options = (await says(box, "grep -E '^[^ ]+ / ' /proc/mounts | cut -d' ' -f4")).decode().strip().split(",")
        assert options[0] == ("rw" if self.states(Difference.WRITABLE_ROOT) else "ro")
        for folder in ("/", "/usr", "/etc", "/opt", "/bin", "/lib", "/var", "/root", "/sys", "/proc", "/dev"):
            assert not (await run(box, f"touch {folder}/new")).is_ok, folder

    @pytest.mark.parametrize("folder", [".", "$HOME", "/tmp", "/var/tmp", "/dev/shm"])
    async def test_where_it_may_write(self, box: Sandbox, folder: str) -> None:
        code = f"cd {folder} && echo '#!/bin/sh' > probe-$$ && chmod +x probe-$$ && cat probe-$$ && rm probe-$$"
        assert await says(box, code) == b"#!/bin/sh\n"

    @pytest.mark.parametrize("folder", [".", "$HOME", "/tmp"])
    async def test_where_it_may_run_what_it_wrote(self, box: Sandbox, folder: str) -> None:
        code = "p=./probe-$$; printf '#!/bin/sh\\necho ran\\n' > $p; chmod +x $p; $p; rm $p"
        assert await says(box, f"cd {folder}; {code}") == b"ran\n"

    async def test_the_kernels_settings_are_out_of_reach(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "mnt")
            return
        for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"):
            assert not (await run(box, f"echo x > {path}")).is_ok, path
        assert not (await run(box, "head -c 1 /proc/kcore /dev/mem /dev/kmem")).is_ok

    async def test_no_socket_of_an_engine_is_there(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "mnt")
            return
        found = await says(box, "find /run /var/run/ -maxdepth 2 ! -readable -o -type s 2>/dev/null; true")
        assert set(found.split()) <= {b"/run/corral", b"/var/run/corral"}

    # the network

    async def test_there_is_no_network_but_loopback(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "net")
            return
        names = await runs_python(box, "import socket; print([n for _, n in socket.if_nameindex() if n != 'lo'])")
        assert names == "[]\n"
        assert await runs_python(box, _CONNECT) == "tried\n"

    async def test_loopback_works(self, box: Sandbox) -> None:
        assert await runs_python(box, _LOOPBACK) == "hello\n"

    async def test_localhost_is_the_only_name(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "net")
            return
        program = (
            "import socket\nprint(socket.gethostbyname('localhost'))\n"
            "try: print(socket.gethostbyname('example.com'))\nexcept OSError: print('unknown')"
        )
        assert await runs_python(box, program) == "127.0.0.1\nunknown\n"

    async def test_no_packet_can_be_made_by_hand(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "net")
            return
        program = (
            "import socket\nfor family, kind in ((2, 3), (17, 3), (17, 2), (16, 3), (38, 5), (40, 1)):\n"
            "    try: s = socket.socket(family, kind, 0 if family != 16 else 9); print(family, kind)\n"
            "    except OSError: pass"
        )
        assert await runs_python(box, program) == ""

    # others

    async def test_two_sandboxes_see_nothing_of_each_other(self, bench: Bench, box: Sandbox) -> None:
        other = await bench.fresh()
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "pid")
            return
        marker = other.ref.sandbox_id
        serve = (
            "import socket, sys, time\ns = socket.socket(socket.AF_UNIX); s.bind(chr(0) + sys.argv[1]); s.listen()\n"
            "t = socket.create_server(('127.0.0.1', 47111)); print('ready', flush=True); time.sleep(20)"
        )
        await says(box, f"touch {marker} /tmp/{marker} /dev/shm/{marker} /var/tmp/{marker}")
        await says(box, f'python3 -c "{serve}" {marker} > /tmp/{marker} & sleep 0.5; grep -q ready /tmp/{marker}')
        look = (
            "import os, socket, sys\nfor folder in ('.', '/tmp', '/dev/shm', '/var/tmp'):\n"
            "    if os.path.exists(f'{folder}/{sys.argv[1]}'): print(folder)\n"
            "for family, address in ((1, chr(0) + sys.argv[1]), (2, ('127.0.0.1', 47111))):\n"
            "    try: socket.socket(family).connect(address); print(address)\n    except OSError: pass"
        )
        assert await runs_python(other, look, marker) == ""
        assert marker.encode() not in await says(other, "cat /proc/[0-9]*/cmdline")
        await says(box, f"pkill -f '^python3 .*{marker}$'; rm -f {{.,/tmp,/dev/shm,/var/tmp}}/{marker}")

    async def test_it_sees_no_process_of_the_machine(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "pid")
            return
        program = _OTHERS + "print(sorted(open(f'/proc/{p}/status').readline().split()[1] for p in others))"
        names = await runs_python(box, program)
        assert 1 <= names.count("'") // 2 <= 4, names

    async def test_what_it_gets_holds_nothing_of_the_servers(self, box: Sandbox) -> None:
        if self.states(Difference.NO_ISOLATION):
            return
        variables = (await says(box, "env -0")).split(b"\0")
        assert not [each for each in variables if each.startswith((b"CORRAL_", b"DOCKER_", b"AWS_"))]

    async def test_a_command_has_no_descriptor_of_the_guests(self, box: Sandbox) -> None:
        look = "for n in range(3, 256):\n    try: os.fstat(n); print(n)\n    except OSError: pass"
        program = f"import os\n{look}\nprint('none')"
        assert await runs_python(box, program) == "none\n"


def _own_capabilities() -> dict[str, str]:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        return dict(line.rstrip("\n").split(":\t") for line in status if line.startswith("Cap"))
