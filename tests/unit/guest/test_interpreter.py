"""The interpreter's session, in a process of its own: it takes `__main__` and the interrupt for itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[3]
_PROGRAM = f"""
import contextlib, io, json, os, sys
sys.path[:0] = [{str(_REPOSITORY)!r}]
from orchestrator.guest.interpreter import Session
session = Session()
results = []
for code, env in json.load(sys.stdin):
    sink = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        is_ok = session.run(code, env)
    results.append([is_ok, sink.buffer.getvalue().decode()])
sys.__stdout__.write(json.dumps(results))
"""


def run(*cells: str | tuple[str, dict[str, str]]) -> list[tuple[bool, str]]:
    """For each cell whether it went well, and what it printed."""
    given = json.dumps([cell if isinstance(cell, tuple) else (cell, {}) for cell in cells])
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(is_ok, output) for is_ok, output in json.loads(done.stdout)]


def only(code: str) -> tuple[bool, str]:
    return run(code)[0]


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("", ""),
        ("# nothing", ""),
        ("1 + 1", "2\n"),
        ("None", ""),
        ("x = 5", ""),
        ("x = 5\nx", "5\n"),
        ("'text'", "'text'\n"),
        ("print('a')\n'b'", "a\n'b'\n"),
        ("if True:\n    5", ""),
        ("5;", "5\n"),
        ("'\\ud800'", "'\\ud800'\n"),
        ("print('\\ud800')", "\\ud800\n"),
        ("print('ä', chr(0x1F600))", "ä 😀\n"),
        ("def f():\n    return 1\nf()", "1\n"),
        ("__name__", "'__main__'\n"),
        ("class A: pass\nA.__module__", "'__main__'\n"),
        ("import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))) is A", "True\n"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nP(1)", "P(x=1)\n"),
    ],
)
def test_prints_and_the_value_of_a_last_expression(code: str, output: str) -> None:
    assert only(code) == (True, output)


def test_state_lasts_from_cell_to_cell() -> None:
    assert run("import math\ndef area(r): return math.pi * r * r", "round(area(2), 2)", "_ * 2") == [
        (True, ""),
        (True, "12.57\n"),
        (True, "25.14\n"),
    ]


def test_what_a_failed_cell_did_before_stays() -> None:
    assert run("kept = 1\nraise ValueError('x')", "kept")[1] == (True, "1\n")


def test_a_traceback_shows_the_cells_lines_and_nothing_of_ours() -> None:
    is_ok, output = run("def broken():\n    return 1 / 0", "broken()")[1]
    assert not is_ok
    assert output == (
        "Traceback (most recent call last):\n"
        '  File "<cell 2>", line 1, in <module>\n'
        "    broken()\n"
        '  File "<cell 1>", line 2, in broken\n'
        "    return 1 / 0\n"
        "           ~~^~~\n"
        "ZeroDivisionError: division by zero\n"
    )


@pytest.mark.parametrize(
    "code", ["def f(:", "x = = 1", "  indented", "'open", "(" * 300, "a\0b", "return 5", "f(**x, *y)"]
)
def test_a_syntax_error_shows_the_line_and_nothing_of_ours(code: str) -> None:
    is_ok, output = only(code)
    assert not is_ok
    assert "Error" in output.splitlines()[-1]
    assert "ast.py" not in output
    assert "interpreter.py" not in output
    assert "Traceback" not in output


def test_a_syntax_error_of_the_cells_own_making_keeps_its_frames() -> None:
    is_ok, output = only("import ast\nast.parse('(')")
    assert not is_ok
    assert '"<cell 1>", line 2' in output
    assert "ast.py" in output


def test_causes_and_contexts_are_shown() -> None:
    _, output = only("try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('k') from error")
    assert "direct cause" in output
    assert output.count("Traceback") == 2
    assert "interpreter.py" not in output


def test_an_error_in_the_repr_of_the_last_value_is_the_cells() -> None:
    is_ok, output = only("class A:\n    def __repr__(self): raise RuntimeError('no')\nA()")
    assert not is_ok
    assert "RuntimeError: no" in output


def test_an_error_that_cannot_be_printed_is_told_all_the_same() -> None:
    code = "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E()"
    is_ok, output = only(code)
    assert not is_ok
    assert "E" in output


@pytest.mark.parametrize(
    ("code", "is_fine", "output"),
    [
        ("import sys\nsys.exit()", True, ""),
        ("import sys\nsys.exit(0)", True, ""),
        ("exit()", True, ""),
        ("raise SystemExit", True, ""),
        ("import sys\nsys.exit(3)", False, "SystemExit: 3\n"),
        ("import sys\nsys.exit('no input file')", False, "no input file\n"),
    ],
)
def test_leaving_ends_the_cell_and_keeps_the_state(code: str, is_fine: bool, output: str) -> None:
    first, second = run(f"kept = 1\n{code}\nkept = 2", "kept")
    assert first == (is_fine, output)
    assert second == (True, "1\n")


@pytest.mark.parametrize("error", ["KeyboardInterrupt()", "GeneratorExit()", "BaseException('b')", "MemoryError()"])
def test_no_error_ends_the_session(error: str) -> None:
    first, second = run(f"raise {error}", "'alive'")
    assert not first[0]
    assert second == (True, "'alive'\n")


def test_endless_recursion_is_an_error() -> None:
    first, second = run("def f(): f()\nf()", "1")
    assert "RecursionError" in first[1]
    assert second == (True, "1\n")


def test_variables_hold_for_the_cells_that_have_them() -> None:
    show = "import os; print(os.environ.get('TOKEN'), os.environ.get('OWN'))"
    results = run((show, {"TOKEN": "a"}), (f"os.environ['OWN'] = 'mine'; {show}", {"TOKEN": "b"}), (show, {}))
    assert [output for _, output in results] == ["a None\n", "b mine\n", "None mine\n"]


def test_output_that_was_redirected_for_good_is_the_cells_own_doing() -> None:
    first, second = run("import sys\nkept = 5\nsys.stdout = None", "kept + 1")
    assert first[0]
    assert second == (True, "6\n")
