"""Checks of commands: what they get, how they end, and what is killed with them."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from orchestrator.conformance.bench import Bench, call_id, error_code, execute, run, runs_python, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.errors import InvalidRequest
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict

_METACHARACTERS = "$(echo no) `echo no` ${HOME} && false; | > < * ? ~ \\ \" ' ! # % \t {a,b} \x01 é 🐎"
_LARGE_BYTES = 3_000_000


class CommandChecks(Platform):
    # how it ends

    @pytest.mark.parametrize("code", [0, 1, 2, 77, 126, 127, 137, 143, 255])
    async def test_the_exit_code_is_the_commands_own(self, box: Sandbox, code: int) -> None:
        outcome = await run(box, f"exit {code}")
        assert (outcome.verdict, outcome.exit_code, outcome.signal) == (Verdict.EXITED, code, None)
        assert outcome.is_ok is (code == 0)

    async def test_a_program_that_bash_does_not_find_is_127(self, box: Sandbox) -> None:
        outcome = await run(box, "there-is-no-such-program --help")
        assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 127)
        assert b"there-is-no-such-program" in outcome.head

    async def test_a_file_that_bash_may_not_run_is_126(self, box: Sandbox, folder: str) -> None:
        outcome = await run(box, f"echo 'echo no' > {folder}/plain; chmod 644 {folder}/plain; {folder}/plain")
        assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 126)

    async def test_a_child_that_was_killed_is_128_and_its_signal(self, box: Sandbox) -> None:
        outcome = await run(box, "bash -c 'kill -9 $$'; exit $?")
        assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 137)

    @pytest.mark.parametrize("number", [6, 9, 11, 13, 15])
    async def test_a_death_by_signal_at_once_is_no_time_out(self, box: Sandbox, number: int) -> None:
        outcome = await run(box, f"echo last words; kill -{number} $$")
        assert (outcome.verdict, outcome.signal, outcome.exit_code) == (Verdict.KILLED, number, None)
        assert outcome.head == b"last words\n"

    async def test_a_program_that_is_not_there_is_refused(self, box: Sandbox) -> None:
        outcome = await execute(box, ["there-is-no-such-program"])
        assert error_code(outcome) == "not_started"
        assert outcome.error is not None
        assert "there-is-no-such-program" in outcome.error.message

    async def test_a_program_that_may_not_be_run_is_refused(self, box: Sandbox) -> None:
        assert error_code(await execute(box, ["/etc/passwd"])) == "not_started"

    async def test_a_name_with_nul_is_refused(self, box: Sandbox) -> None:
        assert error_code(await execute(box, ["echo", "a\0b"])) == "not_started"

    # arguments and code

    async def test_arguments_arrive_as_they_are(self, box: Sandbox) -> None:
        arguments = ["", "-n", "--", "two words", "a\nb", _METACHARACTERS, "-" * 500]
        program = "import json, sys; print(json.dumps(sys.argv[1:]))"
        assert json.loads(await runs_python(box, program, *arguments)) == arguments

    async def test_arguments_that_are_no_text_arrive_as_they_are(self, box: Sandbox) -> None:
        outcome = await execute(box, ["printf", "%s", b"\xff\xfe\x80".decode("utf-8", "surrogateescape")])
        assert outcome.head == b"\xff\xfe\x80"

    async def test_many_arguments_arrive(self, box: Sandbox) -> None:
        assert await runs_python(box, "import sys; print(len(sys.argv))", *(["x"] * 10_000)) == "10001\n"

    async def test_code_may_begin_with_a_hyphen(self, box: Sandbox) -> None:
        outcome = await run(box, "-n 1")
        assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 127)

    async def test_code_has_many_lines_and_here_documents(self, box: Sandbox) -> None:
        code = "name=world\ncat <<END\nhello $name\nEND\nfor n in 1 2; do\n  echo $n\ndone\n"
        assert await says(box, code) == b"hello world\n1\n2\n"

    async def test_code_with_the_ends_of_lines_of_windows_still_ends(self, box: Sandbox) -> None:
        outcome = await run(box, "echo one\r\necho two\r\n")
        assert outcome.head == b"one\r\ntwo\r\n"

    async def test_a_very_large_command_runs(self, box: Sandbox) -> None:
        code = f"cat <<'END' | wc -c\n{'x' * _LARGE_BYTES}\nEND\necho last"
        assert await says(box, code) == b"%d\nlast\n" % (_LARGE_BYTES + 1)

    async def test_a_large_command_has_no_input_either(self, box: Sandbox) -> None:
        assert await says(box, f"# {'x' * 200_000}\nwc -c") == b"0\n"

    async def test_what_is_too_large_for_one_argument_is_refused(self, box: Sandbox) -> None:
        assert error_code(await execute(box, ["echo", "x" * 140_000])) == "not_started"
        with pytest.raises(InvalidRequest):
            await execute(box, ["echo", "x" * 300_000])
        assert await says(box, "echo hello") == b"hello\n"

    # input

    async def test_input_is_not_read_by_a_shell(self, box: Sandbox) -> None:
        content = (_METACHARACTERS + "\nexit 9\n").encode() * 50
        assert (await execute(box, ["cat"], content)).head == content

    async def test_input_is_bytes(self, box: Sandbox) -> None:
        content = bytes(range(256)) * 16
        assert (await execute(box, ["cat"], content)).head == content

    async def test_empty_input_ends_at_once(self, box: Sandbox) -> None:
        assert (await execute(box, ["cat"], b"")).exit_code == 0

    async def test_without_input_there_is_nothing_to_read(self, box: Sandbox) -> None:
        assert (await execute(box, ["cat"])).exit_code == 0
        assert await says(box, "cat; echo end") == b"end\n"

    async def test_input_that_nobody_reads_holds_nobody_up(self, box: Sandbox) -> None:
        outcome = await execute(box, ["true"], b"x" * _LARGE_BYTES)
        assert outcome.exit_code == 0

    # surroundings

    async def test_it_runs_in_the_working_directory(self, box: Sandbox) -> None:
        """Wherever that is, it is the agent's own and the same for commands, cells and files."""
        await says(box, 'test "$PWD" = "$(pwd -P)" && touch .probe && rm .probe')

    @pytest.mark.parametrize("name", ["plain", "with spaces", "-hyphen", "$(x)", "ünï 🐎", "two\nlines", "."])
    async def test_it_runs_where_it_is_told_to(self, box: Sandbox, folder: str, name: str) -> None:
        await execute(box, ["mkdir", "-p", "--", f"{folder}/{name}"])
        outcome = await execute(box, ["pwd"], cwd=f"{folder}/{name}")
        assert outcome.head.decode() == f"{folder}/{name}".removesuffix("/.") + "\n"

    async def test_a_relative_directory_is_refused_or_below_the_working_directory(
        self, box: Sandbox, folder: str
    ) -> None:
        outcome = await execute(box, ["pwd"], cwd=folder.rsplit("/", 1)[1])
        if outcome.verdict is not Verdict.REFUSED:
            assert outcome.head.decode() == folder + "\n"

    @pytest.mark.parametrize("path", ["/there/is/none", "/etc/passwd", "/root", "a\0b"])
    async def test_a_directory_that_cannot_be_entered_is_refused(self, bench: Bench, box: Sandbox, path: str) -> None:
        outcome = await execute(box, ["pwd"], cwd=path)
        if path == "/root" and (await says(box, "id -u")) == b"0\n":
            assert outcome.exit_code == 0  # a platform without isolation, run by root
            return
        assert error_code(outcome) == "not_started"

    async def test_variables_arrive_as_they_are(self, bench: Bench, box: Sandbox) -> None:
        variables = {
            "PLAIN": "value",
            "EMPTY": "",
            "EQUALS": "a=b=c",
            "LINES": "one\ntwo\r\n",
            "METACHARACTERS": _METACHARACTERS,
            "LONG": "x" * 60_000,
            "lower_case": "ÄÖ",
        }
        with_variables = Sandbox(box.ref, box.link, variables)
        program = f"import json, os; print(json.dumps({{n: os.environ.get(n) for n in {list(variables)!r}}}))"
        assert json.loads(await runs_python(with_variables, program)) == variables

    async def test_variables_stay_with_their_call(self, box: Sandbox) -> None:
        await says(Sandbox(box.ref, box.link, {"ONLY_HERE": "1"}), 'test "$ONLY_HERE" = 1; export AND_HERE=1')
        assert await says(box, 'echo "${ONLY_HERE-none} ${AND_HERE-none}"') == b"none none\n"

    async def test_the_usual_variables_are_there(self, box: Sandbox) -> None:
        home = await says(box, 'test -n "$PATH" && test -w "$HOME" && echo "$USER"')
        assert home == b"agent\n"

    async def test_variables_that_are_too_many_are_refused(self, box: Sandbox) -> None:
        with pytest.raises(InvalidRequest):
            await run(Sandbox(box.ref, box.link, {f"V{n}": "x" * 10_000 for n in range(30)}), "true")

    async def test_each_command_begins_anew(self, box: Sandbox) -> None:
        await says(box, "cd /; umask 077; set -u; alias ls=false; f() { :; }; x=1; true")
        assert await says(box, 'umask; echo "${x-none}"; type f 2>/dev/null || echo none') == b"0022\nnone\nnone\n"

    async def test_the_usual_programs_look_at_files(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; echo needle > file; ln -s file link; mkdir sub; cp -a file sub; ls")
        await says(box, f"cd {folder}; find . -newer /etc/hostname; du -s .; grep -r needle .; tar cf all.tar file")
        await says(box, f"cd {folder}; test -L link && test file -ef link && cmp file sub/file && rm -r sub")
        outcome = await run(box, f"cd {folder}; ls -la . link && stat -c %s file")
        if self.states(Difference.NO_AUTOMOUNT_FLAG):
            assert not outcome.is_ok
            assert b"Invalid argument" in outcome.head
            return
        assert outcome.head.endswith(b"\n7\n")

    async def test_signals_are_as_a_fresh_process_has_them(self, box: Sandbox) -> None:
        """Neither blocked nor ignored, whatever the guest itself does with them."""
        program = (
            "import signal as s\n"
            "print(sorted(s.pthread_sigmask(s.SIG_BLOCK, ())))\n"
            "print([n for n in (1, 2, 3, 10, 12, 14, 15, 17) if s.getsignal(n) == s.SIG_IGN])\n"
        )
        assert await runs_python(box, program) == "[]\n[]\n"

    # time, and what is killed

    async def test_what_takes_too_long_is_killed(self, box: Sandbox) -> None:
        begun = time.monotonic()
        outcome = await run(box, "echo begun; sleep 60", timeout_s=0.5)
        assert (outcome.verdict, outcome.head) == (Verdict.TIMEOUT, b"begun\n")
        assert 0.5 <= time.monotonic() - begun < 5
        assert outcome.duration_ms >= 500

    async def test_a_time_out_kills_children_and_what_hid_from_it(self, box: Sandbox, folder: str) -> None:
        tick = f"while sleep 0.05; do echo $0 >> {folder}/ticks; done"
        code = (
            f"bash -c '{tick}' child & setsid bash -c '{tick}' session & (setsid bash -c '{tick}' orphan &) ; "
            f"nohup bash -c '{tick}' nohup >/dev/null 2>&1 & sleep 60"
        )
        outcome = await run(box, code, timeout_s=1.0)
        assert outcome.verdict is Verdict.TIMEOUT
        seen = await says(box, f"sort -u {folder}/ticks; sleep 0.2; rm {folder}/ticks; sleep 0.5; touch {folder}/ticks")
        assert seen.split() == [b"child", b"nohup", b"orphan", b"session"]
        assert await says(box, f"sort -u {folder}/ticks") == b""

    @pytest.mark.parametrize(
        "code",
        ["trap '' TERM INT HUP QUIT; while :; do sleep 0.1; done", "kill -STOP $$; sleep 60", "exec sleep 60"],
        ids=["ignores signals", "stops itself", "is one process"],
    )
    async def test_a_time_out_holds_against_whoever_resists(self, box: Sandbox, code: str) -> None:
        begun = time.monotonic()
        assert (await run(box, code, timeout_s=0.5)).verdict is Verdict.TIMEOUT
        assert time.monotonic() - begun < 6

    async def test_a_time_out_in_a_storm_of_processes(self, box: Sandbox) -> None:
        begun = time.monotonic()
        code = "f() { sleep 0.01 & f2; }; f2() { sleep 0.01; }; while :; do f; done"
        assert (await run(box, code, timeout_s=1.0)).verdict is Verdict.TIMEOUT
        assert time.monotonic() - begun < 8
        assert await says(box, "echo hello") == b"hello\n"

    async def test_what_runs_in_the_background_outlives_its_call(self, box: Sandbox, folder: str) -> None:
        begun = time.monotonic()
        await says(box, f"(sleep 0.6; echo late > {folder}/late) &")
        assert time.monotonic() - begun < 0.6
        await asyncio.sleep(0.8)
        assert await says(box, f"cat {folder}/late") == b"late\n"

    async def test_what_runs_in_the_background_does_not_hold_the_call(self, box: Sandbox) -> None:
        """Though it has the call's output open."""
        begun = time.monotonic()
        outcome = await run(box, "sleep 5 & echo $!")
        assert time.monotonic() - begun < 3
        assert await says(box, f"kill {int(outcome.head)} && echo ended") == b"ended\n"

    async def test_the_time_limit_of_one_call_is_not_anothers(self, box: Sandbox) -> None:
        longer = asyncio.create_task(run(box, "sleep 1; echo done"))
        assert (await run(box, "sleep 60", timeout_s=0.4)).verdict is Verdict.TIMEOUT
        assert (await longer).head == b"done\n"

    async def test_a_call_that_ends_at_its_limit_has_one_end(self, box: Sandbox) -> None:
        outcomes = await asyncio.gather(*(run(box, "sleep 0.3", timeout_s=0.3) for _ in range(4)))
        for outcome in outcomes:
            assert outcome.verdict in (Verdict.TIMEOUT, Verdict.EXITED)
        assert (await box.bash(call_id(), "echo on", timeout_s=5, output_limit_bytes=99)).head == b"on\n"
