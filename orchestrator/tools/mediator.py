"""The one door between a model and its tools. In this order, and nowhere else:

    parse → schema → policy → limits → journal → execute → truncate → redact

Parsing and the schema are here; policy has no rule yet that forbids a call; limits, truncation and redaction are
applied where the bytes are (`rendering.py`, and the guest). What is wrong with a call is told to the model; what is
wrong with the platform is raised.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from orchestrator.clock import Clock
from orchestrator.errors import InvalidRequest, SandboxGone, ToolError
from orchestrator.policy.limits import Limits
from orchestrator.policy.redaction import Redactor, redact
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.tools.port import Tool, ToolContext, ToolResult
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.folding import parse_arguments

_LOST = (
    "[the sandbox ended while this call ran and was started again: it is not known how far the call came; "
    "files are kept, processes and Python variables are not]"
)
_JOURNALED_OUTPUT_BYTES = 64 * 1024
"""Of one call's live output in the journal; the whole is in the result."""
_OUTPUT_INTERVAL_S = 0.1


class Journal(Protocol):
    """Where the mediator writes what happens, in order, for operators."""

    def note(self, kind: str, **fields: Any) -> None:
        """Queues an entry."""

    async def flush(self) -> None:
        """Returns when all entries so far are durable."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the model made it."""

    id: str
    name: str
    arguments: str
    """JSON text, as it came."""


class Mediator:
    """Carries out the tool calls of one run."""

    def __init__(
        self,
        toolbox: Toolbox,
        sandbox: Callable[[], Awaitable[Sandbox]],
        limits: Limits,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._toolbox = toolbox
        self._sandbox = sandbox
        self._limits = limits
        self._journal = journal
        self._clock = clock
        self._used: Sandbox | None = None

    async def carry_out(self, call: ToolCall, started_in: str | None = None) -> ToolResult:
        """The result of one call, which is in the journal before it begins.

        `started_in` is the guest for which an earlier holder of the run wrote the call down. The same guest carries out
        the same call once; if it is another one now, nobody knows what became of the call, and the model is told so.

        Raises:
            SandboxError: the platform failed.
        """
        started = self._clock.monotonic()
        try:
            tool, arguments = self._parse(call)
            sandbox = await self._sandbox()
            if started_in is None:
                shown = _shown(arguments)
                self._journal.note(
                    "tool.started", call_id=call.id, tool=call.name, arguments=shown, guest=sandbox.guest_id
                )
                await self._journal.flush()
            result = await self._execute(tool, arguments, call.id, sandbox, started_in or sandbox.guest_id)
        except (ToolError, InvalidRequest) as error:
            verdict = error.code if isinstance(error, ToolError) else ToolError.code
            result = ToolResult(redact(error.message), is_error=True, verdict=verdict)
        duration_ms = round((self._clock.monotonic() - started) * 1000, 1)
        self._journal.note(
            "tool.ended", call_id=call.id, verdict=result.verdict, exit_code=result.exit_code, duration_ms=duration_ms
        )
        return result

    def acknowledge(self, call: ToolCall) -> None:
        """Lets the guest forget a call whose result is stored."""
        if self._used is not None:
            self._used.acknowledge(call.id)
            self._used = None

    def _parse(self, call: ToolCall) -> tuple[Tool, Any]:
        tool = self._toolbox.find(call.name)
        if tool is None:
            names = ", ".join(self._toolbox.names) or "none"
            raise ToolError(f"there is no tool {call.name!r}; there are: {names}")
        try:
            return tool, tool.arguments.model_validate(parse_arguments(call.arguments))
        except InvalidRequest as error:
            raise ToolError(f"the arguments of {call.name} cannot be read: {error.message}") from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ToolError(f"the arguments of {call.name} are wrong: {problems}") from error

    async def _execute(self, tool: Tool, arguments: Any, call_id: str, sandbox: Sandbox, guest_id: str) -> ToolResult:
        watched = _Output(self._journal, call_id)
        try:
            for is_last in (False, True):
                if sandbox.guest_id != guest_id:
                    return ToolResult(_LOST, is_error=True, verdict="lost")
                self._used = sandbox
                watched.rewind()
                try:
                    return await tool.carry_out(arguments, ToolContext(call_id, sandbox, self._limits, watched.add))
                except SandboxGone:
                    # Only the link may have been cut: then the guest still has the call, and its id finds it again.
                    if is_last:
                        raise
                    sandbox = await self._sandbox()
                except asyncio.CancelledError:
                    sandbox.acknowledge(call_id)
                    raise
            raise AssertionError("unreachable")
        finally:
            watched.close()


class _Output:
    """Brings live output into the journal: in pieces of at least a tenth of a second, up to a cap."""

    def __init__(self, journal: Journal, call_id: str) -> None:
        self._journal = journal
        self._call_id = call_id
        self._waiting = bytearray()
        self._left_bytes = _JOURNALED_OUTPUT_BYTES
        self._seen_bytes = self._position = 0
        self._is_cut = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redactor = Redactor()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, data: bytes) -> None:
        fresh = data[max(0, self._seen_bytes - self._position) :]
        self._position += len(data)
        self._seen_bytes = max(self._seen_bytes, self._position)
        self._take(fresh)

    def rewind(self) -> None:
        """What comes now begins again with the output's first byte."""
        self._position = 0

    def _take(self, data: bytes) -> None:
        piece = data[: self._left_bytes]
        self._left_bytes -= len(piece)
        self._is_cut = self._is_cut or len(piece) < len(data)
        self._waiting += piece
        if piece and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_OUTPUT_INTERVAL_S, self._write)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._write(is_last=True)
        if self._is_cut:
            self._journal.note("tool.output", call_id=self._call_id, text="[… more output is in the result …]\n")

    def _write(self, *, is_last: bool = False) -> None:
        self._timer = None
        text = self._decoder.decode(bytes(self._waiting), is_last).replace("\0", "\ufffd")
        self._waiting.clear()
        # Of a key that the cap goes through nothing is shown.
        if shown := self._redactor.feed(text, is_last=is_last and not self._is_cut):
            self._journal.note("tool.output", call_id=self._call_id, text=shown)


def _shown(arguments: Any) -> dict[str, Any]:
    """Arguments as the journal shows them: long texts cut, since the step holds them whole."""
    limit = 2000
    shown = {}
    for name, value in arguments.model_dump(exclude_none=True).items():
        if isinstance(value, str):
            text = redact(value)
            shown[name] = text if len(text) <= limit else f"{text[:limit]} … ({len(text)} characters)"
        else:
            shown[name] = value
    return shown
