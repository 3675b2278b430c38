"""Checks of snapshots: the files of one moment, and sandboxes that begin with them and go their own ways."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.conformance.bench import Bench, cell, entered, make, owned, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.errors import CorralError, SandboxGone
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.driver import SandboxDriver, SandboxState


def _name() -> str:
    return f"kept-{new_sandbox_id()[-10:].lower()}"


class SnapshotChecks(Platform):
    async def _cannot(self, driver: SandboxDriver) -> bool:
        """Whether this platform has no snapshots, as it states."""
        if not self.states(Difference.NO_SNAPSHOTS):
            return False
        ref = await make(driver, self.spec())
        for attempt in (driver.snapshot(ref, "kept"), driver.drop_snapshot("kept"), driver.snapshots()):
            with pytest.raises(NotImplementedError):
                await attempt
        return True

    async def test_a_sandbox_begins_with_the_files_of_another(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        await says(parent, "echo kept > marker; mkdir -p deep/er; echo kept > deep/er/marker; echo kept > ~/marker")
        await bench.driver.snapshot(parent.ref, name)
        child = await bench.fresh(snapshot=name)
        assert await says(child, "cat marker deep/er/marker ~/marker") == b"kept\nkept\nkept\n"
        await bench.driver.drop_snapshot(name)

    async def test_files_keep_all_that_makes_them(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        await says(parent, "mkdir made; cd made; echo tool > tool; chmod 751 tool; ln -s tool link; ln tool hard")
        await says(parent, "cd made; : > empty; touch -d @1234567 old; printf x > $'odd\\n\\xff'; mkfifo pipe")
        await says(parent, "cd made; truncate -s 20M holes; head -c 3000000 /dev/urandom > big")
        listing = "find . ! -name . -printf '%m %U:%G %y %n %s %Ts %P\\n' | sort"
        look = f"cd made; {listing}; sha256sum big holes; readlink link"
        if self.states(Difference.OWN_KERNEL):
            await says(parent, "rm made/pipe")
        before = await says(parent, look)
        await bench.driver.snapshot(parent.ref, name)
        child = await bench.fresh(snapshot=name)
        assert await says(child, look) == before
        await bench.driver.drop_snapshot(name)

    async def test_parent_and_children_go_their_own_ways(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        await says(parent, "echo 0 > file; echo 0 > removed")
        await bench.driver.snapshot(parent.ref, name)
        await says(parent, "echo parent >> file; echo parent > parents; rm removed")
        first, second = await asyncio.gather(bench.fresh(snapshot=name), bench.fresh(snapshot=name))
        await says(first, "echo first >> file; echo first > firsts")
        await says(second, "rm file; echo second > seconds")
        assert await says(parent, "cat file; echo *") == b"0\nparent\nfile parents\n"
        assert await says(first, "cat file; echo *") == b"0\nfirst\nfile firsts removed\n"
        assert await says(second, "echo *") == b"removed seconds\n"
        third = await bench.fresh(snapshot=name)
        assert await says(third, "cat file; echo *") == b"0\nfile removed\n"
        await bench.driver.drop_snapshot(name)

    async def test_a_parent_that_runs_is_caught_in_one_moment(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        count = "(n=0; while :; do n=$((n+1)); echo $n >> log; echo $n > last; done) >/dev/null 2>&1 & echo $!"
        counting = int(await says(parent, count))
        await asyncio.sleep(0.5)
        before = int(await says(parent, "wc -l < log"))
        await bench.driver.snapshot(parent.ref, name)
        child = await bench.fresh(snapshot=name)
        lines = (await says(child, "wc -l < log; tail -n 1 log; cat last")).split()
        assert before <= int(lines[0]) == int(lines[1])
        if len(lines) > 2:  # else the moment was between emptying and filling it
            assert int(lines[2]) in (int(lines[1]), int(lines[1]) - 1)
        assert await says(child, "seq $(wc -l < log) | cmp - log && sleep 0.3; wc -l < log") == lines[0] + b"\n"
        assert int(await says(parent, "wc -l < log")) > int(lines[0])
        await says(parent, f"kill {counting}")
        await bench.driver.drop_snapshot(name)

    async def test_what_was_just_written_is_in_it(self, bench: Bench) -> None:
        """Without anybody having called sync."""
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        digest = await says(parent, "head -c 20000000 /dev/urandom > big; sha256sum big")
        await bench.driver.snapshot(parent.ref, name)
        child = await bench.fresh(snapshot=name)
        assert await says(child, "sha256sum big") == digest
        await bench.driver.drop_snapshot(name)

    @pytest.mark.parametrize("state", [SandboxState.EXITED, SandboxState.PAUSED])
    async def test_a_parent_need_not_run(self, opened: SandboxDriver, state: SandboxState) -> None:
        if await self._cannot(opened):
            return
        if state is SandboxState.PAUSED and self.states(Difference.NO_PAUSE):
            return
        parent, name = await make(opened, self.spec()), _name()
        async with entered(opened, parent) as box:
            await says(box, "echo kept > marker")
        await (opened.stop(parent) if state is SandboxState.EXITED else opened.pause(parent))
        await opened.snapshot(parent, name)
        assert (await opened.inspect(parent)).state is state
        async with entered(opened, await make(opened, self.spec(snapshot=name))) as child:
            assert await says(child, "cat marker") == b"kept\n"
        await opened.drop_snapshot(name)

    async def test_a_child_outlives_its_snapshot_and_its_parent(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        parent, name = await make(opened, self.spec()), _name()
        async with entered(opened, parent) as box:
            await says(box, "echo kept > marker")
        await opened.snapshot(parent, name)
        await opened.destroy(parent)
        child = await make(opened, self.spec(snapshot=name))
        await opened.drop_snapshot(name)
        await opened.stop(child)
        await opened.start(child)
        async with entered(opened, child) as box:
            assert await says(box, "cat marker; echo more >> marker") == b"kept\n"

    async def test_a_snapshot_of_a_child_holds_both(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        names = [_name() for _ in range(3)]
        box = await bench.fresh()
        for number, name in enumerate(names):
            await says(box, f"echo {number} >> log")
            await bench.driver.snapshot(box.ref, name)
            box = await bench.fresh(snapshot=name)
        assert await says(box, "cat log") == b"0\n1\n2\n"
        again = await bench.fresh(snapshot=names[0])
        assert await says(again, "cat log") == b"0\n"
        for name in names:
            await bench.driver.drop_snapshot(name)

    async def test_the_same_name_again_keeps_the_first(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        for number in range(2):
            await says(parent, f"echo {number} > file")
            await bench.driver.snapshot(parent.ref, name)
        child = await bench.fresh(snapshot=name)
        assert await says(child, "cat file") == b"0\n"
        await bench.driver.drop_snapshot(name)

    async def test_snapshots_are_listed_and_dropped(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        parent, names = await make(opened, self.spec()), {_name(), _name()}
        assert await opened.snapshots() == set()
        for name in names:
            await opened.snapshot(parent, name)
        other = self.driver(self.instance("check"))
        await other.open()
        assert await other.snapshots() == names
        await other.aclose()
        for name in (*names, "there-is-none"):
            await opened.drop_snapshot(name)
            await opened.drop_snapshot(name)
        assert await opened.snapshots() == set()

    async def test_a_snapshot_is_its_owners(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        parent, name = await make(opened, self.spec()), _name()
        await opened.snapshot(parent, name)
        stranger = self.driver(self.instance("stranger"))
        await stranger.open()
        assert name not in await stranger.snapshots()
        await stranger.drop_snapshot(name)
        assert await opened.snapshots() == {name}
        await stranger.aclose()
        await opened.drop_snapshot(name)

    async def test_what_is_gone_leaves_none(self, opened: SandboxDriver) -> None:
        if await self._cannot(opened):
            return
        ref, name = await make(opened, self.spec()), _name()
        await opened.destroy(ref)
        with pytest.raises(SandboxGone):
            await opened.snapshot(ref, name)
        assert name not in await opened.snapshots()

    async def test_a_snapshot_that_is_not_there_is_said(self, opened: SandboxDriver) -> None:
        """Rather than that a sandbox begins with nothing."""
        if await self._cannot(opened):
            return
        spec = self.spec(snapshot=_name())
        refs = []
        with pytest.raises(CorralError):
            async for ref in opened.create(spec):
                refs.append(ref)
        for ref in refs:
            await opened.destroy(ref)
        assert await owned(opened) == set()

    async def test_processes_and_calls_are_not_in_it(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        await cell(parent, "kept = 1")
        await says(parent, "(while sleep 0.05; do echo on > ticks; done) >/dev/null 2>&1 &")
        await bench.driver.snapshot(parent.ref, name)
        child = await bench.fresh(snapshot=name)
        assert child.guest_id != parent.guest_id
        assert child.link.calls == {}
        await says(child, "rm -f ticks; sleep 0.3; ! test -e ticks")
        assert b"NameError" in (await cell(child, "kept")).head
        await bench.driver.drop_snapshot(name)

    async def test_a_large_sandbox_is_forked_too(self, bench: Bench) -> None:
        if await self._cannot(bench.driver):
            return
        parent, name = await bench.fresh(), _name()
        await says(parent, "head -c 200M /dev/zero | tr '\\0' x > big; for n in {1..500}; do echo $n > f$n; done")
        await bench.driver.snapshot(parent.ref, name)
        child = await bench.fresh(snapshot=name)
        assert await says(child, "wc -c < big; set -- *; echo $#; cat f500") == b"209715200\n501\n500\n"
        await says(child, "truncate -s 5 big")
        assert await says(parent, "wc -c < big") == b"209715200\n"
        await bench.driver.drop_snapshot(name)
