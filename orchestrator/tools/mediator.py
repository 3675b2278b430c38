"""The one door between a model and the server's tools. In this order, and nowhere else:

    parse → schema → policy → limits → journal → execute → truncate → redact

Parsing and the schema are here; policy is what the environment's hooks say (`gate.py`); limits, truncation and
redaction are applied where the bytes are (`rendering.py`, and the guest). What is wrong with a call is told to the
model; what is wrong with the platform is raised. Functions of the client do not come through here.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import ValidationError

from orchestrator import moments
from orchestrator.clock import Clock
from orchestrator.errors import CallForgotten, InvalidRequest, SandboxError, SandboxGone, ToolError
from orchestrator.policy.limits import Limits
from orchestrator.policy.redaction import Redactor, redact
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.tools.gate import Deed, Gate
from orchestrator.tools.port import SandboxTool, ServerTool, ToolContext, ToolResult
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.content import TextContent
from orchestrator.wire.folding import parse_arguments

_LOST = (
    "[the sandbox ended while this call ran and was started again: it is not known how far the call came; "
    "files are kept, processes and Python variables are not]"
)
_FORGOTTEN = (
    "[the server was interrupted while this call ran, and what came of the call is not known any more: "
    "look at what it has done before you do it again]"
)
_RESTORED = (
    "[the sandbox was started again since your last call: files are kept; processes, Python variables and /tmp are not]"
)
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_HELD_S = 10.0
"""A link that held so long was sound; what ends it then is a trouble of its own."""
_JOURNALED_OUTPUT_BYTES = 64 * 1024
"""Of one call's live output in the journal; the whole is in the result."""
_OUTPUT_INTERVAL_S = 0.1
_UNREACHED_SHOWN = 5


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


@dataclass(frozen=True, slots=True)
class Begun:
    """What the journal knows of a call that an earlier holder of the run was about to send."""

    guest: str
    """For whom it was meant."""
    shown_bytes: int = 0
    """How much of its output the journal has."""


