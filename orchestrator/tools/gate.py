"""Asking hooks about calls, in the sandbox whose they are: before a call is written down, and after it was made.

What a hook said is in the journal before anything is done about it, under the id of its own run inside; so whoever
takes a run up neither asks again what was answered nor starts again what goes on.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from orchestrator.agents.guidance import HooksFile
from orchestrator.egress.posting import Posted
from orchestrator.errors import CallForgotten, InvalidRequest, NetworkError, SandboxGone, ToolError
from orchestrator.policy.limits import Limits
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.tools.hooks import (
    OUTPUT_LIMIT_BYTES,
    Answer,
    Hook,
    When,
    read_answer,
    read_hooks,
    read_posted,
    shown,
)
from orchestrator.tools.port import Arguments, ToolResult
from orchestrator.wire.content import TextContent

log = structlog.get_logger(__name__)

_ERROR_CHARS = 4096
"""Of what went wrong with a call, as hooks are told it."""
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_RUN = 'exec 2>/dev/null; eval "$1"'
"""Only standard output is the answer; what a program complains of would spoil it."""


class Post(Protocol):
    """How an environment reaches addresses: `Poster.post` under its rules."""

    async def __call__(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, limit_bytes: int
    ) -> Posted: ...


class Journal(Protocol):
    """Where verdicts are written before they count."""

    def note(self, kind: str, **fields: Any) -> None:
        """Queues an entry."""

    async def flush(self) -> None:
        """Returns when all entries so far are durable."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the journal knows of a hook that was asked about a call."""

    call_id: str
    guest: str
    answer: Answer | None = None
    """None: it is not known yet."""


@dataclass(frozen=True, slots=True)
class Deed:
    """A call that is about to be made, or was."""

    call_id: str
    tool: str
    arguments: Arguments


