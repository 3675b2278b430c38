"""Checks of output: in order, as bytes, within limits, and while it comes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from orchestrator.conformance.bench import call_id, cell, run, says
from orchestrator.conformance.platform import Platform
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict

_LIMIT_BYTES = 4096
_FLOOD_BYTES = 300_000_000


class OutputChecks(Platform):
    async def test_output_and_errors_are_one_stream_in_true_order(self, box: Sandbox) -> None:
        outcome = await run(box, "for n in {1..200}; do echo o$n; echo e$n >&2; done")
        assert outcome.head == b"".join(b"o%d\ne%d\n" % (n, n) for n in range(1, 201))

    async def test_order_holds_across_processes(self, box: Sandbox) -> None:
        outcome = await run(box, "for n in 1 2 3 4 5; do bash -c 'echo o; bash -c \"echo e >&2\"'; done")
        assert outcome.head == b"o\ne\n" * 5

    async def test_no_output_is_no_output(self, box: Sandbox) -> None:
        outcome = await run(box, "true")
        assert (outcome.head, outcome.tail, outcome.dropped_bytes) == (b"", b"", 0)

    async def test_output_without_an_end_of_line_stays_so(self, box: Sandbox) -> None:
        assert (await run(box, "printf one")).head == b"one"

    async def test_ends_of_lines_stay_as_they_are(self, box: Sandbox) -> None:
        assert (await run(box, r"printf 'a\r\nb\rc\n\n'")).head == b"a\r\nb\rc\n\n"

    async def test_every_byte_arrives(self, box: Sandbox) -> None:
        code = "python3 -c 'import os; os.write(1, bytes(range(256)) * 8)'"
        assert (await run(box, code)).head == bytes(range(256)) * 8

    async def test_output_that_is_no_text_arrives(self, box: Sandbox) -> None:
        content = b"\xff\xfe\xc3(\xed\xa0\x80\0\x1b]0;title\x07\x1b[2J\xe2\x80\xae"
        code = f"python3 -c 'import os; os.write(1, bytes.fromhex(\"{content.hex()}\"))'"
        assert (await run(box, code)).head == content

    async def test_output_up_to_the_limit_is_whole(self, box: Sandbox) -> None:
        outcome = await run(box, f"head -c {_LIMIT_BYTES} /dev/zero", limit_bytes=_LIMIT_BYTES)
        assert len(outcome.head + outcome.tail) == _LIMIT_BYTES
        assert outcome.dropped_bytes == 0

    async def test_one_byte_more_is_counted(self, box: Sandbox) -> None:
        outcome = await run(box, f"head -c {_LIMIT_BYTES + 1} /dev/zero", limit_bytes=_LIMIT_BYTES)
        assert len(outcome.head + outcome.tail) == _LIMIT_BYTES
        assert outcome.dropped_bytes == 1

    async def test_beyond_the_limit_beginning_and_end_are_kept(self, box: Sandbox) -> None:
        code = "echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo last; exit 5"
        outcome = await run(box, code, limit_bytes=_LIMIT_BYTES)
        assert outcome.head.startswith(b"first\nxxx")
        assert outcome.tail.endswith(b"xxxlast\n")
        assert len(outcome.head) + len(outcome.tail) + outcome.dropped_bytes == 1_000_011
        assert outcome.exit_code == 5

    @pytest.mark.parametrize("code", ["yes", "tr '\\0' x </dev/zero"], ids=["short lines", "one endless line"])
    async def test_a_flood_is_read_to_its_end_and_bounded(self, box: Sandbox, code: str) -> None:
        outcome = await run(box, f"{code} | head -c {_FLOOD_BYTES}", limit_bytes=_LIMIT_BYTES)
        assert outcome.exit_code == 0
        assert len(outcome.head + outcome.tail) == _LIMIT_BYTES
        assert outcome.dropped_bytes == _FLOOD_BYTES - _LIMIT_BYTES

    async def test_a_flood_holds_up_nobody_else(self, box: Sandbox) -> None:
        flood = asyncio.create_task(run(box, "yes; true", timeout_s=2.0, limit_bytes=_LIMIT_BYTES))
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        assert await says(box, "echo hello") == b"hello\n"
        assert time.monotonic() - begun < 1.5
        outcome = await flood
        assert outcome.verdict in (Verdict.TIMEOUT, Verdict.OUTPUT_LIMIT)
        assert outcome.dropped_bytes > 0

    async def test_whoever_writes_without_end_is_stopped(self, box: Sandbox) -> None:
        limits: dict[str, Any] = {
            "timeout_s": 30.0,
            "output_limit_bytes": _LIMIT_BYTES,
            "output_total_limit_bytes": 1 << 20,
        }
        for outcome in (
            await box.bash(call_id(), "yes", **limits),
            await box.python(call_id(), "while True: print('y' * 1000)", **limits),
        ):
            assert outcome.verdict is Verdict.OUTPUT_LIMIT
            assert len(outcome.head + outcome.tail) == _LIMIT_BYTES

    async def test_it_is_seen_while_it_comes(self, box: Sandbox) -> None:
        seen: list[tuple[float, bytes]] = []
        begun = time.monotonic()
        await box.bash(
            call_id(),
            "echo one; sleep 0.8; echo two",
            timeout_s=20,
            output_limit_bytes=_LIMIT_BYTES,
            on_output=lambda data: seen.append((time.monotonic() - begun, data)),
        )
        assert b"".join(data for _, data in seen) == b"one\ntwo\n"
        assert seen[-1][0] - seen[0][0] > 0.4

    async def test_what_is_written_after_the_end_belongs_to_nobody(self, box: Sandbox) -> None:
        outcome = await run(box, "(sleep 0.3; echo late) & echo early")
        assert outcome.head == b"early\n"
        await asyncio.sleep(0.5)
        assert await says(box, "echo next") == b"next\n"

    async def test_whoever_writes_after_the_end_is_not_killed_for_it(self, box: Sandbox, folder: str) -> None:
        await run(box, f"(sleep 0.2; yes | head -c 1000000; echo lived > {folder}/log) &")
        await asyncio.sleep(0.8)
        assert await says(box, f"cat {folder}/log") == b"lived\n"

    async def test_output_before_a_death_is_kept(self, box: Sandbox) -> None:
        outcome = await run(box, "head -c 60000 /dev/zero | tr '\\0' x; kill -9 $$")
        assert outcome.head + outcome.tail == b"x" * 60_000

    async def test_a_cell_s_output_is_bounded_too(self, box: Sandbox) -> None:
        outcome = await cell(box, "print('first'); print('x' * 10**7); print('last')")
        assert outcome.head.startswith(b"first\nxxx")
        assert outcome.tail.endswith(b"xxx\nlast\n")
        assert outcome.dropped_bytes > 9_000_000

    async def test_output_may_be_closed(self, box: Sandbox) -> None:
        outcome = await run(box, "echo before; exec >&- 2>&-; sleep 0.2; exit 4")
        assert (outcome.head, outcome.exit_code) == (b"before\n", 4)
