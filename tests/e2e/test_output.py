"""What comes out of a command, however much of it and of whatever bytes."""

from __future__ import annotations

import re

import pytest

from tests.e2e import streams
from tests.e2e.caller import Caller
from tests.e2e.programs import bash, only_result, python, results, run_bash, script, text_of

LIMIT_BYTES = 1 << 20
DROPPED = re.compile(r"\n\[… (\d+) bytes of output dropped …\]\n")


def test_failing_command_says_its_exit_code_last(caller: Caller, environment: str) -> None:
    program = script(
        run_bash("echo out; echo err >&2; exit 42"), run_bash("printf 'no newline'; false"), run_bash("nosuch")
    )
    first, second, third = results(caller.create(program, environment))
    assert text_of(first) == "out\nerr\n[exit code 42]"
    assert text_of(second) == "no newline\n[exit code 1]"
    assert text_of(third).endswith("[exit code 127]")
    assert [step["is_error"] for step in (first, second, third)] == [True, True, True]


def test_killed_command_says_the_signal(caller: Caller, environment: str) -> None:
    assert only_result(caller.create(bash("kill -SEGV $$"), environment)) == "[killed by signal 11]"


def test_standard_output_and_error_keep_their_order(caller: Caller, environment: str) -> None:
    code = "for i in $(seq 50); do echo out $i; echo err $i >&2; done"
    lines = only_result(caller.create(bash(code), environment)).splitlines()
    assert lines == [f"{name} {number}" for number in range(1, 51) for name in ("out", "err")]


def test_nothing_is_printed(caller: Caller, environment: str) -> None:
    assert only_result(caller.create(bash("true"), environment)) == ""
    assert only_result(caller.create(python("None"), environment)) == ""


def test_output_up_to_the_limit_is_whole(caller: Caller, environment: str) -> None:
    text = only_result(caller.create(bash(f"head -c {LIMIT_BYTES} /dev/zero | tr '\\0' a"), environment))
    assert text == "a" * LIMIT_BYTES


@pytest.mark.parametrize("language", ["bash", "python"])
def test_huge_output_keeps_head_and_tail_and_counts_the_rest(caller: Caller, environment: str, language: str) -> None:
    program = bash("seq 400000") if language == "bash" else python("for n in range(1, 400001): print(n)")
    text = only_result(caller.create(program, environment))
    written = "".join(f"{number}\n" for number in range(1, 400_001))
    head, dropped, tail = _parts(text)
    assert written.startswith(head)
    assert written.endswith(tail)
    assert len(head) + dropped + len(tail) == len(written)
    assert LIMIT_BYTES * 0.9 <= len(head) + len(tail) <= LIMIT_BYTES


def test_one_line_of_20_mb(caller: Caller, environment: str) -> None:
    code = "head -c 20000000 /dev/zero | tr '\\0' x; printf END"
    head, dropped, tail = _parts(only_result(caller.create(bash(code), environment)))
    assert set(head) == {"x"}
    assert tail.endswith("xEND")
    assert len(head) + dropped + len(tail) == 20_000_003


def test_yes_for_a_moment(caller: Caller, environment: str) -> None:
    ended = caller.create(bash("timeout 0.2 yes"), environment)
    text = only_result(ended)
    assert text.endswith("[exit code 124]")
    head, dropped, _ = _parts(text.removesuffix("[exit code 124]"))
    assert set(head.splitlines()) == {"y"}
    assert dropped > 10_000_000, "the sandbox was held back"
    journal = caller.journal(ended["id"])
    assert sum(entry["kind"] == "tool.output" for entry in journal) <= 50
    assert sum(len(str(entry["body"])) for entry in journal if entry["kind"] == "tool.output") < 100_000


def test_others_are_answered_while_a_command_floods(caller: Caller, environment: str) -> None:
    flood = caller.start(bash("timeout 2 yes"), environment)
    for _ in range(5):
        answer = caller.http.get("/healthz", timeout=2.0)
        assert answer.status_code == 200
    assert only_result(caller.create(bash("echo beside"), environment)) == "beside\n"
    assert caller.read(flood)["status"] == "in_progress"
    caller.cancel(flood)


def test_bytes_that_are_no_text(caller: Caller, environment: str) -> None:
    code = r"printf 'a\0b\377c\303\251d\355\240\200e\033[31mf\r\n'; head -c 500 /dev/urandom; printf '\360\237\230\200'"
    with caller.stream(bash(code), environment) as pieces:
        raw = b"".join(pieces)
    steps, frame = streams.fold(streams.events([raw]))
    text = steps[1]["result"]
    assert frame["status"] == "completed"
    assert text.startswith("a�b�céd")
    assert text.endswith("😀")
    assert "\0" not in text
    assert "e\x1b[31mf\r\n" in text
    assert text == only_result(caller.read(frame["id"]))


@pytest.mark.parametrize("shift", range(4))
def test_a_character_is_never_cut_in_half(caller: Caller, environment: str, shift: int) -> None:
    code = f"print('a' * {shift} + '\U0001f600' * 400_000, end='')"
    text = only_result(caller.create(python(code), environment))
    head, _, tail = _parts(text)
    assert "�" not in text
    assert set(head.lstrip("a")) == {"😀"} == set(tail)


def test_python_prints_what_is_no_text(caller: Caller, environment: str) -> None:
    code = "import sys\nprint('\\ud800 alone')\nsys.stdout.buffer.write(b'\\xff\\x00\\n')\nprint('after')"
    text = only_result(caller.create(python(code), environment))
    assert "alone" in text or "UnicodeEncodeError" in text
    assert only_result(caller.create(python("'fine'"), environment)) == "'fine'\n"


def test_live_output_is_in_the_journal_while_the_command_runs(caller: Caller, environment: str) -> None:
    running = caller.start(bash("echo first; sleep 1.5; echo second"), environment)
    caller.await_output(running, "first", timeout_s=1.2)
    assert caller.read(running)["status"] == "in_progress"
    ended = caller.wait(running)
    entries = [entry for entry in caller.journal(ended["id"]) if entry["kind"] == "tool.output"]
    assert "".join(entry["body"]["text"] for entry in entries) == "first\nsecond\n"


def _parts(text: str) -> tuple[str, int, str]:
    head, dropped, tail = DROPPED.split(text)
    return head, int(dropped), tail
