"""Checks of the Python interpreter: state from cell to cell, and what takes it away."""

from __future__ import annotations

import asyncio
import time

import pytest

from orchestrator.conformance.bench import Bench, call_id, cell, entered, run, says
from orchestrator.conformance.platform import Platform
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome, Verdict


def _text(outcome: CallOutcome) -> str:
    return (outcome.head + outcome.tail).decode()


class CellChecks(Platform):
    async def test_state_lasts_from_cell_to_cell(self, box: Sandbox) -> None:
        await cell(box, "import math\nkept = [1]\ndef double(x): return 2 * x")
        outcome = await cell(box, "kept.append(double(math.floor(2.5))); kept")
        assert _text(outcome) == "[1, 4]\n"
        assert outcome.is_ok

    async def test_only_the_last_value_is_shown(self, box: Sandbox) -> None:
        assert _text(await cell(box, "1\n2\nprint('three')\n4")) == "three\n4\n"
        assert _text(await cell(box, "None")) == ""
        assert _text(await cell(box, "_ + 1")) == "5\n"

    @pytest.mark.parametrize("code", ["", "# nothing", "\n\n", "pass"])
    async def test_a_cell_may_do_nothing(self, box: Sandbox, code: str) -> None:
        outcome = await cell(box, code)
        assert outcome.is_ok
        assert _text(outcome) == ""

    async def test_an_error_is_a_traceback_of_the_cell_alone(self, box: Sandbox) -> None:
        outcome = await cell(box, "def f():\n    return 1 / 0\nf()")
        assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 1)
        text = _text(outcome)
        assert text.startswith("Traceback")
        assert text.endswith("ZeroDivisionError: division by zero\n")
        assert "return 1 / 0" in text
        assert "interpreter.py" not in text

    async def test_code_that_is_no_python_is_a_result(self, box: Sandbox) -> None:
        outcome = await cell(box, "x = = 1")
        assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 1)
        assert "SyntaxError" in _text(outcome)

    async def test_an_error_keeps_the_state(self, box: Sandbox) -> None:
        await cell(box, "before_error = 7\nraise ValueError('no')")
        assert _text(await cell(box, "before_error")) == "7\n"

    async def test_leaving_ends_the_cell_and_keeps_the_state(self, box: Sandbox) -> None:
        await cell(box, "before_leaving = 8")
        assert (await cell(box, "import sys; sys.exit()")).is_ok
        assert (await cell(box, "import sys; sys.exit(3)")).exit_code == 1
        assert _text(await cell(box, "before_leaving")) == "8\n"

    async def test_output_and_errors_are_in_true_order(self, box: Sandbox) -> None:
        code = "for n in range(50): print('o', n); print('e', n, file=sys.stderr)\nos.system('echo child')"
        expected = "".join(f"o {n}\ne {n}\n" for n in range(50)) + "child\n0\n"
        assert _text(await cell(box, f"import sys, os\n{code}")) == expected

    async def test_text_is_unicode(self, box: Sandbox) -> None:
        assert _text(await cell(box, "'é🐎' * 2")) == "'é🐎é🐎'\n"
        assert _text(await cell(box, "print('\\ud800')")) == "\\ud800\n"

    async def test_there_is_nothing_to_read(self, box: Sandbox) -> None:
        assert "EOFError" in _text(await cell(box, "input('question? ')"))

    async def test_a_large_cell_runs(self, box: Sandbox) -> None:
        assert _text(await cell(box, f"text = '{'x' * 1_000_000}'\nlen(text)")) == "1000000\n"

    async def test_cells_and_commands_share_files_and_folder(self, box: Sandbox, folder: str) -> None:
        await cell(box, f"open('{folder}/made', 'w').write('by a cell')")
        assert await says(box, f"cat {folder}/made") == b"by a cell"
        assert _text(await cell(box, "import os; print(os.getcwd())")).encode() == await says(box, "pwd")

    async def test_a_cell_gets_the_variables(self, box: Sandbox) -> None:
        with_variables = Sandbox(box.ref, box.link, {"GIVEN": "to the cell"})
        assert _text(await cell(with_variables, "import os; os.environ['GIVEN']")) == "'to the cell'\n"
        assert _text(await cell(box, "os.environ.get('GIVEN', 'none')")) == "'none'\n"

    async def test_cells_queue_in_order(self, box: Sandbox) -> None:
        await cell(box, "import time; order = []")
        await asyncio.gather(*(cell(box, f"time.sleep(0.05); order.append({n})") for n in range(6)))
        assert _text(await cell(box, "order")) == "[0, 1, 2, 3, 4, 5]\n"

    async def test_commands_do_not_wait_for_a_cell(self, box: Sandbox) -> None:
        running = asyncio.create_task(cell(box, "import time; time.sleep(1.0)"))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        await says(box, "true")
        assert time.monotonic() - begun < 0.8
        await running

    @pytest.mark.parametrize(
        "code",
        ["import time; time.sleep(60)", "while True: pass", "import subprocess; subprocess.run(['sleep', '60'])"],
        ids=["sleeps", "spins", "waits for a child"],
    )
    async def test_a_time_out_keeps_the_state(self, box: Sandbox, code: str) -> None:
        await cell(box, "before_time_out = 9")
        outcome = await cell(box, code, timeout_s=0.5)
        assert outcome.verdict is Verdict.TIMEOUT
        assert not outcome.is_state_lost
        assert _text(await cell(box, "before_time_out")) == "9\n"

    async def test_a_time_out_kills_what_the_cell_started(self, box: Sandbox, folder: str) -> None:
        tick = f"setsid bash -c 'while sleep 0.05; do echo on >> {folder}/ticks; done' &"
        outcome = await cell(box, f"import os\nos.system({tick!r})\nwhile 1: pass", timeout_s=1.0)
        assert outcome.verdict is Verdict.TIMEOUT
        await says(box, f"test -s {folder}/ticks && sleep 0.2; rm {folder}/ticks; sleep 0.5; touch {folder}/ticks")
        assert await says(box, f"sort -u {folder}/ticks") == b""

    async def test_cancelling_interrupts_and_keeps_the_state(self, box: Sandbox) -> None:
        await cell(box, "before_cancel = 10")
        running = asyncio.create_task(cell(box, "import time; time.sleep(60)"))
        await asyncio.sleep(0.3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert _text(await cell(box, "before_cancel")) == "10\n"

    async def test_a_cell_that_waits_can_be_cancelled(self, box: Sandbox) -> None:
        await cell(box, "ran = False")
        running = asyncio.create_task(cell(box, "import time; time.sleep(0.6)"))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(cell(box, "ran = True"))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await running).is_ok
        assert _text(await cell(box, "ran")) == "False\n"

    async def test_a_cell_that_cannot_be_interrupted_loses_the_state_and_says_so(self, bench: Bench) -> None:
        box = await bench.fresh()
        await cell(box, "gone = 11")
        code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
        outcome = await cell(box, code, timeout_s=0.5)
        assert outcome.verdict is Verdict.TIMEOUT
        assert outcome.is_state_lost
        assert "NameError" in _text(await cell(box, "gone"))

    @pytest.mark.parametrize(
        "code", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)", "import ctypes; ctypes.string_at(0)"]
    )
    async def test_an_interpreter_that_dies_is_replaced_and_it_is_said(self, box: Sandbox, code: str) -> None:
        await cell(box, "gone = 12")
        outcome = await cell(box, f"print('last words')\n{code}")
        assert outcome.is_state_lost
        assert not outcome.is_ok
        assert _text(outcome).startswith("last words\n")
        assert "NameError" in _text(await cell(box, "gone"))

    async def test_state_outlives_the_link(self, bench: Bench) -> None:
        box = await bench.fresh()
        await cell(box, "kept = 13")
        async with entered(bench.driver, box.ref) as again:
            assert _text(await cell(again, "kept")) == "13\n"

    async def test_the_same_cell_twice_runs_once(self, box: Sandbox) -> None:
        await cell(box, "count = 0")
        call = call_id()
        for _ in range(2):
            outcome = await box.python(call, "count += 1; count", timeout_s=20, output_limit_bytes=99)
            assert _text(outcome) == "1\n"

    async def test_a_copy_of_the_interpreter_answers_nothing(self, box: Sandbox) -> None:
        code = "import os\nchild = os.fork()\nif child: os.waitpid(child, 0)\nprint('parent' if child else 'child')"
        assert "parent" in _text(await cell(box, code))
        assert _text(await cell(box, "1 + 1")) == "2\n"

    async def test_threads_may_write_and_outlive_the_cell(self, box: Sandbox) -> None:
        code = "import threading, time\nseen = []\nthreading.Timer(0.2, lambda: seen.append(1)).start()"
        assert (await cell(box, code)).is_ok
        assert _text(await cell(box, "time.sleep(0.5); seen")) == "[1]\n"

    async def test_a_cell_is_another_process_than_commands(self, box: Sandbox) -> None:
        await cell(box, "import os; os.environ['SET_IN_CELL'] = '1'; cwd = os.getcwd(); os.chdir('/')")
        try:
            assert await says(box, 'echo "${SET_IN_CELL-none}"; test "$PWD" != / && echo there') == b"none\nthere\n"
        finally:
            await cell(box, "os.chdir(cwd)")

    async def test_a_picture_comes_back_only_if_it_is_one(self, box: Sandbox) -> None:
        """What is no picture must not pass for one; where there is a drawing library, what it shows must come."""
        has_library = (await run(box, "python3 -c 'import matplotlib'")).exit_code == 0
        outcome = await cell(box, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
        kinds = [attachment.media_type for attachment in outcome.attachments]
        assert kinds == (["image/png"] if has_library else [])