class Mediator:
    """Carries out the tool calls of one run."""

    def __init__(
        self,
        toolbox: Toolbox,
        sandbox: Callable[[], Awaitable[Sandbox]],
        limits: Limits,
        journal: Journal,
        clock: Clock,
        last_guest: str | None = None,
        gate: Gate | None = None,
    ) -> None:
        """`last_guest` is the one that had the conversation's latest call with a result, in this environment."""
        self._gate = gate
        self._toolbox = toolbox
        self._sandbox = sandbox
        self._limits = limits
        self._journal = journal
        self._clock = clock
        self._last_guest = last_guest
        self._has_untold_loss = False
        self._used: Sandbox | None = None

    async def carry_out(self, call: ToolCall, begun: Begun | None = None) -> ToolResult:
        """The result of one call, which is in the journal before it begins.

        `begun` says that an earlier holder of the run wrote the call down. The same guest carries out the same call
        once: it is followed if it runs, fetched if it is done, begun if it never arrived. If it is another guest now,
        or it has forgotten the call, nobody knows what became of the call, and the model is told so.

        Cancelled, it leaves the call to whoever cancels: only when the run's end is stored may the guest forget it.

        Raises:
            SandboxError: the platform failed.
        """
        started = self._clock.monotonic()
        try:
            tool, arguments = self._parse(call)
            deed = Deed(call.id, call.name, arguments)
            if self._gate is not None and begun is None:  # what was begun had been allowed
                await self._gate.before(deed)
            try:
                result = await self._perform(tool, arguments, call, begun)
            except (ToolError, InvalidRequest) as error:
                result = _told(error)
            if self._gate is not None:
                await self._gate.after(deed, result)
        except (ToolError, InvalidRequest) as error:
            result = _told(error)
        if self._has_untold_loss:
            self._has_untold_loss = False
            self._journal.note("tool.told_of_loss", call_id=call.id)
            result = _with_first_line(result, _RESTORED)
        duration_ms = round((self._clock.monotonic() - started) * 1000, 1)
        self._journal.note(
            "tool.ended", call_id=call.id, verdict=result.verdict, exit_code=result.exit_code, duration_ms=duration_ms
        )
        return result

    def is_clients(self, call: ToolCall) -> bool:
        """Whether the client is to carry it out; not if its arguments make no sense: that the model is told here."""
        if not self._toolbox.is_function(call.name):
            return False
        try:
            parse_arguments(call.arguments)
        except InvalidRequest:
            return False
        return True

    def acknowledge(self, call: ToolCall) -> None:
        """Lets the guest forget a call whose result is stored."""
        if self._used is not None:
            self._used.acknowledge(call.id)
            self._used = None

    def _parse(self, call: ToolCall) -> tuple[SandboxTool | ServerTool, Any]:
        tool = self._toolbox.find(call.name)
        try:
            given = parse_arguments(call.arguments)
            if tool is None:
                names = ", ".join(self._toolbox.names) or "none"
                raise ToolError(f"there is no tool {call.name!r}; there are: {names}")
            return tool, tool.arguments.model_validate(given)
        except InvalidRequest as error:
            raise ToolError(f"the arguments of {call.name} cannot be read: {error.message}") from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ToolError(f"the arguments of {call.name} are wrong: {problems}") from error

    async def _perform(
        self, tool: SandboxTool | ServerTool, arguments: Any, call: ToolCall, begun: Begun | None
    ) -> ToolResult:
        if isinstance(tool, ServerTool):
            return await self._ask(tool, arguments, call)
        if begun is None:
            return await self._begin(tool, arguments, call)
        return await self._follow(tool, arguments, call.id, begun, is_taken_up=True)

    async def _ask(self, tool: ServerTool, arguments: Any, call: ToolCall) -> ToolResult:
        self._journal.note("tool.asked", call_id=call.id, tool=call.name, arguments=_shown(arguments))
        return await tool.answer(arguments)

    async def _begin(self, tool: SandboxTool, arguments: Any, call: ToolCall) -> ToolResult:
        sandbox = await self._sandbox()
        guest = sandbox.guest_id
        self._journal.note("tool.started", call_id=call.id, tool=call.name, arguments=_shown(arguments), guest=guest)
        await self._journal.flush()
        moments.passed("call.journaled")
        return await self._follow(tool, arguments, call.id, Begun(guest), sandbox)

    async def _follow(
        self,
        tool: SandboxTool,
        arguments: Any,
        call_id: str,
        begun: Begun,
        sandbox: Sandbox | None = None,
        *,
        is_taken_up: bool = False,
    ) -> ToolResult:
        """Carries out a call that is in the journal, over as many links as it takes.

        Where only the link was cut the guest still has the call, and its id finds it again. It goes on meanwhile:
        giving up early would leave the model without a result that is there.
        """
        self._has_untold_loss = self._last_guest not in (None, begun.guest)
        watched = _Output(self._journal, call_id, begun.shown_bytes)
        patience = _Patience(self._clock, self._limits.engine_patience_s)
        try:
            while True:
                if sandbox is None:
                    try:
                        sandbox = await self._sandbox()
                    except SandboxError as error:
                        if not error.retryable:
                            raise
                        await patience.wait(error)
                        continue
                    patience.reached()
                self._last_guest = sandbox.guest_id
                is_same = sandbox.guest_id == begun.guest
                if is_taken_up:
                    is_taken_up = False
                    found = sandbox.link.calls.get(call_id, "never_started") if is_same else "unknown"
                    self._journal.note("tool.taken_up", call_id=call_id, found=found)
                if not is_same:
                    return ToolResult(_LOST, is_error=True, verdict="lost")
                self._used = sandbox
                watched.rewind()
                way_out = sandbox.way_out
                before = way_out.unreached_count if way_out is not None else 0
                try:
                    result = await tool.carry_out(arguments, ToolContext(call_id, sandbox, self._limits, watched.add))
                    moments.passed("call.ended")
                    return _with_unreached(result, way_out.unreached_since(before)) if way_out is not None else result
                except CallForgotten:
                    return ToolResult(_FORGOTTEN, is_error=True, verdict="unknown")
                except SandboxGone as cut:
                    sandbox = None
                    await patience.wait(cut)
        finally:
            watched.close()


