"""Checks of setup: root inside while a template is made, nobody afterwards; changes of the image go with snapshots."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from orchestrator.conformance.bench import Bench, call_id, entered, make, run, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.driver import SandboxDriver
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict

_INSTALL = r"""
set -e
printf '#!/bin/sh\necho installed\n' > /usr/local/bin/tool; chmod 755 /usr/local/bin/tool
mkdir -p /opt/made /etc/made; echo option > /etc/made/option; chown 7:7 /opt/made; chmod 2751 /opt/made
rm -r /etc/skel; mkdir /etc/skel; echo new > /etc/skel/only
sed -i s/^root:/root:/ /etc/passwd; echo 'kept:x:4242:4242::/:/bin/sh' >> /etc/passwd
cp /bin/sh /usr/local/bin/raised; chmod 4755 /usr/local/bin/raised
"""
_LOOK = "tool; cat /etc/made/option; find /opt/made -maxdepth 0 -printf '%U %G %m\\n'; echo /etc/skel/*; id -un 4242"
_SEEN = b"installed\noption\n7 7 2751\n/etc/skel/only\nkept\n"
_INTRUDE = r"""
for path in /usr/local/bin/tool /etc/passwd /etc/made/more /opt/made/more /usr/more /root/more /var/more; do
    (echo x >> $path) 2>/dev/null && echo "wrote $path"
done
rm -f /usr/local/bin/tool 2>/dev/null && echo removed
grep -E '^Cap(Eff|Prm|Inh|Amb|Bnd)' /proc/self/status | grep -v 0000000000000000
raised -pc 'id -u'
"""


class SetupChecks(Platform):
    async def _is_root(self, box: Sandbox) -> bool:
        """Whether this platform can, as it states."""
        is_root = await says(box, "id -u") == b"0\n"
        assert is_root or self.states(Difference.NO_ISOLATION)
        return is_root and not self.states(Difference.NO_ISOLATION)

    @asynccontextmanager
    async def _set_up(self, driver: SandboxDriver) -> AsyncGenerator[tuple[Sandbox, str], None]:
        """Where something was installed, and the name of a snapshot that is not there yet; empty: it cannot be."""
        ref, name = await make(driver, self.spec(is_setup=True)), f"setup-{new_sandbox_id()[-10:].lower()}"
        async with entered(driver, ref) as box:
            if not await self._is_root(box):
                yield box, ""
                return
            await says(box, _INSTALL)
            yield box, name
        await driver.destroy(ref)
        await driver.drop_snapshot(name)

    async def test_what_it_installs_is_there_for_all_that_begin_with_it(self, opened: SandboxDriver) -> None:
        async with self._set_up(opened) as (box, name):
            if not name:
                return
            assert await says(box, _LOOK) == _SEEN
            await opened.snapshot(box.ref, name)
            for _ in range(2):
                async with entered(opened, await make(opened, self.spec(snapshot=name))) as child:
                    assert await says(child, _LOOK) == _SEEN

    async def test_nobody_changes_it_afterwards(self, opened: SandboxDriver) -> None:
        async with self._set_up(opened) as (box, name):
            if not name:
                return
            await opened.snapshot(box.ref, name)
            async with entered(opened, await make(opened, self.spec(snapshot=name))) as child:
                agent = await says(child, "id -u")
                assert agent != b"0\n"
                assert (await run(child, _INTRUDE)).head == agent
                if not self.states(Difference.WRITABLE_ROOT):
                    assert await says(child, "grep ' /usr ' /proc/mounts | cut -d ' ' -f 4 | cut -c -3") == b"ro,\n"
                assert await says(child, _LOOK) == _SEEN

    async def test_it_outlives_stops_and_is_in_copies_of_copies(self, opened: SandboxDriver) -> None:
        async with self._set_up(opened) as (box, name):
            if not name:
                return
            await opened.snapshot(box.ref, name)
            child = await make(opened, self.spec(snapshot=name))
            await opened.stop(child)
            await opened.start(child)
            async with entered(opened, child) as again:
                assert await says(again, f"{_LOOK}; echo mine > mine") == _SEEN
            await opened.snapshot(child, f"{name}-2")
            await opened.destroy(child)
            async with entered(opened, await make(opened, self.spec(snapshot=f"{name}-2"))) as grandchild:
                assert await says(grandchild, f"{_LOOK}; cat mine") == _SEEN + b"mine\n"
            await opened.drop_snapshot(f"{name}-2")

    async def test_files_that_are_put_are_the_agents(self, bench: Bench) -> None:
        ref = await make(bench.driver, self.spec(is_setup=True))
        async with entered(bench.driver, ref) as box:
            if await self._is_root(box):
                outcome = await box.file(call_id(), "write", {"path": "given"}, b"data")
                assert outcome.verdict is Verdict.DONE, outcome.error
                assert await says(box, 'test "$(find given -printf %U:%G)" = "$CORRAL_AGENT"; id -u') == b"0\n"
                outcome = await box.file(call_id(), "write", {"path": "/etc/given"}, b"data")
                assert outcome.verdict is Verdict.REFUSED
        await bench.driver.destroy(ref)

    async def test_processes_are_bounded(self, bench: Bench) -> None:
        if self.states(Difference.NO_LIMITS) or self.states(Difference.PIDS_END_THE_SANDBOX):
            return
        ref = await make(bench.driver, self.spec(is_setup=True))
        async with entered(bench.driver, ref) as box:
            outcome = await run(box, "for n in {1..2000}; do sleep 60 & done; wait", timeout_s=10)
            assert not outcome.is_ok
            assert await says(box, "echo lives") == b"lives\n"
        await bench.driver.destroy(ref)

    async def test_its_disk_bounds_what_it_installs(self, bench: Bench) -> None:
        if self.states(Difference.NO_LIMITS) or self.states(Difference.NO_DISK_LIMIT):
            return
        resources = replace(self.resources, disk_bytes=128 << 20)
        ref = await make(bench.driver, self.spec(is_setup=True, resources=resources))
        async with entered(bench.driver, ref) as box:
            outcome = await run(box, "head -c 300M /dev/zero > /usr/local/big")
            assert not outcome.is_ok
            assert b"No space left" in outcome.head or outcome.verdict is Verdict.DISK_FULL
            assert await says(box, "rm /usr/local/big; echo x > /usr/local/small; cat /usr/local/small") == b"x\n"
        await bench.driver.destroy(ref)
