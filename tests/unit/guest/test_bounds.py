"""The guest from outside: what a call that goes too far comes to, and that the guest and other calls go on."""

from __future__ import annotations

import os
import signal
import time

from tests.unit.guest.conftest import Client, Guest

# output


def test_a_command_that_writes_too_much_is_stopped_with_all_it_started(client: Client) -> None:
    started = time.monotonic()
    reply = client.bash(
        "c", "(sleep 3203 & yes background & wait) & yes", output_limit_bytes=2000, output_total_limit_bytes=1 << 20
    )
    assert time.monotonic() - started < 5
    assert reply.outcome["verdict"] == "output_limit"
    assert reply.outcome["total_bytes"] > 1 << 20
    assert len(reply.data) == 2000
    assert client.bash("d", "pgrep -fx 'sleep 3203'").data == b""


def test_a_command_that_writes_as_much_as_it_may_is_not_stopped(client: Client) -> None:
    reply = client.bash("c", "head -c 100000 /dev/zero", output_limit_bytes=2000, output_total_limit_bytes=100_000)
    assert (reply.outcome["verdict"], reply.outcome["total_bytes"]) == ("exited", 100_000)


def test_a_command_that_ended_by_itself_was_not_stopped(client: Client) -> None:
    """What it wrote at last is read after its end; its hand must not be killed then."""
    for number in range(20):
        reply = client.bash(f"c{number}", "head -c 60000 /dev/zero", output_total_limit_bytes=100)
        assert reply.outcome["verdict"] in ("exited", "output_limit")
    assert client.bash("d", "echo fine").data == b"fine\n"


def test_a_cell_that_writes_too_much_is_interrupted_and_keeps_the_state(client: Client) -> None:
    client.cell("a", "kept = 5")
    reply = client.cell("b", "while True: print('x' * 1000)", output_limit_bytes=2000, output_total_limit_bytes=1 << 20)
    assert (reply.outcome["verdict"], reply.outcome["state"]) == ("output_limit", "kept")
    assert client.cell("c", "kept").data == b"5\n"


def test_what_a_cell_has_written_at_its_end_does_not_interrupt_the_next(client: Client) -> None:
    for number in range(5):
        client.cell(f"a{number}", "import os; n = os.write(1, b'x' * 60_000)", output_total_limit_bytes=100)
    reply = client.cell("b", "import time; time.sleep(2); 'fine'")
    assert (reply.outcome["verdict"], reply.data) == ("exited", b"'fine'\n")


def test_a_file_that_is_larger_than_a_call_may_write_is_not_read_to_its_end(client: Client) -> None:
    client.bash("a", "yes | head -c 5000000 > big")
    stream = client.open(
        "file", call="b", operation="read", arguments={"path": "big"}, timeout_s=10, output_total_limit_bytes=1 << 20
    )
    assert client.reply(stream).outcome["verdict"] == "output_limit"


# disks


def test_an_error_of_another_device_is_no_full_disk(client: Client) -> None:
    outcome = client.bash("c", "echo x > /dev/full").outcome
    assert (outcome["verdict"], outcome["exit_code"]) == ("exited", 1)


# a sandbox that is paused


def test_a_pause_counts_neither_for_limits_nor_in_durations(client: Client, guest: Guest) -> None:
    stream = client.open("exec", call="c", argv=["sleep", "3"], timeout_s=1.8)
    time.sleep(0.3)
    os.kill(guest.pid, signal.SIGSTOP)
    time.sleep(2.3)
    os.kill(guest.pid, signal.SIGCONT)
    outcome = client.reply(stream).outcome
    assert outcome["verdict"] == "exited"
    assert 600 <= outcome["duration_ms"] <= 1500


def test_a_limit_holds_again_after_a_pause(client: Client, guest: Guest) -> None:
    stream = client.open("exec", call="c", argv=["sleep", "60"], timeout_s=1.0)
    os.kill(guest.pid, signal.SIGSTOP)
    time.sleep(2.0)
    os.kill(guest.pid, signal.SIGCONT)
    resumed = time.monotonic()
    assert client.reply(stream).outcome["verdict"] == "timeout"
    assert time.monotonic() - resumed < 4.0