class _Patience:
    """Waits between attempts to reach the sandbox of a call; when it ends, what went wrong is raised.

    What counts is time in which nothing held: a link that is cut as soon as it is there is no better than none.
    """

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._wait_s = 0.0
        self._since_s: float | None = None
        self._reached_s: float | None = clock.monotonic()

    def reached(self) -> None:
        self._reached_s = self._clock.monotonic()

    async def wait(self, error: SandboxError) -> None:
        now_s = self._clock.monotonic()
        has_held = self._reached_s is not None and now_s - self._reached_s > _HELD_S
        if self._since_s is None or has_held:
            self._since_s, self._wait_s = now_s, 0.0
        if now_s - self._since_s >= self._limit_s:
            raise error
        self._reached_s = None
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(max(_FIRST_WAIT_S, 2 * self._wait_s), _LONGEST_WAIT_S)


class _Output:
    """Brings live output into the journal: in pieces of at least a tenth of a second, up to a cap.

    Each entry says up to which byte the output is shown, so that a later holder of the run goes on from there.
    """

    def __init__(self, journal: Journal, call_id: str, shown_bytes: int) -> None:
        self._journal = journal
        self._call_id = call_id
        self._waiting = bytearray()
        self._taken_bytes = shown_bytes
        self._seen_bytes = shown_bytes
        self._position = 0
        self._is_cut = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redactor = Redactor()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, data: bytes) -> None:
        if self._position == 0 and data:
            moments.passed("call.running")
        fresh = data[max(0, self._seen_bytes - self._position) :]
        self._position += len(data)
        self._seen_bytes = max(self._seen_bytes, self._position)
        self._take(fresh)

    def rewind(self) -> None:
        """What comes now begins again with the output's first byte."""
        self._position = 0

    def _take(self, data: bytes) -> None:
        piece = data[: max(0, _JOURNALED_OUTPUT_BYTES - self._taken_bytes)]
        self._taken_bytes += len(piece)
        self._is_cut = self._is_cut or len(piece) < len(data)
        self._waiting += piece
        if piece and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_OUTPUT_INTERVAL_S, self._write)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._write(is_last=True)
        if self._is_cut:
            self._note("[… more output is in the result …]\n")

    def _write(self, *, is_last: bool = False) -> None:
        self._timer = None
        text = self._decoder.decode(bytes(self._waiting), is_last).replace("\0", "\ufffd")
        self._waiting.clear()
        # Of a key that the cap goes through nothing is shown.
        if shown := self._redactor.feed(text, is_last=is_last and not self._is_cut):
            self._note(shown)

    def _note(self, text: str) -> None:
        (unread, _flags), held = self._decoder.getstate(), self._redactor.held
        until_bytes = self._taken_bytes - len(unread) - len(held.encode())
        self._journal.note("tool.output", call_id=self._call_id, text=text, until_bytes=until_bytes)


def _told(error: ToolError | InvalidRequest) -> ToolResult:
    verdict = error.code if isinstance(error, ToolError) else ToolError.code
    return ToolResult(redact(error.message), is_error=True, verdict=verdict)


def _with_first_line(result: ToolResult, line: str) -> ToolResult:
    if isinstance(result.content, str):
        return replace(result, content=f"{line}\n{result.content}")
    return replace(result, content=[TextContent(text=f"{line}\n"), *result.content])


def _with_unreached(result: ToolResult, unreached: Sequence[str]) -> ToolResult:
    """Programs say little of why they did not reach somebody; the model is to know which rule to ask for."""
    if not unreached:
        return result
    shown = list(dict.fromkeys(unreached))[-_UNREACHED_SHOWN:]
    lines = "".join(f"[network: {each}]\n" for each in shown).rstrip("\n")
    if isinstance(result.content, str):
        return replace(result, content="\n".join(filter(None, (result.content.rstrip("\n"), lines))))
    return replace(result, content=[*result.content, TextContent(text=f"{lines}\n")])


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
