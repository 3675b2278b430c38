"""Checks of calls by identity: the same id is the same call, whoever asks and however often the link broke."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.conformance.bench import PATIENCE_S, Bench, call_id, entered, execute, run, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.errors import CallForgotten, InvalidRequest, SandboxGone
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome, Verdict

_LIMITS: dict[str, Any] = {"timeout_s": 20.0, "output_limit_bytes": 4096}


async def _ends(box: Sandbox, call: str) -> None:
    """Waits until the guest has finished a call."""
    async with asyncio.timeout(PATIENCE_S):
        while (await box.link.ask({"service": "calls"}))["calls"][call] != "finished":
            await asyncio.sleep(0.02)


class CallChecks(Platform):
    async def test_the_same_id_at_once_runs_once(self, box: Sandbox, folder: str) -> None:
        call, code = call_id(), f"echo ran >> {folder}/log; sleep 0.2; echo done"
        outcomes = await asyncio.gather(*(box.bash(call, code, **_LIMITS) for _ in range(3)))
        assert [outcome.head for outcome in outcomes] == [b"done\n"] * 3
        assert await says(box, f"cat {folder}/log") == b"ran\n"

    async def test_the_same_id_later_is_the_same_outcome(self, box: Sandbox, folder: str) -> None:
        call, code = call_id(), f"echo ran >> {folder}/log; echo out; exit 3"
        first, second = [await box.bash(call, code, **_LIMITS) for _ in range(2)]
        assert second == first
        assert second.exit_code == 3
        assert await says(box, f"cat {folder}/log") == b"ran\n"

    async def test_what_was_acknowledged_is_forgotten_and_refused(self, box: Sandbox, folder: str) -> None:
        call, code = call_id(), f"echo ran >> {folder}/log"
        await box.bash(call, code, **_LIMITS)
        assert (await box.link.ask({"service": "calls"}))["calls"][call] == "finished"
        box.acknowledge(call)
        assert call not in (await box.link.ask({"service": "calls"}))["calls"]
        with pytest.raises(CallForgotten):
            await box.bash(call, code, **_LIMITS)
        assert await says(box, f"cat {folder}/log") == b"ran\n"

    async def test_what_is_acknowledged_while_it_runs_is_forgotten_at_its_end(self, box: Sandbox) -> None:
        call = call_id()
        running = asyncio.create_task(box.bash(call, "sleep 0.4; echo done", **_LIMITS))
        await asyncio.sleep(0.1)
        box.acknowledge(call)
        assert (await box.link.ask({"service": "calls"}))["calls"][call] == "running"
        assert (await running).head == b"done\n"
        assert call not in (await box.link.ask({"service": "calls"}))["calls"]

    async def test_a_call_of_another_link_is_stopped_by_its_id(self, bench: Bench) -> None:
        box = await bench.fresh()
        call, code = call_id(), "(while sleep 0.05; do echo on >> ticks; done) & sleep 60"
        running = asyncio.create_task(box.bash(call, code, **_LIMITS))
        await asyncio.sleep(0.4)
        box.link.let_go()
        await box.link.aclose()
        await asyncio.gather(running, return_exceptions=True)
        async with entered(bench.driver, box.ref) as again:
            assert again.link.calls[call] == "running"
            assert await again.stop(call)
            await says(again, "test -s ticks && rm ticks; sleep 0.4; ! test -e ticks")
            with pytest.raises(CallForgotten):
                await again.bash(call, code, **_LIMITS)

    async def test_what_never_came_is_not_carried_out_after_a_stop(self, box: Sandbox, folder: str) -> None:
        call = call_id()
        assert await box.stop(call)
        with pytest.raises(CallForgotten):
            await box.bash(call, f"touch {folder}/ran", **_LIMITS)
        await says(box, f"! test -e {folder}/ran")

    async def test_a_call_goes_on_while_nobody_is_there(self, bench: Bench) -> None:
        box = await bench.fresh()
        call, code = call_id(), "echo begun; sleep 0.4; echo done > late; echo done"
        running = asyncio.create_task(box.bash(call, code, **_LIMITS))
        await asyncio.sleep(0.1)
        await box.link.aclose()
        with pytest.raises(SandboxGone):
            await running
        await asyncio.sleep(0.6)
        async with entered(bench.driver, box.ref) as again:
            await _ends(again, call)
            assert await says(again, "cat late") == b"done\n"
            outcome = await again.bash(call, code, **_LIMITS)
        assert outcome.head == b"begun\ndone\n"

    async def test_it_can_be_followed_from_where_one_was(self, box: Sandbox) -> None:
        call = call_id()
        await box.bash(call, "printf 0123456789", **_LIMITS)
        outcome = await box.link.call({"service": "exec", "call": call, "from_bytes": 4, "attach_only": True})
        assert outcome.head == b"456789"

    async def test_following_what_never_was_is_refused(self, box: Sandbox) -> None:
        with pytest.raises(InvalidRequest):
            await box.link.call({"service": "exec", "call": call_id(), "attach_only": True})

    async def test_input_that_is_sent_again_is_taken_once(self, bench: Bench) -> None:
        box = await bench.fresh()
        call, content = call_id(), bytes(range(256)) * 4000
        limits: dict[str, Any] = {"timeout_s": 20.0, "output_limit_bytes": 4 * len(content)}

        async def half() -> AsyncIterator[bytes]:
            yield content[: len(content) // 2]
            await asyncio.sleep(PATIENCE_S)

        sending = asyncio.create_task(box.execute(call, ["cat"], half(), **limits))
        await asyncio.sleep(0.3)
        box.link.let_go()
        await box.link.aclose()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        async with entered(bench.driver, box.ref) as again:
            outcome = await again.execute(call, ["cat"], content, **limits)
        assert outcome.head + outcome.tail == content

    async def test_a_time_limit_holds_while_nobody_is_there(self, bench: Bench) -> None:
        box = await bench.fresh()
        call = call_id()
        limits: dict[str, Any] = {"timeout_s": 0.5, "output_limit_bytes": 4096}
        running = asyncio.create_task(box.bash(call, "sleep 60", **limits))
        await asyncio.sleep(0.2)
        await box.link.aclose()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(0.5)
        async with entered(bench.driver, box.ref) as again:
            await _ends(again, call)
            outcome = await again.bash(call, "sleep 60", **limits)
        assert outcome.verdict is Verdict.TIMEOUT

    async def test_calls_run_side_by_side(self, box: Sandbox) -> None:
        begun = time.monotonic()
        outcomes = await asyncio.gather(*(run(box, f"sleep 0.5; echo {number}") for number in range(12)))
        assert [outcome.head for outcome in outcomes] == [b"%d\n" % number for number in range(12)]
        assert time.monotonic() - begun < 5

    async def test_many_short_calls_leave_nothing_behind(self, box: Sandbox) -> None:
        count = "set -- /proc/[0-9]*; echo $#"
        before = int(await says(box, count))
        for _ in range(30):
            await says(box, "(true &) ; true")
        if not self.states(Difference.NO_ISOLATION):  # where others' processes are seen, they come and go
            assert int(await says(box, count)) <= before + 4

    async def test_cancelling_ends_the_call_inside(self, box: Sandbox, folder: str) -> None:
        code = f"(while sleep 0.05; do echo on >> {folder}/ticks; done) & sleep 60"
        running = asyncio.create_task(run(box, code, timeout_s=60))
        await asyncio.sleep(0.4)
        running.cancel()
        begun = time.monotonic()
        await asyncio.gather(running, return_exceptions=True)
        assert time.monotonic() - begun < 5
        await says(box, f"test -s {folder}/ticks && rm {folder}/ticks; sleep 0.4; ! test -e {folder}/ticks")

    async def test_a_call_that_was_cancelled_says_so_to_whoever_follows(self, box: Sandbox) -> None:
        call = call_id()
        running = asyncio.create_task(box.bash(call, "echo begun; sleep 60", timeout_s=60, output_limit_bytes=99))
        await asyncio.sleep(0.3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        outcome = await box.link.call({"service": "exec", "call": call, "attach_only": True})
        assert (outcome.verdict, outcome.head) == (Verdict.CANCELLED, b"begun\n")

    async def test_one_call_may_end_another(self, box: Sandbox) -> None:
        """Calls are of one user: they may signal each other, and the outcome says what came of it."""
        marker = f"61{time.monotonic_ns() % 10**8:08d}"
        victim = asyncio.create_task(execute(box, ["sleep", marker]))
        await asyncio.sleep(0.3)
        await says(box, f"pkill -TERM -f '^sleep {marker}$'")
        outcome: CallOutcome = await victim
        assert (outcome.verdict, outcome.signal) == (Verdict.KILLED, 15)

    async def test_a_request_that_makes_no_sense_is_refused_and_harms_nobody(self, box: Sandbox) -> None:
        for request in (
            {"service": "there-is-none", "call": call_id()},
            {"service": "exec", "call": call_id()},
            {"service": "exec", "call": call_id(), "argv": ["true"], "timeout_s": 0},
            {"service": "exec", "call": call_id(), "argv": ["true"], "timeout_s": "soon"},
            {"service": "file", "call": call_id(), "operation": "read", "timeout_s": 1},
        ):
            with pytest.raises(InvalidRequest):
                await box.link.call(request)
        assert await says(box, "echo hello") == b"hello\n"
