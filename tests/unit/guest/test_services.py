"""The guest from outside: everything a link can ask for, and what must not end it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.guest.frames import (
    DATA,
    END,
    HELLO,
    MESSAGE,
    OPEN,
    RESET,
    WINDOW_BYTES,
    Decoder,
    decode_json,
    encode,
    encode_json,
)
from tests.fakes.local_driver import LocalDriver, start_bridge
from tests.unit.guest.conftest import Client, Guest, Reply, running_guest


def eventually(is_true: object, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def last_words(link: Client) -> dict[str, object]:
    """What a link is told before it is closed: an end of file may not come through everywhere."""
    kind, stream, payload = link.frame()
    while (kind, stream) != (RESET, 0):
        kind, stream, payload = link.frame()
    with pytest.raises(EOFError):
        link.frame()
    return decode_json(payload)


def reason_of_end(link: Client) -> str:
    return str(last_words(link)["code"])


# greeting


def test_the_greeting_tells_generation_protocol_and_calls(guest: Guest) -> None:
    hello = guest.connect(generation=5).hello()
    assert (hello["protocol"], hello["generation"], hello["calls"]) == (4, 5, {})
    assert guest.connect(generation=5).hello()["guest"] == hello["guest"] != ""


@pytest.mark.parametrize(
    "first",
    [
        encode_json(OPEN, 1, {"service": "calls"}),
        encode_json(HELLO, 0, {"protocol": 5, "generation": 1}),
        encode_json(HELLO, 0, {"protocol": 0, "generation": 1}),
        encode_json(HELLO, 0, {"protocol": "1", "generation": 1}),
        encode_json(HELLO, 0, {"generation": 1}),
        encode_json(HELLO, 0, {"protocol": 1}),
        encode_json(HELLO, 0, {"protocol": 1, "generation": -1}),
        encode_json(HELLO, 0, {"protocol": 1, "generation": "1"}),
        encode(HELLO, 0, b"not json"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_another_greeting_closes_the_link_and_nothing_else(guest: Guest, first: bytes) -> None:
    link = Client.__new__(Client)
    link._socket, link._decoder, link._waiting = start_bridge(guest.folder), Decoder(), []
    link._socket.settimeout(10)
    link.send(first)
    assert reason_of_end(link) == "protocol"
    link.close()
    assert guest.greeted().bash("c", "echo fine").data == b"fine\n"


def test_a_newer_link_replaces_an_older_one(guest: Guest) -> None:
    older = guest.greeted(generation=3)
    newer = guest.greeted(generation=3)
    assert reason_of_end(older) == "replaced"
    assert newer.bash("c", "echo fine").data == b"fine\n"


def test_an_older_generation_is_told_so_and_the_link_stays(guest: Guest) -> None:
    current = guest.greeted(generation=3)
    told = last_words(guest.connect(generation=2))
    assert (told["code"], told["generation"]) == ("stale", 3)
    assert current.bash("c", "echo fine").data == b"fine\n"


# frames that a sane orchestrator never sends


@pytest.mark.parametrize(
    "frames",
    [
        encode_json(OPEN, 2, {"service": "calls"}),
        encode(OPEN, 1, b"[]"),
        encode_json(OPEN, 1, {"service": "exec", "call": "x", "argv": ["sleep", "9"], "timeout_s": 9, "input": True})
        + b"".join(encode(DATA, 1, b"x" * (WINDOW_BYTES // 4)) for _ in range(40)),
        b"\xff" * 100,
    ],
)
def test_a_breach_of_protocol_closes_the_link_and_nothing_else(guest: Guest, frames: bytes) -> None:
    link = guest.greeted()
    try:
        link.send(frames)
        assert reason_of_end(link) == "protocol"
    except ConnectionError:
        pass  # the guest closed while we still sent
    assert guest.greeted().bash("c", "echo fine").data == b"fine\n"


@pytest.mark.parametrize(
    "request_",
    [
        {"service": "nothing"},
        {"service": "exec"},
        {"service": "exec", "call": "c", "argv": ["true"]},
        {"service": "exec", "call": "c", "argv": ["true"], "timeout_s": "soon"},
        {"service": "exec", "call": "c", "argv": ["true"], "timeout_s": -1},
        {"service": "exec", "call": "c", "argv": ["true"], "timeout_s": float("nan")},
        {"service": "exec", "call": "c", "argv": 5, "timeout_s": 1},
        {"service": "exec", "call": "c", "argv": ["true"], "timeout_s": 1, "env": "PATH=/"},
        {"service": "exec", "call": "c", "argv": ["true"], "timeout_s": 1, "env": {"A": "x" * 220_000}},
        {"service": "exec", "call": "c", "argv": ["true"], "timeout_s": 1, "output_limit_bytes": "many"},
        {"service": "exec", "call": "c", "argv": ["true"], "timeout_s": 1, "output_limit_bytes": float("inf")},
        {"service": "exec", "call": "c", "argv": ["true", "x" * 262_050], "timeout_s": 1},
        {"service": "cell", "call": "c", "timeout_s": 5, "env": {"A": "x" * 220_000}},
        {"service": "file", "call": "c", "operation": "read", "timeout_s": 1},
        {"service": "put", "call": "c", "timeout_s": 1},
        {"service": "get"},
    ],
)
def test_a_request_that_makes_no_sense_is_reset_and_leaves_no_call(client: Client, request_: dict[str, object]) -> None:
    assert client.reply(client.open(**request_)).reset is not None  # type: ignore[arg-type]
    assert client.reply(client.open("calls")).outcome == {"calls": {}}
    assert client.bash("c", "echo fine").data == b"fine\n"


def test_a_time_limit_in_a_far_future_is_one(client: Client) -> None:
    assert client.bash("c", "echo fine", timeout_s=1e12).data == b"fine\n"


# processes


def test_output_and_errors_come_in_their_true_order(client: Client) -> None:
    reply = client.bash("c", "echo a; echo b >&2; echo c; exit 3")
    assert reply.data == b"a\nb\nc\n"
    assert (reply.outcome["verdict"], reply.outcome["exit_code"]) == ("exited", 3)


def test_standard_input_arrives_whole(client: Client) -> None:
    content = os.urandom(300_000)
    assert client.run("c", "cat", stdin=content).data == content


def test_without_input_there_is_nothing_to_read(client: Client) -> None:
    assert client.bash("c", "cat; echo end").data == b"end\n"


def test_input_that_nobody_reads_does_not_hold_up_the_end(client: Client) -> None:
    stream = client.open("exec", call="c", argv=["bash", "-c", "exec 0<&-; echo out"], timeout_s=10, input=True)
    client.input(stream, b"x" * 400_000)
    reply = client.reply(stream)
    assert reply.data == b"out\n"
    assert reply.outcome["verdict"] == "exited"


def test_a_program_that_is_not_there_is_refused(client: Client) -> None:
    outcome = client.run("c", "no-such-program").outcome
    assert outcome["verdict"] == "refused"
    assert "no-such-program" in outcome["error"]["message"]


@pytest.mark.parametrize("argument", ["nul\0inside", "=", ""])
def test_odd_arguments_do_no_harm(client: Client, argument: str) -> None:
    assert client.run("c", "echo", argument).messages
    assert client.bash("d", "echo fine").data == b"fine\n"


def test_a_missing_working_directory_is_refused(client: Client) -> None:
    outcome = client.bash("c", "true", cwd="/no/such/folder").outcome
    assert outcome["verdict"] == "refused"
    assert "/no/such/folder" in outcome["error"]["message"]


def test_a_killed_process_says_by_which_signal(client: Client) -> None:
    outcome = client.bash("c", "kill -9 $$").outcome
    assert (outcome["verdict"], outcome["exit_code"], outcome["signal"]) == ("killed", None, 9)


def test_commands_inherit_three_descriptors_and_no_more(client: Client) -> None:
    for call in ("first", "second"):
        assert client.bash(call, "ls /proc/self/fd", stdin=b"").data.split() == [b"0", b"1", b"2", b"3"]


def test_output_beyond_the_limit_keeps_both_ends(client: Client) -> None:
    reply = client.bash("c", "for i in $(seq 2000); do echo line $i; done", output_limit_bytes=200)
    assert reply.data.startswith(b"line 1\n")
    assert reply.data.endswith(b"line 2000\n")
    assert len(reply.data) == 200
    total = sum(len(f"line {number}\n") for number in range(1, 2001))
    assert reply.outcome["dropped_bytes"] == total - 200
    assert reply.outcome["total_bytes"] == total


def test_a_call_ends_with_its_first_process_and_background_lives_on(client: Client, guest: Guest) -> None:
    started = time.monotonic()
    reply = client.bash("c", "(sleep 0.5; echo late > late.txt; echo late) & echo now")
    assert time.monotonic() - started < 0.4
    assert reply.data == b"now\n"
    eventually((guest.workspace / "late.txt").exists)


def test_a_time_out_kills_the_whole_tree(client: Client, guest: Guest) -> None:
    code = "setsid bash -c 'sleep 77.1 & disown; sleep 77.2' & nohup sleep 77.3 & sleep 77.4"
    reply = client.bash("c", f"echo begun; {code}", timeout_s=0.3)
    assert reply.data == b"begun\n"
    assert reply.outcome["verdict"] == "timeout"
    eventually(lambda: not running("sleep\x0077."))
    assert client.bash("d", "echo fine").data == b"fine\n"


def test_cancel_kills_the_whole_tree(client: Client) -> None:
    stream = client.open("exec", call="c", argv=["bash", "-c", "sleep 78.1 & sleep 78.2"], timeout_s=60)
    eventually(lambda: len(running("sleep\x0078.")) == 2)
    client.cancel(stream)
    assert client.reply(stream).outcome["verdict"] == "cancelled"
    eventually(lambda: not running("sleep\x0078."))


def test_a_double_fork_does_not_escape_a_cancel(client: Client) -> None:
    code = "import os, time\nif os.fork() == 0:\n os.setsid()\n os.fork() and os._exit(0)\ntime.sleep(79)"
    stream = client.open("exec", call="c", argv=["python3", "-c", code], timeout_s=60)
    eventually(lambda: len(running("time.sleep(79)")) == 2)
    client.cancel(stream)
    client.reply(stream)
    eventually(lambda: not running("time.sleep(79)"))


def test_cancelling_what_has_ended_changes_nothing(client: Client) -> None:
    assert client.bash("c", "echo done").outcome["verdict"] == "exited"
    stream = client.open("exec", call="c", argv=["false"], timeout_s=5)
    client.cancel(stream)
    assert client.reply(stream).outcome["verdict"] == "exited"


def running(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if mark.encode() in command and b"bash" not in command.split(b"\0")[0]:
            found.append(command.decode())
    return found


# calls outlive links, and happen once


def test_the_same_id_is_the_same_call(client: Client, guest: Guest) -> None:
    first = client.bash("c", "echo x >> count; cat count")
    again = client.bash("c", "echo x >> count; cat count")
    assert again == first
    assert (guest.workspace / "count").read_text() == "x\n"
    assert client.reply(client.open("calls")).outcome == {"calls": {"c": "finished"}}


def refusal(reply: Reply) -> str:
    assert reply.reset is not None, reply
    return str(reply.reset["code"])


def test_an_acknowledged_call_is_forgotten_and_never_runs_again(client: Client, guest: Guest) -> None:
    client.bash("c", "echo x >> count")
    client.open("ack", call="c")
    assert refusal(client.bash("c", "echo x >> count")) == "forgotten"
    assert refusal(client.bash("c", "echo x >> count", attach_only=True)) == "forgotten"
    assert (guest.workspace / "count").read_text() == "x\n"
    assert client.reply(client.open("calls")).outcome == {"calls": {}}


def test_a_running_call_that_is_acknowledged_leaves_the_book_at_its_end(client: Client) -> None:
    stream = client.open("exec", call="c", argv=["sleep", "0.2"], timeout_s=5)
    client.open("ack", call="c")
    assert client.reply(client.open("calls")).outcome == {"calls": {"c": "running"}}
    assert client.reply(stream).outcome["verdict"] == "exited", "who follows it still hears how it ended"
    assert client.reply(client.open("calls")).outcome == {"calls": {}}


def test_a_call_can_be_stopped_by_its_id_whoever_began_it(guest: Guest) -> None:
    first = guest.greeted()
    first.open("exec", call="c", argv=["bash", "-c", "setsid sleep 76.1 & sleep 76.2"], timeout_s=60)
    eventually(lambda: len(running("sleep\x0076.")) == 2)
    first.close()
    client = guest.greeted(generation=2)
    assert client.reply(client.open("stop", call="c")).reset is None
    assert not running("sleep\x0076."), "the answer says that nothing of it runs"
    assert client.reply(client.open("calls")).outcome == {"calls": {}}
    assert refusal(client.bash("c", "echo again")) == "forgotten"


def test_who_follows_a_call_that_is_stopped_hears_how_it_ended(client: Client) -> None:
    followed = client.open("exec", call="c", argv=["bash", "-c", "echo begun; sleep 60"], timeout_s=60)
    eventually(lambda: client.frame()[0] == DATA)
    client.open("stop", call="c", verdict="disk_full")
    assert client.reply(followed).outcome["verdict"] == "disk_full"


def test_a_stop_holds_though_the_link_that_asked_for_it_ends(guest: Guest) -> None:
    client = guest.greeted()
    client.open("exec", call="c", argv=["sleep", "76.3"], timeout_s=60)
    eventually(lambda: running("sleep\x0076.3"))
    client.open("stop", call="c")
    client.close()
    eventually(lambda: not running("sleep\x0076.3"))
    client = guest.greeted()
    eventually(lambda: client.reply(client.open("calls")).outcome == {"calls": {}})
    assert refusal(client.bash("c", "echo again")) == "forgotten"


def test_stopping_what_has_ended_or_never_was_forgets_it(client: Client) -> None:
    client.bash("ended", "echo out")
    for call in ("ended", "unknown"):
        assert client.reply(client.open("stop", call=call)) == Reply(b"", [], None)
        assert refusal(client.bash(call, "echo again")) == "forgotten"
    assert client.reply(client.open("calls")).outcome == {"calls": {}}


def test_cells_are_stopped_wherever_they_are(client: Client) -> None:
    client.cell("a", "kept = 5")
    busy = client.open("cell", call="busy", timeout_s=60)
    client.input(busy, b"import time; time.sleep(60)")
    client.input(client.open("cell", call="queued", timeout_s=60), b"kept = 6")
    client.input(client.open("cell", call="half", timeout_s=60), b"kept = 7", is_all=False)
    for call in ("half", "queued", "busy"):
        assert client.reply(client.open("stop", call=call)).reset is None
    assert client.reply(client.open("calls")).outcome == {"calls": {"a": "finished"}}
    assert client.cell("b", "kept").data == b"5\n"


@pytest.mark.parametrize("request_", [{}, {"call": "c", "verdict": "timeout"}, {"call": "c", "verdict": 5}])
def test_a_stop_that_makes_no_sense_is_reset(client: Client, request_: dict[str, object]) -> None:
    stream = client.open("exec", call="c", argv=["sleep", "0.3"], timeout_s=60)
    assert refusal(client.reply(client.open("stop", **request_))) == "bad_request"
    assert client.reply(stream).outcome["verdict"] == "exited"


def test_a_call_goes_on_while_nobody_is_connected(guest: Guest) -> None:
    first = guest.greeted()
    first.open("exec", call="c", argv=["bash", "-c", "echo before; sleep 0.3; echo after"], timeout_s=10)
    eventually(lambda: first.frame()[0] == DATA)
    first.close()
    second = guest.connect(generation=2)
    assert second.hello()["calls"] == {"c": "running"}
    reply = second.bash("c", "echo not run again")
    assert reply.data == b"before\nafter\n"


def test_a_reader_may_go_on_from_an_offset(guest: Guest) -> None:
    guest.greeted().bash("c", "echo 0123456789")
    assert guest.greeted().bash("c", "", from_bytes=4).data == b"456789\n"


def test_attach_only_never_starts_anything(client: Client) -> None:
    reply = client.bash("c", "echo no", attach_only=True)
    assert reply.reset is not None
    assert reply.reset["code"] == "unknown_call"


def test_a_cell_that_is_sent_again_runs_once(guest: Guest) -> None:
    code = "import pathlib\nwith open('count', 'a') as f: f.write('x')\nimport time; time.sleep(0.2)\nprint('ran')"
    first = guest.greeted()
    stream = first.open("cell", call="c", timeout_s=10)
    first.input(stream, code.encode())
    eventually((guest.workspace / "count").exists)
    second = guest.greeted()
    assert second.cell("c", code).data == b"ran\n"
    assert second.cell("c", code).data == b"ran\n"
    assert second.cell("d", "2").data == b"2\n", "and nothing waits behind it"
    assert (guest.workspace / "count").read_text() == "x"


def test_input_that_was_cut_is_taken_on(guest: Guest) -> None:
    content = os.urandom(100_000)
    first = guest.greeted()
    stream = first.open("file", call="c", operation="write", arguments={"path": "x"}, timeout_s=10, input=True)
    first.input(stream, content[:40_000], is_all=False)
    eventually(lambda: first.credit or first.frame())
    first.close()
    assert guest.greeted().file("c", "write", content, path="x").outcome["verdict"] == "done"
    assert (guest.workspace / "x").read_bytes() == content


def test_code_that_was_cut_is_taken_on(guest: Guest) -> None:
    code = "print('whole')" + " " * 50_000 + "\nprint('end')"
    first = guest.greeted()
    stream = first.open("cell", call="c", timeout_s=10)
    first.input(stream, code[:20_000].encode(), is_all=False)
    eventually(lambda: first.credit or first.frame())
    first.close()
    assert guest.greeted().cell("c", code).data == b"whole\nend\n"


def test_code_of_which_no_more_comes_runs_into_the_time_limit(guest: Guest) -> None:
    first = guest.greeted()
    first.input(first.open("cell", call="c", timeout_s=0.3), b"ran = True", is_all=False)
    first.close()
    client = guest.greeted()
    eventually(lambda: client.reply(client.open("calls")).outcome == {"calls": {"c": "finished"}})
    assert client.cell("c", "ran = True").outcome["verdict"] == "timeout"
    assert b"NameError" in client.cell("d", "ran").data


def test_the_time_that_code_took_to_come_is_not_the_cells(client: Client) -> None:
    stream = client.open("cell", call="c", timeout_s=2.0)
    client.input(stream, b"import time; ", is_all=False)
    time.sleep(1.2)
    client.input(stream, b"time.sleep(1.2); print('whole')")
    assert client.reply(stream).data == b"whole\n"


# files and transfers


class ImpatientDriver(LocalDriver):
    start_timeout_s = 0.0


def test_a_file_operation_may_take_longer_than_a_start(short_path: Path) -> None:
    with running_guest(ImpatientDriver(short_path)) as guest:
        client = guest.greeted()
        stream = client.open("file", call="c", operation="write", arguments={"path": "x"}, timeout_s=30, input=True)
        client.input(stream, b"slow", is_all=False)
        time.sleep(0.6)
        client.send(encode(END, stream))
        assert client.reply(stream).outcome["verdict"] == "done"
        assert (guest.workspace / "x").read_bytes() == b"slow"


def test_a_process_that_does_not_start_in_time_is_given_up(short_path: Path) -> None:
    with running_guest(ImpatientDriver(short_path)) as guest:
        client = guest.greeted()
        assert client.bash("c", "sleep 60").outcome["verdict"] == "killed"
        assert client.bash("d", "sleep 60").outcome["verdict"] == "killed"


def test_a_file_operation_has_a_time_limit(client: Client) -> None:
    stream = client.open("file", call="c", operation="write", arguments={"path": "x"}, timeout_s=0.2, input=True)
    assert client.reply(stream).outcome["verdict"] == "timeout"


def test_an_unknown_operation_is_refused(client: Client) -> None:
    assert client.file("c", "format_disk").outcome["verdict"] == "refused"


def test_failed_transfers_leave_no_process_behind(client: Client, guest: Guest) -> None:
    def hands() -> int:
        return len(Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split())

    client.bash("warm", "true")
    time.sleep(0.1)
    before = hands()
    for _ in range(10):
        reply = client.reply(client.open("get", paths=["not-there"]))
        assert reply.messages[0]["error"]["code"] == "enoent"
    time.sleep(0.1)
    assert hands() <= before + 1


def test_a_transfer_that_nobody_takes_is_given_up(client: Client, guest: Guest) -> None:
    (guest.workspace / "big").write_bytes(bytes(3_000_000))
    stream = client.open("get", paths=["big"])
    sent = 0
    while sent < WINDOW_BYTES:
        kind, _, payload = client.frame()
        sent += len(payload) if kind == DATA else 0
    assert sent == WINDOW_BYTES, "no more than was allowed"
    client.send(encode_json(RESET, stream, {"code": "cancelled", "message": ""}))
    assert client.bash("c", "echo fine").data == b"fine\n"


# cells


def test_state_lasts_and_the_last_value_is_shown(client: Client) -> None:
    assert client.cell("a", "x = 20").data == b""
    assert client.cell("b", "x + 1").data == b"21\n"


def test_code_larger_than_the_window_runs(client: Client) -> None:
    """The sender may not send beyond its credit, so credit must come."""
    code = b"#" * (WINDOW_BYTES - 10) + b"\n"
    stream = client.open("cell", call="c", timeout_s=10)
    client.input(stream, code, is_all=False)
    while client.credit.get(stream, 0) < len(code):
        client.frame()
    client.input(stream, b"#" * 300_000 + b"\nprint('ran')")
    assert client.reply(stream).data == b"ran\n"


def test_too_much_code_is_refused_and_none_of_it_runs(client: Client) -> None:
    stream = client.open("cell", call="c", timeout_s=10)
    sent, has_ended = 0, False
    while not has_ended:
        client.input(stream, b"print('no')\n" * 30_000, is_all=False)
        sent += 360_000
        assert sent < 10 << 20
        while client.credit.get(stream, 0) < sent and not has_ended:
            has_ended = client.frame()[0] == MESSAGE
    client.send(encode(END, stream))
    assert client.cell("d", "1").data == b"1\n"
    reply = client.cell("c", "")
    assert reply.outcome["verdict"] == "refused"
    assert reply.data == b""


def test_cells_queue(client: Client) -> None:
    slow = client.open("cell", call="slow", timeout_s=10)
    client.input(slow, b"import time; time.sleep(0.3); order = ['slow']")
    assert client.cell("quick", "order.append('quick'); order").data == b"['slow', 'quick']\n"


def test_cancel_interrupts_a_cell_and_keeps_the_state(client: Client) -> None:
    client.cell("a", "kept = 1")
    stream = client.open("cell", call="b", timeout_s=60)
    client.input(stream, b"print('begun', flush=True)\nimport time\nwhile True: time.sleep(0.01)")
    eventually(lambda: client.frame()[0] == DATA)
    client.cancel(stream)
    outcome = client.reply(stream).outcome
    assert (outcome["verdict"], outcome["state"]) == ("cancelled", "kept")
    assert client.cell("c", "kept").data == b"1\n"


def test_a_cancel_that_comes_before_the_code_runs_keeps_the_state(client: Client) -> None:
    client.cell("a", "kept = 5")
    stream = client.open("cell", call="b", timeout_s=60)
    client.input(stream, b"x = 1\n" * 20_000 + b"import time; time.sleep(60)")
    client.cancel(stream)
    outcome = client.reply(stream).outcome
    assert (outcome["verdict"], outcome["state"]) == ("cancelled", "kept")
    assert client.cell("c", "kept").data == b"5\n"


def test_a_cell_that_ignores_interrupts_loses_its_state(client: Client) -> None:
    client.cell("a", "lost = 1")
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun', flush=True)\ntime.sleep(60)"
    )
    reply = client.cell("b", code, timeout_s=0.3)
    assert (reply.outcome["verdict"], reply.outcome["state"]) == ("timeout", "lost")
    assert b"NameError" in client.cell("c", "lost").data


def test_a_waiting_cell_can_be_cancelled_and_never_runs(client: Client) -> None:
    slow = client.open("cell", call="slow", timeout_s=10)
    client.input(slow, b"import time; time.sleep(0.4)")
    waiting = client.open("cell", call="waiting", timeout_s=10)
    client.input(waiting, b"ran = True")
    client.cancel(waiting)
    assert client.reply(waiting).outcome["verdict"] == "cancelled"
    assert b"NameError" in client.cell("c", "ran").data


def test_a_cell_whose_code_has_not_come_can_be_cancelled(client: Client) -> None:
    stream = client.open("cell", call="c", timeout_s=10)
    client.input(stream, b"ran = True", is_all=False)
    client.cancel(stream)
    assert client.reply(stream).outcome["verdict"] == "cancelled"
    assert b"NameError" in client.cell("d", "ran").data


def test_cancelled_cells_leave_no_processes(client: Client) -> None:
    stream = client.open("cell", call="c", timeout_s=60)
    client.input(stream, b"import subprocess, time\np = subprocess.Popen(['sleep', '76.5'])\ntime.sleep(60)")
    eventually(lambda: len(running("sleep\x0076.5")) == 1)
    client.cancel(stream)
    client.reply(stream)
    eventually(lambda: not running("sleep\x0076.5"))


def test_what_a_cancelled_cell_is_just_starting_ends_with_it(client: Client) -> None:
    code = b"import subprocess, time\nsubprocess.Popen(['sh', '-c', 'while :; do sleep 83.5 & done'])\ntime.sleep(60)"
    for number in range(3):
        stream = client.open("cell", call=f"c{number}", timeout_s=60)
        client.input(stream, code)
        eventually(lambda: len(running("sleep\x0083.5")) > 20)
        client.cancel(stream)
        assert client.reply(stream).outcome["verdict"] == "cancelled"
        assert not running("sleep\x0083.5")


def test_a_background_process_of_an_earlier_cell_survives_a_cancel(client: Client) -> None:
    client.cell("a", "import subprocess; p = subprocess.Popen(['sleep', '75.5'])")
    time.sleep(0.05)
    stream = client.open("cell", call="b", timeout_s=60)
    client.input(stream, b"print('begun', flush=True)\nimport time; time.sleep(60)")
    eventually(lambda: client.frame()[0] == DATA)
    client.cancel(stream)
    client.reply(stream)
    assert client.cell("c", "print(p.poll()); p.kill()").data.startswith(b"None\n")


def test_an_interpreter_that_exits_is_replaced(client: Client) -> None:
    reply = client.cell("a", "import os; print('bye', flush=True); os._exit(3)")
    assert reply.data == b"bye\n"
    assert (reply.outcome["exit_code"], reply.outcome["state"]) == (3, "lost")
    assert client.cell("b", "1 + 1").data == b"2\n"


@pytest.mark.parametrize(
    "header",
    [
        {"ok": True, "types": ["image/png"], "sizes": ["x"]},
        {"ok": True, "types": ["image/png"], "sizes": [-5]},
        {"ok": True, "types": ["image/png"], "sizes": [1e999]},
        {"ok": True, "types": ["image/png"], "sizes": [None]},
        {"ok": True, "types": None, "sizes": []},
        {"ok": True, "types": ["x" * 100_000], "sizes": [1]},
        {"ok": True, "types": ["t"] * 20_000, "sizes": [0] * 20_000},
        {},
    ],
)
def test_forged_answers_of_an_interpreter_do_not_end_the_guest(client: Client, header: dict[str, object]) -> None:
    forged = encode_json(MESSAGE, 1, header) + encode(END, 1)
    code = f"import socket, time\nsocket.socket(fileno=3).sendall({forged!r})\ntime.sleep(5)"
    outcome = client.cell("a", code).outcome
    assert outcome["state"] == "lost"
    assert client.cell("b", "1").data == b"1\n"


def test_garbage_from_an_interpreter_does_not_end_the_guest(client: Client) -> None:
    reply = client.cell("a", "import socket, time\nsocket.socket(fileno=3).sendall(b'\\xff' * 64)\ntime.sleep(5)")
    assert reply.outcome["state"] == "lost"
    assert client.cell("b", "1").data == b"1\n"


def test_a_fork_in_a_cell_does_not_answer_twice(client: Client) -> None:
    assert (
        client.cell("a", "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\n'parent' if pid else None").data
        == b"'parent'\n"
    )
    for number in range(5):
        assert client.cell(str(number), f"{number}").data == f"{number}\n".encode()


def test_children_of_a_cell_do_not_hold_the_interpreters_socket(client: Client) -> None:
    reply = client.cell("a", "import os\nprint(os.popen('ls -l /proc/self/fd').read())")
    assert b"socket" not in reply.data


# the guest itself


def test_sigterm_ends_it_orderly(guest: Guest) -> None:
    client = guest.greeted()
    os.kill(guest.pid, signal.SIGTERM)
    with pytest.raises(EOFError):
        client.frame()


def test_a_thousand_calls_leave_no_descriptors_and_no_processes(client: Client, guest: Guest) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{guest.pid}/fd").iterdir()))

    for number in range(20):
        client.run(f"warm{number}", "true", stdin=b"")
    before = descriptors()
    for number in range(300):
        client.run(f"c{number}", "true", stdin=b"")
        client.open("ack", call=f"c{number}")
    time.sleep(0.1)
    assert descriptors() <= before + 4
    assert len(Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()) <= 4
