"""Terminals in the guest, from outside."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.guest.frames import WINDOW_BYTES
from tests.unit.guest.conftest import Client, Guest
from tests.unit.guest.streams import Talk
from tests.unit.guest.test_services import eventually


def terminal(client: Client, *argv: str, **request: Any) -> Talk:
    return Talk(client, "terminal", **{"argv": argv, "rows": 24, "cols": 80, **request})


def bash(client: Client, code: str, **request: Any) -> Talk:
    return terminal(client, "bash", "--norc", "-c", code, **request)


def exit_of(talk: Talk) -> tuple[int | None, int | None]:
    talk.until_end()
    assert talk.reset is None
    (message,) = talk.messages
    return message["exit"]["exit_code"], message["exit"]["signal"]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_program_has_a_terminal_of_its_own(client: Client, guest: Guest) -> None:
    talk = bash(
        client, 'tty; test -t 0 -a -t 1 -a -t 2 && : </dev/tty && pwd; echo "$TERM $GREETING"', env={"GREETING": "hi"}
    )
    assert exit_of(talk) == (0, None)
    device, folder, greeting = talk.data.decode().split("\r\n")[:3]
    assert device.startswith("/dev/pts/")
    assert (folder, greeting) == (str(guest.workspace), "xterm-256color hi")


def test_the_shell_is_a_login_shell_and_keys_reach_it(client: Client) -> None:
    talk = terminal(client)
    talk.send(b"shopt -q login_shell && echo log''in; exit 7\r")
    talk.until_data(b"login\r\n")
    assert exit_of(talk) == (7, None)


def test_its_size_follows(client: Client) -> None:
    talk = bash(client, "while :; do stty size; read -t 0.05; done", rows=10, cols=20)
    talk.until_data(b"10 20\r\n")
    talk.tell(resize={"rows": 33, "cols": 99})
    talk.until_data(b"33 99\r\n")
    talk.tell(resize={"rows": 0, "cols": 1 << 40})
    talk.until_data(b"1 1000\r\n")
    for nonsense in (
        {"resize": 5},
        {"resize": {"rows": "x", "cols": None}},
        {"resize": {"rows": float("inf"), "cols": 1}},
        {"size": 1},
        {"resize": {"rows": 1}},
    ):
        talk.tell(**nonsense)
    talk.tell(resize={"rows": 5, "cols": 6})
    talk.until_data(b"5 6\r\n")


def test_control_c_interrupts_and_control_d_ends(client: Client) -> None:
    talk = bash(
        client, "trap 'echo inter''rupted; on=1' INT; echo ready; while [ -z $on ]; do sleep 0.1; done; cat; echo after"
    )
    talk.until_data(b"ready")
    talk.send(b"\x03")
    talk.until_data(b"interrupted")
    talk.send(b"word\r")
    talk.until_data(b"word\r\nword\r\n")
    talk.send(b"\x04")
    talk.until_data(b"after")
    assert exit_of(talk) == (0, None)


def test_it_ends_by_a_signal(client: Client) -> None:
    assert exit_of(bash(client, "kill -9 $$")) == (None, signal.SIGKILL)


def test_all_that_was_written_comes_before_the_end(client: Client) -> None:
    for number in range(20):
        talk = bash(client, f"seq {number * 500}")
        assert exit_of(talk) == (0, None)
        assert talk.data == b"".join(b"%d\r\n" % each for each in range(1, number * 500 + 1))


def test_output_waits_for_whoever_reads_slowly(client: Client) -> None:
    talk = bash(client, "stty raw; head -c 3000000 /dev/zero")
    while len(talk.data) < WINDOW_BYTES:
        talk.read(takes=False)
    assert len(talk.data) == WINDOW_BYTES
    assert client.bash("c", "echo meanwhile").data == b"meanwhile\n"
    talk.take(WINDOW_BYTES)
    assert exit_of(talk) == (0, None)
    assert talk.data == bytes(3_000_000)


def test_input_that_nobody_reads_is_not_taken(client: Client) -> None:
    talk = bash(client, "stty raw -echo; echo ready; sleep 60")
    talk.until_data(b"ready")
    for _ in range(2):
        talk.send(bytes(WINDOW_BYTES // 2))
    assert client.bash("c", "echo meanwhile").data == b"meanwhile\n"
    assert client.credit.get(talk.number, 0) < 100_000


@pytest.mark.parametrize("way", ["end", "reset", "link"])
def test_its_end_hangs_up(guest: Guest, client: Client, way: str) -> None:
    talk = bash(client, "trap 'echo hung up > note; exit 3' HUP; echo $$; while :; do sleep 0.05; done")
    talk.until_data(b"\r\n")
    {"end": talk.end, "reset": talk.close, "link": client.close}[way]()
    eventually((guest.workspace / "note").exists)
    if way == "end":
        assert exit_of(talk) == (3, None)
    eventually(lambda: is_gone(int(talk.data.split()[0])))


def test_what_ignores_the_hang_up_is_killed_with_all_below_it(client: Client) -> None:
    talk = bash(client, "trap '' HUP; (setsid sleep 501 & echo $!); echo $$; sleep 502; sleep 503")
    talk.until(lambda: talk.data.count(b"\r\n") == 2)
    talk.end()
    assert exit_of(talk) == (None, signal.SIGKILL)
    for pid in talk.data.split():
        eventually(lambda pid=pid: is_gone(int(pid)))


def test_what_it_leaves_in_the_background_lives_on_after_a_normal_end(client: Client) -> None:
    talk = bash(client, "trap '' HUP; sleep 30 & echo $!")
    assert exit_of(talk) == (0, None)
    pid = int(talk.data)
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_background_that_writes_for_ever_does_not_keep_it_open(client: Client) -> None:
    talk = bash(client, "trap '' HUP; yes & sleep 0.2; echo $!>pid")
    assert exit_of(talk) == (0, None)


def test_a_killed_hand_is_an_end(guest: Guest, client: Client) -> None:
    talk = bash(client, "echo $PPID; sleep 60")
    talk.until_data(b"\r\n")
    os.kill(int(talk.data), signal.SIGKILL)
    assert exit_of(talk) == (None, signal.SIGKILL)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"argv": ["no-such-program"]}, "not_started"),
        ({"cwd": "/no/such/folder"}, "not_started"),
        ({"rows": "x"}, "bad_request"),
        ({"rows": None}, "bad_request"),
        ({"argv": 5}, "bad_request"),
        ({"env": ["a"]}, "bad_request"),
    ],
)
def test_what_cannot_begin_says_why(client: Client, request_: dict[str, Any], code: str) -> None:
    talk = terminal(client, "true", **request_)
    talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == code
    assert exit_of(terminal(client, "true")) == (0, None)


def test_there_is_a_limit(client: Client) -> None:
    talks = [terminal(client, "cat") for _ in range(16)]
    one_more = terminal(client, "cat")
    one_more.until_end()
    assert one_more.reset is not None
    assert one_more.reset["code"] == "too_many"
    talks[0].end()
    assert exit_of(talks[0]) == (None, signal.SIGHUP)
    assert exit_of(terminal(client, "true")) == (0, None)


def test_hundred_terminals_leave_no_descriptor_and_no_hand(guest: Guest, client: Client) -> None:
    def hands() -> int:
        return len(Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split())

    def others() -> int:
        """Descriptors of the guest, without the one for each hand."""
        return len(list(Path(f"/proc/{guest.pid}/fd").iterdir())) - hands()

    assert exit_of(terminal(client, "true")) == (0, None)
    eventually(lambda: hands() <= 2)
    before = others()
    for number in range(100):
        talk = terminal(client, "true" if number % 2 else "cat")
        if number % 2 == 0:
            talk.end()
        exit_of(talk)
    eventually(lambda: hands() <= 2 and others() == before)
