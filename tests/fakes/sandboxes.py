"""A sandbox as tools see it, without a guest: it does what the test says and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from orchestrator.errors import CallForgotten
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome, Verdict


def outcome(
    text: str | bytes = "", *, exit_code: int | None = 0, verdict: Verdict = Verdict.EXITED, **fields: Any
) -> CallOutcome:
    """How a call ended; well, unless something else is said."""
    head = text.encode() if isinstance(text, str) else text
    honest: dict[str, Any] = {"tail": b"", "dropped_bytes": 0, "duration_ms": 1.0, "signal": None}
    return CallOutcome(verdict=verdict, exit_code=exit_code, head=head, **{**honest, **fields})


def done(text: str | bytes = "", **result: Any) -> CallOutcome:
    """How a file operation ended that succeeded."""
    return outcome(text, exit_code=None, verdict=Verdict.DONE, result=result)


@dataclass
class Asked:
    """One call that arrived. A call id that arrives again is another one of these."""

    verb: str
    call_id: str
    what: str
    fields: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None


Answer = Callable[[Asked], Awaitable[CallOutcome]]


class FakeSandbox:
    """Runs each call id once: asked again, it gives the same outcome, as a guest does until it is acknowledged or
    stopped, and then refuses the id for ever.
    """

    def __init__(self, answer: Answer | CallOutcome | None = None, guest_id: str = "guest-1") -> None:
        self.guest_id = guest_id
        self.variables: dict[str, str] = {}
        self.transfers = 0
        self.way_out: Any = None
        self.asked: list[Asked] = []
        self.carried_out: list[str] = []
        """Call ids in the order in which they began, each once."""
        self.acknowledged: list[str] = []
        self.cancelled: list[str] = []
        self.stopped: list[str] = []
        self.link = SimpleNamespace(calls={})
        self._answer = answer
        self._forgotten: set[str] = set()
        self._calls: dict[str, asyncio.Future[CallOutcome]] = {}

    def as_sandbox(self) -> Sandbox:
        return self  # type: ignore[return-value]

    async def remember(self, call_id: str, ended: CallOutcome) -> None:
        """As if an earlier server had made this call: it is done, and nobody has acknowledged it."""
        self.link.calls[call_id] = "finished"
        self._calls[call_id] = asyncio.get_running_loop().create_future()
        self._calls[call_id].set_result(ended)

    async def bash(self, call_id: str, code: str, *, on_output: Any = None, **fields: Any) -> CallOutcome:
        return await self._call(Asked("bash", call_id, code, fields), on_output)

    async def python(self, call_id: str, code: str, *, on_output: Any = None, **fields: Any) -> CallOutcome:
        return await self._call(Asked("python", call_id, code, fields), on_output)

    async def execute(
        self, call_id: str, argv: Sequence[str], content: bytes | None = None, **fields: Any
    ) -> CallOutcome:
        return await self._call(Asked("execute", call_id, argv[-1], fields, content), None)

    async def file(
        self,
        call_id: str,
        operation: str,
        arguments: Mapping[str, Any],
        content: bytes | None = None,
        **fields: Any,
    ) -> CallOutcome:
        return await self._call(Asked(operation, call_id, "", {**fields, **arguments}, content), None)

    def acknowledge(self, call_id: str) -> None:
        self.acknowledged.append(call_id)
        self._forgotten.add(call_id)
        call = self._calls.get(call_id)
        if call is not None and call.done():
            del self._calls[call_id]

    async def stop(self, call_id: str, verdict: str = "cancelled") -> bool:
        await asyncio.sleep(0)
        self.stopped.append(call_id)
        self._forgotten.add(call_id)
        call = self._calls.pop(call_id, None)
        if call is not None:
            call.cancel()
        return True

    @property
    def running(self) -> list[str]:
        """Ids of calls that go on inside."""
        return [call_id for call_id, call in self._calls.items() if not call.done()]

    async def _call(self, asked: Asked, on_output: Any) -> CallOutcome:
        self.asked.append(asked)
        if asked.call_id in self._forgotten:
            raise CallForgotten("the guest has forgotten this call")
        if asked.call_id not in self._calls:
            self.carried_out.append(asked.call_id)
            self._calls[asked.call_id] = asyncio.ensure_future(self._carry_out(asked))
        try:
            ended = await asyncio.shield(self._calls[asked.call_id])
        except asyncio.CancelledError:
            self.cancelled.append(asked.call_id)
            raise
        if on_output is not None and ended.head:
            on_output(ended.head)
        return ended

    async def _carry_out(self, asked: Asked) -> CallOutcome:
        if self._answer is None:
            return outcome(f"{asked.verb}: {asked.what}\n")
        if isinstance(self._answer, CallOutcome):
            return self._answer
        return await self._answer(asked)
