"""Checks of `connect`: a stream of bytes to the guest, broken off and taken up again."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.conformance.bench import PATIENCE_S, Bench, entered, execute, make, says
from orchestrator.conformance.platform import Platform
from orchestrator.errors import SandboxGone
from orchestrator.sandboxes.driver import SandboxDriver
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link

_ALL_BYTES = bytes(range(256))


class StreamChecks(Platform):
    async def test_the_stream_carries_bytes_both_ways(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        content = _ALL_BYTES * 12_000
        async with entered(opened, ref) as sandbox:
            outcome = await execute(sandbox, ["cat"], content, output_limit_bytes=2 * len(content))
        assert outcome.head + outcome.tail == content

    async def test_a_later_stream_carries_bytes_both_ways(self, opened: SandboxDriver) -> None:
        """The first may be of another kind than those after it."""
        ref = await make(opened, self.spec())
        content = _ALL_BYTES * 12_000
        async with entered(opened, ref):
            pass
        async with entered(opened, ref) as sandbox:
            outcome = await execute(sandbox, ["cat"], content, output_limit_bytes=2 * len(content))
        assert outcome.head + outcome.tail == content

    async def test_a_second_stream_replaces_the_first_and_calls_go_on(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        code = "sleep 2; echo done"
        async with entered(opened, ref) as first:
            running = asyncio.create_task(first.bash("long", code, timeout_s=20, output_limit_bytes=99))
            await asyncio.sleep(0.1)
            async with entered(opened, ref) as second:
                with pytest.raises(SandboxGone):
                    await running
                assert set(second.link.calls) == {"long"}
                outcome = await second.bash("long", code, timeout_s=20, output_limit_bytes=99)
                assert outcome.head == b"done\n"

    async def test_an_older_generation_is_refused(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref, generation=7) as current:
            with pytest.raises(SandboxGone):
                await Link.open(await opened.connect(ref), 6)
            assert await says(current, "echo still here") == b"still here\n"

    async def test_it_is_the_same_guest_however_often_one_connects(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        guests = set()
        for generation in range(1, 6):
            async with entered(opened, ref, generation) as sandbox:
                guests.add(sandbox.guest_id)
                assert await says(sandbox, "echo hello") == b"hello\n"
        assert len(guests) == 1

    async def test_a_restart_is_another_guest_that_knows_no_call(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as sandbox:
            await says(sandbox, "true")
            before = sandbox.guest_id
        await opened.stop(ref)
        await opened.start(ref)
        async with entered(opened, ref) as sandbox:
            assert sandbox.guest_id != before
            assert sandbox.link.calls == {}

    async def test_who_says_nonsense_ends_only_their_own_stream(self, bench: Bench) -> None:
        box = await bench.fresh()
        stream = await bench.driver.connect(box.ref)
        stream.writer.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
        async with asyncio.timeout(PATIENCE_S):
            await stream.reader.read()
        stream.writer.close()
        assert await says(box, "echo still here") == b"still here\n"

    async def test_who_says_nothing_stands_in_nobodys_way(self, bench: Bench) -> None:
        box = await bench.fresh()
        silent = await bench.driver.connect(box.ref)
        async with entered(bench.driver, box.ref, generation=2) as sandbox:
            assert await says(sandbox, "echo hello") == b"hello\n"
        silent.writer.close()

    async def test_a_slow_reader_holds_up_nobody_else(self, box: Sandbox, folder: str) -> None:
        await says(box, f"head -c 20000000 /dev/zero > {folder}/big")
        received = 0
        async for piece in box.get([f"{folder}/big"]):
            received += len(piece)
            if received < 2_000_000:
                assert await says(box, "echo hello") == b"hello\n"
        assert received >= 20_000_000

    async def test_many_streams_share_one_link(self, box: Sandbox) -> None:
        contents = [str(number).encode() * 20_000 for number in range(20)]
        outcomes = await asyncio.gather(
            *(execute(box, ["cat"], content, output_limit_bytes=1 << 20) for content in contents)
        )
        assert [outcome.head + outcome.tail for outcome in outcomes] == contents

    async def test_no_stream_to_what_does_not_run(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        await opened.stop(ref)
        with pytest.raises(SandboxGone):
            await Link.open(await opened.connect(ref), 1)
        await opened.destroy(ref)
        with pytest.raises(SandboxGone):
            await Link.open(await opened.connect(ref), 1)

    async def test_the_stream_ends_with_the_sandbox(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as sandbox:
            await opened.destroy(ref)
            async with asyncio.timeout(PATIENCE_S):
                await sandbox.link.ended.wait()
            with pytest.raises(SandboxGone):
                await says(sandbox, "true")

    async def test_a_call_in_flight_ends_with_the_sandbox(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as sandbox:
            running = asyncio.create_task(says(sandbox, "sleep 60"))
            await asyncio.sleep(0.2)
            await opened.stop(ref)
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(SandboxGone):
                    await running
