"""Reaching into a real sandbox: terminal, ports, file watch and figures, over the routes and with the command line."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.caller import Caller
from tests.e2e.programs import bash, only_result
from tests.e2e.server import ServerProcess

PORT = 8123


@pytest.fixture(scope="module")
def listening(caller: Caller, environment: str) -> str:
    """The environment, in which a web server was left in the background."""
    code = (
        "echo hello > /workspace/greeting\n"
        f"(setsid python3 -m http.server -d /workspace {PORT} >/dev/null 2>&1 &)\n"
        f"for n in $(seq 100); do curl -s localhost:{PORT}/greeting && break; sleep 0.05; done"
    )
    assert only_result(caller.create(bash(code), environment)) == "hello\n"
    return environment


@contextmanager
def opened(server: ServerProcess, environment: str, route: str) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}/ops/environments/{environment}/{route}"
    with connect(url, proxy=None, compression=None, open_timeout=60) as socket:
        yield socket


def until(socket: ClientConnection, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        data = socket.recv(timeout=15)
        assert isinstance(data, bytes), data
        seen += data
    return seen


def last_words(socket: ClientConnection) -> Any:
    text: Any = None
    try:
        while True:
            data = socket.recv(timeout=15)
            text = json.loads(data) if isinstance(data, str) else text
    except ConnectionClosed:
        return text


def test_a_terminal_of_the_agents_own(server: ServerProcess, environment: str) -> None:
    with opened(server, environment, "terminal?rows=11&cols=71") as socket:
        socket.send(b"stat -c %U $(tty); id -un; pwd; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status; stty size\r")
        seen = until(socket, b"11 71\r\n").decode()
        for expected in ("agent\r\nagent\r\n/workspace\r\n", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
            assert expected in seen
        socket.send('{"resize": {"rows": 22, "cols": 82}}')
        socket.send(b"stty size; echo tty=$(tty) >/dev/tty\r")
        until(socket, b"tty=/dev/pts/")
        socket.send(b"sleep 600\r")
        time.sleep(0.3)
        socket.send(b"\x03")
        socket.send(b"echo code=$?; exit 6\r")
        until(socket, b"code=130\r\n")
        assert last_words(socket) == {"exit": {"exit_code": 6, "signal": None}}


def test_a_lost_connection_ends_what_was_started(server: ServerProcess, caller: Caller, environment: str) -> None:
    with opened(server, environment, "terminal") as socket:
        socket.send(b"trap '' HUP; (setsid sleep 4242 &) ; sleep 4243 & echo rea''dy; sleep 4244\r")
        until(socket, b"ready")
        time.sleep(0.2)
    code = "for n in $(seq 60); do pgrep -f '^sleep 424' >/dev/null || break; sleep 0.1; done; pgrep -cf '^sleep 424'"
    assert only_result(caller.create(bash(code), environment)).startswith("0\n")


def test_a_port(server: ServerProcess, listening: str) -> None:
    with opened(server, listening, f"ports/{PORT}") as socket:
        socket.send(b"GET /greeting HTTP/1.0\r\n\r\n")
        seen = until(socket, b"hello\n")
        assert seen.startswith(b"HTTP/1.0 200")
        socket.send('{"end": true}')
        assert last_words(socket) == {"end": True}


def test_the_guest_listens_on_the_port_of_the_way_out_alone(
    server: ServerProcess, caller: Caller, environment: str
) -> None:
    """So no other port leads to it, and what a forward reaches else is the agent's."""
    code = "grep -hE ' 0A ' /proc/net/tcp /proc/net/tcp6 | awk '$8 == 0 {print $2}'"
    assert only_result(caller.create(bash(code), environment)).split() == ["0100007F:0C38"]


