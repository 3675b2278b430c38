"""Checks of resources: what a sandbox may take, what a call that goes too far comes to, and that the sandbox lives on.

Where a limit ends the sandbox, it must be seen to have ended, and come back with its files.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from orchestrator.conformance.bench import (
    PATIENCE_S,
    Bench,
    cell,
    file,
    read,
    run,
    runs_python,
    says,
    write,
)
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.errors import SandboxGone
from orchestrator.sandboxes.driver import Resources, SandboxState
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome, Verdict

_TIGHT = Resources(memory_bytes=256 << 20, cpus=0.5, pids=64, open_files=128, disk_bytes=128 << 20)
_HOG = "import sys; x = bytearray(600 << 20); x[::4096] = b'x' * len(x[::4096]); print('done')"
_START_MANY = """
import subprocess
started = []
try:
    for _ in range(COUNT): started.append(subprocess.Popen(["sleep", "30"]))
finally:
    for each in started: each.kill()
print(len(started))
"""
_BUSY = """
import os, time
children = []
for _ in range(6):
    children.append(os.fork())
    if not children[-1]:
        end, rounds = time.monotonic() + 1, 0
        while time.monotonic() < end: rounds += 1
        os.write(1, b"%d\\n" % rounds)
        os._exit(0)
for child in children: os.waitpid(child, 0)
"""
_BOMB = "f() { f | f & }; f; sleep 30"
_DISK = 48 << 20
"""What of `_TIGHT.disk_bytes` a file must be able to take: a file system keeps some for itself."""


class LimitChecks(Platform):
    async def _comes_back(self, bench: Bench, box: Sandbox) -> Sandbox:
        """A sandbox that a limit has ended, started again."""
        async with asyncio.timeout(PATIENCE_S):
            while (await bench.driver.inspect(box.ref)).state is not SandboxState.EXITED:
                await asyncio.sleep(0.05)
        await bench.driver.start(box.ref)
        again = await bench.enter(box.ref)
        assert await says(again, "cat marker") == b"kept\n"
        return again

    async def _hits(self, bench: Bench, code: str, verdict: Verdict, ends: Difference) -> None:
        box = await bench.fresh(_TIGHT)
        await says(box, "echo kept > marker")
        guest = box.guest_id
        if self.states(Difference.NO_LIMITS):
            assert (await run(box, code)).exit_code == 0
            return
        if self.states(ends):
            with pytest.raises(SandboxGone):
                await run(box, code)
            box = await self._comes_back(bench, box)
            assert box.guest_id != guest
            return
        outcome = await run(box, code)
        assert outcome.verdict is verdict, outcome
        assert not outcome.is_ok
        assert await says(box, "cat marker") == b"kept\n"
        assert (await bench.driver.inspect(box.ref)).state is SandboxState.RUNNING

    # memory

    async def test_too_much_memory_is_oom_and_the_sandbox_lives(self, bench: Bench) -> None:
        await self._hits(bench, f'python3 -c "{_HOG}"', Verdict.OOM, Difference.OOM_ENDS_THE_SANDBOX)

    async def test_memory_within_the_limit_is_there(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        assert await runs_python(box, _HOG.replace("600", "120")) == "done\n"

    async def test_a_cell_that_takes_too_much_memory_loses_the_state(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        await says(box, "echo kept > marker")
        if self.states(Difference.NO_LIMITS):
            assert (await cell(box, _HOG)).is_ok
            return
        if self.states(Difference.OOM_ENDS_THE_SANDBOX):
            with pytest.raises(SandboxGone):
                await cell(box, _HOG)
            await self._comes_back(bench, box)
            return
        outcome = await cell(box, _HOG)
        assert outcome.verdict is Verdict.OOM
        assert outcome.is_state_lost
        assert (await cell(box, "1 + 1")).head == b"2\n"

    async def test_memory_of_one_sandbox_is_not_anothers(self, bench: Bench, box: Sandbox) -> None:
        hog = await bench.fresh(_TIGHT)
        await asyncio.gather(run(hog, f'python3 -c "{_HOG}"'), return_exceptions=True)
        assert await says(box, "echo hello") == b"hello\n"

    async def test_files_in_tmp_are_bounded(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        if self.states(Difference.NO_LIMITS):
            await says(box, "test -w /tmp")
            return
        outcome = await run(box, "head -c 300000000 /dev/zero > /tmp/big")
        _assert_full(outcome)
        await says(box, "rm /tmp/big; head -c 1000000 /dev/zero > /tmp/small")

    # processes and files

    async def test_too_many_processes_are_pids_and_the_sandbox_lives(self, bench: Bench) -> None:
        code = f"python3 -c '{_START_MANY.replace('COUNT', '200')}'"
        if self.states(Difference.PIDS_END_THE_SANDBOX):
            code = _BOMB
        await self._hits(bench, code, Verdict.PIDS, Difference.PIDS_END_THE_SANDBOX)

    async def test_processes_within_the_limit_are_there(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        assert await runs_python(box, _START_MANY.replace("COUNT", "30")) == "30\n"

    async def test_a_fork_bomb_ends_with_its_call(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        if self.states(Difference.NO_LIMITS) or self.states(Difference.PIDS_END_THE_SANDBOX):
            # It would be this machine's end; or is, in the check above, the sandbox's.
            return
        outcome = await run(box, _BOMB, timeout_s=2.0)
        assert not outcome.is_ok
        begun = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            while not (await run(box, "echo on", timeout_s=5.0)).is_ok:
                await asyncio.sleep(0.1)
        assert time.monotonic() - begun < PATIENCE_S

    async def test_open_files_are_limited(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        program = (
            "import os\nopen_files = []\ntry:\n    while len(open_files) < 2000: open_files.append(os.dup(1))\n"
            "except OSError as error: print(error.errno)\nprint(len(open_files))"
        )
        answer = (await runs_python(box, program)).split()
        if self.states(Difference.NO_LIMITS):
            assert len(answer) == 1 or int(answer[1]) > _TIGHT.open_files
            return
        assert answer[0] == "24"  # EMFILE
        assert 100 < int(answer[1]) < _TIGHT.open_files
        assert (await run(box, f"ulimit -n {_TIGHT.open_files * 2}")).exit_code != 0

    async def test_cpu_is_limited(self, bench: Bench, box: Sandbox) -> None:
        """Six programs get less done where they may take a fifth of a processor than where they may take two.

        By work, not by the clock of processes; several times, since the machine may be busy with others.
        """
        tight = await bench.fresh(replace(_TIGHT, cpus=0.2))
        shares: list[float] = []
        while len(shares) < 5 and (not shares or shares[-1] > 0.8):
            done = []
            for each in (tight, box):
                done.append(sum(map(int, (await runs_python(each, _BUSY)).split())))
            shares.append(done[0] / done[1])
        if self.states(Difference.NO_LIMITS):
            assert max(shares) > 0.3
            return
        assert shares[-1] <= 0.8

    # disk

    async def test_a_full_disk_is_said_and_can_be_emptied(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        await write(box, "file", b"old")
        outcome = await run(box, f"head -c {_TIGHT.disk_bytes * 2} /dev/zero > big")
        if self.states(Difference.NO_LIMITS) or self.states(Difference.NO_DISK_LIMIT):
            assert outcome.exit_code == 0
            return
        _assert_full(outcome)
        refused = await file(box, "write", "file", b"new" * 2_000_000)
        assert refused.verdict is Verdict.DISK_FULL
        assert refused.error is not None
        assert refused.error.code in ("enospc", "edquot")
        assert await read(box, "file") == b"old"
        assert (await cell(box, "1 + 1")).head == b"2\n"
        await says(box, f"rm big; head -c {_DISK} /dev/zero > big; rm big")
        await write(box, "file", b"new")

    async def test_many_small_files_fill_it_too(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        program = "for n in range(200_000): open(f'many/{n}', 'w').close()"
        if self.states(Difference.NO_LIMITS) or self.states(Difference.NO_DISK_LIMIT):
            program = program.replace("200_000", "2_000")
            assert (await run(box, f'mkdir many; python3 -c "{program}"')).exit_code == 0
            return
        outcome = await run(box, f'mkdir many; python3 -c "{program}"', timeout_s=50.0)
        _assert_full(outcome)
        await says(box, "rm -r many; echo on > file")

    async def test_every_folder_that_lasts_counts(self, bench: Bench) -> None:
        """What can be written in them together is no more than the limit."""
        box = await bench.fresh(_TIGHT)
        if self.states(Difference.NO_LIMITS) or self.states(Difference.NO_DISK_LIMIT):
            return
        for folder in ("$HOME", "/workspace", "/var/tmp"):
            await run(box, f"head -c {_TIGHT.disk_bytes} /dev/zero > {folder}/big")
        total = int((await says(box, "cat $HOME/big /workspace/big /var/tmp/big | wc -c")).strip())
        assert _DISK <= total <= _TIGHT.disk_bytes

    async def test_a_file_of_holes_takes_no_more_than_it_holds(self, bench: Bench) -> None:
        box = await bench.fresh(_TIGHT)
        await run(box, "truncate -s 1T holes; echo on > small")
        assert await says(box, "cat small; rm -f holes") == b"on\n"

    async def test_disk_of_one_sandbox_is_not_anothers(self, bench: Bench, box: Sandbox) -> None:
        if self.states(Difference.NO_LIMITS) or self.states(Difference.NO_DISK_LIMIT):
            return
        full = await bench.fresh(_TIGHT)
        await run(full, f"head -c {_TIGHT.disk_bytes * 2} /dev/zero > big")
        await says(box, "head -c 1000000 /dev/zero > small; rm small")


def _assert_full(outcome: CallOutcome) -> None:
    assert outcome.verdict is Verdict.DISK_FULL, outcome
    assert outcome.exit_code != 0
    assert b"No space left" in outcome.head + outcome.tail or b"quota" in outcome.head + outcome.tail
