"""What is too long or only very long: code, variables, files, lines, and bytes that are no text. Nothing hangs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.caller import Caller
from tests.e2e.programs import bash, call, only_result, python, results, run_bash, run_python, script, text_of
from tests.e2e.test_output import DROPPED

CODE_LIMIT_BYTES = 4 << 20


@pytest.mark.parametrize("size", [90_000, 150_000, 3_900_000])
def test_very_long_code_runs(caller: Caller, environment: str, size: int) -> None:
    blocks = bash(f": '{'x' * size}'; echo $0 end"), python(f"x = '{'x' * size}'\nlen(x)")
    shell, cell = [text_of(step) for step in results(caller.create("\n\n".join(blocks), environment))]
    assert shell == "bash end\n"
    assert cell == f"{size}\n"


@pytest.mark.parametrize("block", [bash, python])
def test_too_long_code_is_told_to_the_model(caller: Caller, environment: str, block: Callable[[str], str]) -> None:
    blocks = block("#" * (CODE_LIMIT_BYTES + 1)), bash("echo on")
    refused, after = results(caller.create("\n\n".join(blocks), environment))
    assert refused["is_error"] is True
    assert str(CODE_LIMIT_BYTES) in text_of(refused)
    assert text_of(after) == "on\n"


def test_as_many_variables_as_there_may_be_reach_every_kind_of_call(caller: Caller) -> None:
    variables = {"A": "a" * 60_000, "B": "b" * 60_000}
    code = f"echo ${{#A}} ${{#B}} # {'x' * 95_000}"
    program = script(
        run_bash(code),
        run_python("import os\nlen(os.environ['A']) + len(os.environ['B'])"),
        call("write_file", path="x", content="y"),
    )
    made = caller.create(program, {"type": "remote", "env": variables})
    shell, cell, file = [text_of(step) for step in results(made)]
    assert (shell, cell) == ("60000 60000\n", "120000\n")
    assert file.startswith("created")
    caller.delete_environment(made["environment_id"])


def test_a_command_line_that_the_kernel_refuses_is_the_commands_own_trouble(caller: Caller, environment: str) -> None:
    code = "/bin/echo $(head -c 3000000 /dev/zero | tr '\\0' x) | head -c 100; exit ${PIPESTATUS[0]}"
    text = only_result(caller.create(bash(code), environment))
    assert "Argument list too long" in text
    assert text.endswith("[exit code 126]")


def test_one_line_of_a_gibibyte(caller: Caller, environment: str) -> None:
    size = (1 << 30) - 3
    code = f"head -c {size} /dev/zero | tr '\\0' x; printf END"
    head, dropped, tail = DROPPED.split(only_result(caller.create(bash(code), environment)))
    assert tail.endswith("xEND")
    assert len(head) + int(dropped) + len(tail) == size + 3


def test_a_file_of_one_long_line_is_read_from_both_ends_or_by_lines(caller: Caller, environment: str) -> None:
    program = script(
        run_bash("(head -c 300000000 /dev/zero | tr '\\0' x; printf '\\nsecond\\n') > line"),
        call("read_file", path="line"),
        call("read_file", path="line", first_line=2),
        call("edit_file", path="line", old_text="second", new_text="2"),
    )
    _, whole, second, edited = results(caller.create(program, environment))
    head, dropped, tail = DROPPED.split(text_of(whole))
    assert set(head) == {"x"}
    assert tail.endswith("x\nsecond\n")
    assert len(head) + int(dropped) + len(tail) == 300_000_008
    assert text_of(second) == "second\n"
    assert "64 MiB" in text_of(edited)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("head -c 3000000 /dev/zero", "\ufffd"),
        ("head -c 3000000 /dev/zero | tr '\\0' '\\377'", "\ufffd"),
        ("printf '\\355\\240\\200%.0s' $(seq 100000)", "\ufffd"),
    ],
    ids=["NUL", "bytes of no character", "lone surrogates"],
)
def test_a_flood_of_what_is_no_text(caller: Caller, environment: str, code: str, shown: str) -> None:
    text = only_result(caller.create(bash(code), environment))
    head, *rest = DROPPED.split(text)
    assert set(head) == {shown}
    assert set(rest[-1] if rest else head) == {shown}


def test_files_that_are_no_text_are_read_as_far_as_they_are(caller: Caller, environment: str) -> None:
    program = script(
        run_python("_ = open('odd', 'wb').write(b'a\\xff\\xed\\xa0\\x80b\\n' + b'\\xc3')"),
        call("read_file", path="odd"),
        run_python("_ = open('odd', 'wb').write(b'a\\0b')"),
        call("read_file", path="odd"),
    )
    _, odd, _, binary = results(caller.create(program, environment))
    assert text_of(odd) == "a\ufffd\ufffd\ufffd\ufffdb\n\ufffd"
    assert "binary file of 3 bytes" in text_of(binary)


def test_python_prints_no_half_characters(caller: Caller, environment: str) -> None:
    assert only_result(caller.create(python("print('\\ud800')"), environment)) == "\\ud800\n"