def test_a_watch(server: ServerProcess, caller: Caller, environment: str) -> None:
    with caller.http.stream("GET", f"/ops/environments/{environment}/watch", timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": keep-alive"
        caller.create(bash("mkdir -p seen/deep; sleep 0.3; echo 1 > seen/deep/file"), environment)
        paths = set()
        for line in lines:
            if line.startswith("data: "):
                paths.add(json.loads(line[6:])["path"])
            if "seen/deep/file" in paths:
                break
        assert {"seen", "seen/deep"} <= paths


def test_a_rename_storm_leaves_the_sandbox_and_the_server_at_ease(caller: Caller, environment: str) -> None:
    storm = "cd $(mktemp -d -p /workspace); touch 0; timeout 2 python3 -c '\nimport os, itertools\n"
    storm += "for n in itertools.count(): os.rename(str(n % 9), str((n + 1) % 9))'; echo over"
    with caller.http.stream("GET", f"/ops/environments/{environment}/watch", timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert "over" in only_result(caller.create(bash(storm), environment))
        assert only_result(caller.create(bash("touch /workspace/calm"), environment)) == ""
        count = 0
        for line in lines:
            count += line.startswith("data: ")
            if '"calm"' in line or "overflow" in line:
                break
        assert count < 2000


def test_figures(caller: Caller, environment: str) -> None:
    def figures() -> dict[str, Any]:
        answer = caller.http.get(f"/ops/environments/{environment}/usage")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    before = figures()
    burn = "python3 -c 'import time\nwhile time.process_time() < 0.3: pass'"
    caller.create(bash(f"{burn}; head -c 30000000 /dev/urandom > /workspace/big"), environment)
    after = figures()
    assert after["cpu_time_s"] > before["cpu_time_s"] + 0.2
    assert 1 <= after["pids"] <= after["pids_limit"] == 1024
    assert 1_000_000 < after["memory_bytes"] <= after["memory_limit_bytes"] == 2 << 30
    if after["disk_used_bytes"] is not None:
        assert after["disk_used_bytes"] > before["disk_used_bytes"] + 25_000_000
        assert after["disk_used_bytes"] < after["disk_limit_bytes"] <= 10 << 30
        assert 0 < after["disk_inodes"] < after["disk_inodes_limit"]


# the command line


def test_the_commands_usage_and_watch(server: ServerProcess, caller: Caller, environment: str) -> None:
    shown = server.cli("usage", environment)
    assert (shown.returncode, shown.stdout[:4]) == (0, "cpu "), shown.stderr
    missing = server.cli("watch", environment, "no/such")
    assert (missing.returncode, "no/such" in missing.stderr) == (2, True)
    watching = server.start_cli("watch", environment, "--json")
    assert watching.stdout is not None
    ticking = "(setsid bash -c 'for n in {1..100}; do date > /workspace/ticks; sleep 0.2; done' &)"
    caller.create(bash(ticking), environment)
    while '"ticks"' not in watching.stdout.readline():
        pass
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    watching.stdout.close()
    assert watching.stderr is not None
    watching.stderr.close()


def test_the_command_forward(server: ServerProcess, listening: str) -> None:
    forwarding = server.start_cli("forward", listening, f"0:{PORT}")
    assert forwarding.stdout is not None
    host, _, port = forwarding.stdout.readline().strip().rpartition(":")
    assert host == "127.0.0.1"
    for _ in range(3):
        connection = http.client.HTTPConnection(host, int(port), timeout=15)
        connection.request("GET", "/greeting")
        assert connection.getresponse().read() == b"hello\n"
        connection.close()
    forwarding.send_signal(signal.SIGINT)
    assert forwarding.wait(10) == 130
    forwarding.stdout.close()
    assert forwarding.stderr is not None
    assert forwarding.stderr.read() == ""
    forwarding.stderr.close()


def test_the_command_forward_to_nobody(server: ServerProcess, environment: str) -> None:
    forwarding = server.start_cli("forward", environment, "0:9")
    assert forwarding.stdout is not None
    assert forwarding.stderr is not None
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(forwarding.stdout.readline().rpartition(":")[2]), timeout=15
    )
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/")
        connection.getresponse()
    connection.close()
    assert "connection_refused" in forwarding.stderr.readline()
    forwarding.send_signal(signal.SIGINT)
    assert forwarding.wait(10) == 130
    forwarding.stdout.close()
    forwarding.stderr.close()


class Screen:
    """`corral shell` in a terminal of its own."""

    def __init__(self, server: ServerProcess, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(20, 60)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        # A session of its own, which this terminal controls: else nothing tells it of a new size.
        command = ["setsid", "--ctty", sys.executable, "-m", "orchestrator", "shell", *arguments]
        variables = {**server.variables, "CORRAL_URL": server.url, "TERM": "vt100"}
        folder = Path(__file__).parents[2]
        self.process = subprocess.Popen(command, cwd=folder, env=variables, stdin=slave, stdout=slave, stderr=slave)
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + 20
        os.set_blocking(self._master, False)
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            try:
                self.seen += os.read(self._master, 65536)
            except BlockingIOError:
                time.sleep(0.02)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def screen(server: ServerProcess, environment: str) -> Iterator[Screen]:
    made = Screen(server, environment)
    yield made
    made.close()


def test_the_command_shell(screen: Screen) -> None:
    screen.until(b"$ ")
    screen.type(b"stty size; sleep 600\r")
    screen.until(b"20 60")
    screen.resize(25, 75)
    time.sleep(0.5)
    screen.type(b"\x03")
    screen.type(b"stty size; exit 9\r")
    screen.until(b"25 75")
    assert screen.process.wait(15) == 9
    assert termios.tcgetattr(screen.slave) == screen.before


def test_the_command_shell_without_a_terminal(server: ServerProcess, environment: str) -> None:
    done = server.cli("shell", environment, "--", "bash", "-c", "echo from inside; kill -TERM $$")
    assert (done.returncode, done.stdout) == (143, "from inside\n")
    unknown = server.cli("shell", "nothing")
    assert (unknown.returncode, "not found" in unknown.stderr) == (2, True)