class Gate:
    """The hooks of one run."""

    def __init__(
        self,
        files: Callable[[], Sequence[HooksFile]],
        asked: Mapping[str, Asked],
        sandbox: Callable[[], Awaitable[Sandbox]],
        limits: Limits,
        journal: Journal,
        environment_id: str,
        post: Post,
    ) -> None:
        """`files` are those that the run has read by its first call; `asked` is what the journal has, by the ids of the
        hooks' own runs.
        """
        self._files = files
        self._asked = asked
        self._sandbox = sandbox
        self._limits = limits
        self._journal = journal
        self._environment_id = environment_id
        self._post = post
        self._hooks: tuple[Hook, ...] | None = None
        self._fault = ""

    async def before(self, deed: Deed) -> None:
        """Returns if the call may be made.

        Raises:
            ToolError: it may not; the model reads why. SandboxError: the platform failed.
        """
        hooks = self._of_run()
        if self._fault and self._limits.denies_on_hook_failure:
            raise ToolError(f"no call can be allowed: {self._fault}", code="denied")
        if (reason := await self._ask(hooks, "pre", deed, None)) is not None:
            raise ToolError(f"a hook of this environment denied the call: {reason or 'no reason given'}", code="denied")

    async def after(self, deed: Deed, result: ToolResult) -> None:
        """Tells of a call that was made; what it has done cannot be undone.

        Raises:
            ToolError: the model may not see the result; it reads why. SandboxError: the platform failed.
        """
        error = _text(result)[:_ERROR_CHARS] if result.is_error else None
        if (reason := await self._ask(self._of_run(), "post", deed, error)) is not None:
            raise ToolError(
                "the call was made, but a hook of this environment withholds its result: "
                f"{reason or 'no reason given'}",
                code="denied",
            )

    def _of_run(self) -> tuple[Hook, ...]:
        if self._hooks is None:
            hooks: list[Hook] = []
            for file in self._files():
                try:
                    hooks += read_hooks(file.text) if not file.problem else ()
                except InvalidRequest as error:
                    self._fault = f"{file.path} cannot be used: {error.message}"
                if file.problem:
                    self._fault = f"{file.path} cannot be used: {file.problem}"
            self._hooks = tuple(hooks)
        return self._hooks

    async def _ask(self, hooks: Sequence[Hook], when: When, deed: Deed, error: str | None) -> str | None:
        """The reason of the first hook that denies; None: none does."""
        for number, hook in enumerate(hooks):
            if hook.when == when and hook.concerns(deed.tool):
                hook_id = f"{deed.call_id}.{when}-{number}"
                past = self._asked.get(hook_id)
                answer = past.answer if past is not None else None
                if answer is None:
                    answer = await self._answer(hook, hook_id, deed, error, past)
                is_denied = answer.decision == "deny" or (
                    answer.decision == "failed" and self._limits.denies_on_hook_failure
                )
                if is_denied:
                    return answer.reason
        return None

    async def _answer(self, hook: Hook, hook_id: str, deed: Deed, error: str | None, past: Asked | None) -> Answer:
        told: dict[str, Any] = {
            "tool_call": {"name": deed.tool, "args": deed.arguments.model_dump(exclude_none=True)},
            "environment_id": self._environment_id,
        }
        content = json.dumps(told if error is None else {**told, "error": error}).encode()
        sandbox: Sandbox | None = None
        if hook.kind == "http":
            answer = await self._send(hook, hook_id, deed, content, past)
        else:
            sandbox, answer = await self._run(hook, hook_id, deed, content, past)
        self._journal.note(
            "hook.ended", call_id=deed.call_id, hook_id=hook_id, decision=answer.decision, reason=answer.reason
        )
        await self._journal.flush()
        if sandbox is not None:
            sandbox.acknowledge(hook_id)
        if answer.decision == "failed":
            log.warning("hook_failed", group=hook.group, call_id=deed.call_id, reason=answer.reason)
        return answer

    async def _send(self, hook: Hook, hook_id: str, deed: Deed, content: bytes, past: Asked | None) -> Answer:
        """What the address answers. It is asked once, also over a crash: what it does may not be done twice."""
        if past is not None:
            return Answer("failed", "the server was interrupted while it asked")
        self._journal.note("hook.started", call_id=deed.call_id, hook_id=hook_id, group=hook.group, guest="")
        await self._journal.flush()
        try:
            posted = await self._post(
                hook.target,
                {"Content-Type": "application/json", **hook.headers},
                content,
                timeout_s=min(hook.timeout_s, self._limits.call_timeout_s),
                limit_bytes=OUTPUT_LIMIT_BYTES,
            )
        except NetworkError as error:
            return Answer("failed", shown(error.message))
        return read_posted(posted)

    async def _run(
        self, hook: Hook, hook_id: str, deed: Deed, content: bytes, past: Asked | None
    ) -> tuple[Sandbox | None, Answer]:
        """The command's answer, over as many links as it takes; never from a second run of it."""
        guest = past.guest if past is not None else None
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(SandboxGone),
            stop=stop_after_delay(self._limits.engine_patience_s),
            wait=wait_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                sandbox = await self._sandbox()
                if guest is None:
                    guest = sandbox.guest_id
                    self._journal.note(
                        "hook.started", call_id=deed.call_id, hook_id=hook_id, group=hook.group, guest=guest
                    )
                    await self._journal.flush()
                if sandbox.guest_id != guest:
                    return None, Answer("failed", "the sandbox ended while it ran")
                try:
                    outcome = await sandbox.execute(
                        hook_id,
                        ["bash", "-c", _RUN, "hook", hook.target],
                        content,
                        timeout_s=min(hook.timeout_s, self._limits.call_timeout_s),
                        output_limit_bytes=2 * OUTPUT_LIMIT_BYTES,
                        output_total_limit_bytes=OUTPUT_LIMIT_BYTES,
                    )
                except CallForgotten:
                    return None, Answer("failed", "the server was interrupted while it ran")
                return sandbox, read_answer(outcome)
        raise AssertionError("tenacity returns or raises")


def _text(result: ToolResult) -> str:
    if isinstance(result.content, str):
        return result.content
    return "".join(block.text for block in result.content if isinstance(block, TextContent))
