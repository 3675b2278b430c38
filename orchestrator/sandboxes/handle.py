"""A running sandbox as the tools see it: verbs, bytes and outcomes. Everything that is done in
it is written on the link alone; what goes out of it is judged in `egress`.

Each call has an id given by the caller; the same id again is the same call (design 4.2), so a call may be repeated
after `SandboxGone` on a new link. Cancelling a call cancels it inside and waits for its end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any

from orchestrator.errors import SandboxStartFailed
from orchestrator.guest.calls import OUTPUT_TOTAL_LIMIT_BYTES
from orchestrator.sandboxes import reach
from orchestrator.sandboxes.driver import SandboxRef
from orchestrator.sandboxes.link import Content, Link
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
from orchestrator.sandboxes.outlet import Outlet, WayOut, set_up

OnOutput = Callable[[bytes], None]

TRUST_SINCE = 4
"""Guests of protocols before have no service `trust`."""
_ARGUMENT_LIMIT_BYTES = 96 * 1024
"""The kernel takes at most 128 KiB in one argument; longer code goes in by standard input."""
FILE_TIMEOUT_S = 60.0
"""What one file operation may take."""
_TRANSFER_TIMEOUT_S = 600.0


class Sandbox:
    """One running sandbox with an open link."""

    def __init__(self, ref: SandboxRef, link: Link, variables: Mapping[str, str]) -> None:
        self.ref = ref
        self.link = link
        self.variables = dict(variables)
        """Environment variables of every command and cell."""
        self.way_out: WayOut | None = None
        """Who judges what its programs reach outside; None: they reach nobody."""
        self._outlet: Outlet | None = None
        self._trusted_pem = ""
        """What the guest was told over this link."""
        self.transfers = 0
        """How many transfers of files are under way; see `files`."""

    @property
    def guest_id(self) -> str:
        """Names this start of the guest: a sandbox that was restarted has another, and knows no earlier call."""
        return self.link.guest_id

    @property
    def is_connected(self) -> bool:
        return not self.link.ended.is_set()

    async def trust(self, authority_pem: str) -> None:
        """Has the programs of all further calls trust one authority more. Again replaces it.

        Raises:
            SandboxStartFailed: the guest cannot do it, or is of an earlier release. SandboxGone.
        """
        if authority_pem == self._trusted_pem:
            return
        if self.link.protocol < TRUST_SINCE:
            reason = "its guest is of an earlier release; it can be when the sandbox is next started"
            raise SandboxStartFailed(f"the server's authority cannot be trusted inside: {reason}", stage="network")
        await set_up(self.link, "trust in the server's authority", {"service": "trust", "authority": authority_pem})
        self._trusted_pem = authority_pem

    async def let_out(self, way_out: WayOut, port: int, on_trouble: Callable[[str], None]) -> None:
        """Gives the programs of all further calls a way out, on the sandbox's own `port`.

        `on_trouble` is told if a guest of an earlier release cannot do it. Raises `SandboxGone`, and
        `SandboxStartFailed` if another one cannot.
        """
        self.way_out = way_out
        self._outlet = Outlet(self.link, port, way_out, on_trouble)
        await self._outlet.open()

    async def aclose(self) -> None:
        """Closes the link and every connection to outside; calls go on inside."""
        await self.link.aclose()
        if self._outlet is not None:
            await self._outlet.aclose()

    async def bash(
        self,
        call_id: str,
        code: str,
        *,
        timeout_s: float,
        output_limit_bytes: int,
        output_total_limit_bytes: int = OUTPUT_TOTAL_LIMIT_BYTES,
        on_output: OnOutput | None = None,
    ) -> CallOutcome:
        """Runs `code` in a fresh bash in the working directory, with nothing to read on standard input."""
        encoded = code.encode("utf-8", "replace")
        # What counts in the frame is the length as JSON, up to six times as long.
        if len(json.dumps(code)) <= _ARGUMENT_LIMIT_BYTES and b"\0" not in encoded:
            # The two hyphens end the options: code may begin with one.
            argv, content = ["bash", "-c", "--", encoded.decode()], None
        else:
            argv, content = ["bash", "-c", 'eval "$(cat)" </dev/null'], encoded
        return await self.execute(
            call_id,
            argv,
            content,
            timeout_s=timeout_s,
            output_limit_bytes=output_limit_bytes,
            output_total_limit_bytes=output_total_limit_bytes,
            on_output=on_output,
        )

    async def execute(
        self,
        call_id: str,
        argv: Sequence[str],
        content: Content = None,
        *,
        timeout_s: float,
        output_limit_bytes: int,
        output_total_limit_bytes: int = OUTPUT_TOTAL_LIMIT_BYTES,
        cwd: str | None = None,
        on_output: OnOutput | None = None,
    ) -> CallOutcome:
        """Runs a program; `content`, if given, is its standard input."""
        request = {
            "service": "exec",
            "call": call_id,
            "argv": list(argv),
            "cwd": cwd,
            "env": self.variables,
            "timeout_s": timeout_s,
            "output_limit_bytes": output_limit_bytes,
            "output_total_limit_bytes": output_total_limit_bytes,
            "input": content is not None,
        }
        return await self.link.call(request, content, on_output)

    async def python(
        self,
        call_id: str,
        code: str,
        *,
        timeout_s: float,
        output_limit_bytes: int,
        output_total_limit_bytes: int = OUTPUT_TOTAL_LIMIT_BYTES,
        on_output: OnOutput | None = None,
    ) -> CallOutcome:
        """Runs a cell in the environment's one Python interpreter; cells queue."""
        request = {
            "service": "cell",
            "call": call_id,
            "env": self.variables,
            "timeout_s": timeout_s,
            "output_limit_bytes": output_limit_bytes,
            "output_total_limit_bytes": output_total_limit_bytes,
        }
        return await self.link.call(request, code.encode("utf-8", "replace"), on_output)

    async def file(
        self,
        call_id: str,
        operation: str,
        arguments: Mapping[str, Any],
        content: Content = None,
        *,
        timeout_s: float | None = None,
        output_limit_bytes: int = 1 << 20,
        output_total_limit_bytes: int = OUTPUT_TOTAL_LIMIT_BYTES,
    ) -> CallOutcome:
        """One file operation: `read`, `write`, `edit`, `list`, `search`, `delete`, `excerpts` (see the guest's
        `file_tools`)."""
        request = {
            "service": "file",
            "call": call_id,
            "operation": operation,
            "arguments": dict(arguments),
            "timeout_s": timeout_s or FILE_TIMEOUT_S,
            "output_limit_bytes": output_limit_bytes,
            "output_total_limit_bytes": output_total_limit_bytes,
            "input": content is not None,
        }
        return await self.link.call(request, content)

    async def put(self, call_id: str, target: str, tar: Content) -> CallOutcome:
        """Unpacks a tar stream of files and directories below `target`, owned by the agent."""
        request = {"service": "put", "call": call_id, "target": target, "timeout_s": _TRANSFER_TIMEOUT_S}
        return await self.link.call(request, tar)

    def get(self, paths: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """A tar stream of `paths`. Raises `InvalidRequest` at its end if a path could not be read."""
        return self.link.fetch({"service": "get", "paths": list(paths)})

    def acknowledge(self, call_id: str) -> None:
        """Lets the guest forget a call whose outcome is stored."""
        self.link.acknowledge(call_id)

    async def stop(self, call_id: str, verdict: str = Verdict.CANCELLED) -> bool:
        """Ends a call whoever began it: see `Link.stop`."""
        return await self.link.stop(call_id, verdict)

    async def settle(self, claimed: Collection[str]) -> None:
        """Of the calls that the guest had when the link was opened, ends and forgets those that nobody claims."""
        left = {call_id: state for call_id, state in self.link.calls.items() if call_id not in claimed}
        for call_id, state in left.items():
            if state == "finished":
                self.acknowledge(call_id)
        await asyncio.gather(*(self.stop(call_id) for call_id, state in left.items() if state == "running"))

    def terminal(
        self,
        argv: Sequence[str] = (),
        *,
        rows: int = 24,
        cols: int = 80,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> reach.Terminal:
        """A terminal with a login shell, or with the program `argv`; `env` comes on top of the variables. Close it."""
        variables = {**self.variables, **(env or {})}
        return reach.open_terminal(self.link, argv, rows=rows, cols=cols, env=variables, cwd=cwd)

    async def connect(self, port: int, host: str | None = None) -> reach.Connection:
        """A connection to `port` inside. Raises `Conflict` if nobody answers there; see `reach.connect`. Close it."""
        return await reach.connect(self.link, port, host)

    async def watch(self, paths: Sequence[str] = (".",), *, is_recursive: bool = True) -> reach.Watch:
        """Changes below folders of the working directory. Raises `InvalidRequest`; see `reach.watch`. Close it."""
        return await reach.watch(self.link, paths, is_recursive=is_recursive)

    async def usage(self) -> reach.Usage:
        """What the sandbox uses and may use."""
        return await reach.usage(self.link)
