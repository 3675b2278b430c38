"""What a command may try against the hand that carries it out, and against its own end."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.local_driver import LocalDriver
from tests.unit.guest.conftest import Client, Guest, running_guest
from tests.unit.guest.test_services import eventually, running


def hands_of(guest: Guest) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    "code",
    [
        "trap '' TERM HUP INT QUIT USR1; while :; do sleep 71.1; done",
        "sleep 71.2 & kill -STOP $! $$",
        "kill -STOP $PPID; sleep 71.3",
        "(trap '' TERM; setsid sleep 71.4 &) ; kill -STOP $PPID; kill -STOP $$",
        "kill -STOP $PPID; nohup setsid sleep 71.5 & sleep 71.6",
    ],
)
def test_whatever_a_command_does_it_is_gone_after_its_time(client: Client, code: str) -> None:
    started = time.monotonic()
    assert client.bash("c", code, timeout_s=0.4).outcome["verdict"] == "timeout"
    assert time.monotonic() - started < 3
    assert not running("sleep\x0071.")
    assert client.bash("d", "echo fine").data == b"fine\n"


def test_a_process_without_its_first_thread_is_alive_and_killed(client: Client) -> None:
    """In /proc it looks like a zombie, which nobody needs to kill."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(72.5,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    stream = client.open("exec", call="c", argv=["python3", "-c", code, "72.5"], timeout_s=60)
    eventually(lambda: any(" Z " in line or " Zl " in line for line in states("72.5")))
    client.cancel(stream)
    assert client.reply(stream).outcome["verdict"] == "cancelled"
    eventually(lambda: not states("72.5"))


def states(mark: str) -> list[str]:
    """The status lines of processes with a thread that still runs and `mark` in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/task/[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes():
                found.append((entry.parents[2] / "stat").read_text())
        except OSError:
            continue
    return found


def test_a_stopped_hand_goes_on(client: Client, guest: Guest) -> None:
    for hand in hands_of(guest):
        os.kill(hand, 19)
    started = time.monotonic()
    for call in ("a", "b", "c"):
        assert client.bash(call, "echo fine").data == b"fine\n"
    assert time.monotonic() - started < 2


def test_a_hand_that_died_is_not_used(client: Client, guest: Guest) -> None:
    for number in range(5):
        killed = hands_of(guest)
        for hand in killed:
            os.kill(hand, 9)
        eventually(lambda killed=killed: not any(is_running(hand) for hand in killed))
        assert client.bash(f"c{number}", "echo fine").data == b"fine\n"


def test_who_kills_its_hand_dies_with_all_it_started(client: Client) -> None:
    code = "sleep 73.1 & (setsid sleep 73.2 &); kill -9 $PPID; sleep 73.3"
    outcome = client.bash("c", code).outcome
    assert (outcome["verdict"], outcome["signal"]) == ("killed", 9)
    eventually(lambda: not running("sleep\x0073."))


def test_who_looks_like_the_guest_dies_with_its_hand(client: Client, guest: Guest) -> None:
    """It overwrites what /proc shows of its command line."""
    disguise = Path(f"/proc/{guest.pid}/cmdline").read_bytes()
    (guest.workspace / "disguise").write_bytes(disguise)
    (guest.workspace / "d.py").write_text(
        "import ctypes, os, signal, time\n"
        "disguise = open('disguise', 'rb').read()\n"
        "start = int(open('/proc/self/stat').read().rsplit(') ', 1)[1].split()[45])\n"
        "ctypes.memmove(start, disguise, len(disguise))\n"
        "open('pid', 'w').write(f\"{os.getpid()} {open('/proc/self/cmdline', 'rb').read() == disguise}\")\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
        "time.sleep(60)\n"
    )
    padding = "x" * (len(disguise) - len(f"{sys.executable}\0d.py\0\0"))
    assert client.run("c", sys.executable, "d.py", padding).outcome["verdict"] == "killed"
    pid, is_disguised = (guest.workspace / "pid").read_text().split()
    assert is_disguised == "True"
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_what_an_interpreter_left_behind_outlives_it_and_others_ends(client: Client) -> None:
    client.cell("a", "import os, subprocess\np = subprocess.Popen(['sleep', '74.5'])\nos._exit(0)")
    assert client.bash("b", "kill -9 $PPID; sleep 9").outcome["verdict"] == "killed"
    assert client.bash("c", "sleep 9", timeout_s=0.2).outcome["verdict"] == "timeout"
    assert client.cell("d", "1").data == b"1\n"
    assert running("sleep\x0074.5")


def test_a_cell_that_is_stopped_leaves_no_daemon_of_its_own_and_keeps_earlier_ones(client: Client) -> None:
    daemon = "import subprocess; _ = subprocess.run(['bash', '-c', '(setsid sleep {} >/dev/null 2>&1 &)'])"
    client.cell("a", daemon.format("76.1"))
    time.sleep(0.05)
    outcome = client.cell("b", daemon.format("76.2") + "\nimport time; time.sleep(60)", timeout_s=0.5).outcome
    assert (outcome["verdict"], outcome["state"]) == ("timeout", "kept")
    eventually(lambda: not running("sleep\x0076.2"))
    assert running("sleep\x0076.1")


def test_an_interpreter_that_is_killed_leaves_nothing(client: Client) -> None:
    code = (
        "import signal, subprocess\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "subprocess.Popen(['setsid', 'sleep', '75.1'])\nsubprocess.run(['sleep', '75.2'])"
    )
    outcome = client.cell("a", code, timeout_s=0.3).outcome
    assert (outcome["verdict"], outcome["state"]) == ("timeout", "lost")
    assert not running("sleep\x0075.")
    assert client.cell("b", "1").data == b"1\n"


def test_a_hand_that_is_killed_is_not_used_again(client: Client) -> None:
    client.cell("a", "1")
    for number in range(10):
        assert client.cell(f"c{number}", "import os, signal; os.kill(os.getpid(), 9)").outcome["state"] == "lost"
        assert client.bash(f"d{number}", "echo fine").data == b"fine\n"


def test_without_descriptors_calls_are_refused_and_the_guest_goes_on(short_path: Path) -> None:
    with running_guest(LocalDriver(short_path)) as guest:
        client = guest.greeted()
        used = len(list(Path(f"/proc/{guest.pid}/fd").iterdir()))
        hard_limit = resource.prlimit(guest.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(guest.pid, resource.RLIMIT_NOFILE, (used + 6, hard_limit))
        streams = [client.open("exec", call=f"c{number}", argv=["cat"], timeout_s=5, input=True) for number in range(8)]
        streams.append(client.open("cell", call="cell", timeout_s=5))
        client.input(streams[-1], b"1")
        streams.append(client.open("get", paths=["."]))
        refused = client.reply(streams[-3]).reset
        assert refused is not None
        assert (refused["code"], "Too many open files" in refused["message"]) == ("failed", True)
        resource.prlimit(guest.pid, resource.RLIMIT_NOFILE, (used + 100, hard_limit))
        eventually(lambda: client.bash(f"e{time.monotonic()}", "echo fine").data == b"fine\n")
