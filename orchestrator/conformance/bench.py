"""Sandboxes for checks, and short words for commands in them. Imports the driver port and what is above the link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.driver import Resources, SandboxDriver, SandboxRef, SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Content, Link
from orchestrator.sandboxes.outcome import CallOutcome, Verdict

TIMEOUT_S = 20.0
"""Of a command that is not about time."""
PATIENCE_S = 20.0
"""How long a platform may take to notice something."""
_OUTPUT_LIMIT_BYTES = 64 << 10


class Bench:
    """One open driver, a sandbox that checks share, and sandboxes that one check has for itself."""

    def __init__(self, driver: SandboxDriver, spec: Callable[..., SandboxSpec]) -> None:
        self.driver = driver
        self._spec = spec
        self._shared: Sandbox | None = None
        self._own: list[Sandbox] = []
        """Of the check that runs now."""
        self._links: list[Link] = []
        self._leaving: set[asyncio.Task[None]] = set()

    async def shared(self) -> Sandbox:
        """The shared sandbox; a new one if a check has ended it."""
        if self._shared is None or not self._shared.is_connected:
            self._shared = await self._made(self._spec())
        return self._shared

    async def fresh(self, resources: Resources | None = None, snapshot: str = "") -> Sandbox:
        """A new sandbox, connected, for one check."""
        spec = self._spec(snapshot=snapshot) if resources is None else self._spec(resources=resources)
        box = await self._made(spec)
        self._own.append(box)
        return box

    async def _made(self, spec: SandboxSpec) -> Sandbox:
        return await self.enter(await make(self.driver, spec))

    async def enter(self, ref: SandboxRef, generation: int = 1) -> Sandbox:
        """A new link to a sandbox that runs."""
        link = await Link.open(await self.driver.connect(ref), generation)
        self._links.append(link)
        return Sandbox(ref, link, {})

    def leave(self) -> None:
        """The check is over: its sandboxes go while the next one runs."""
        for box in self._own:
            task = asyncio.create_task(self.driver.destroy(box.ref), name="destroy-sandbox")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        self._own.clear()

    async def aclose(self) -> None:
        """Ends all links and all sandboxes of this driver's instance, then lets go of the driver."""
        await asyncio.gather(*self._leaving)
        for link in self._links:
            await link.aclose()
        await asyncio.gather(*(self.driver.destroy(ref) for ref in await owned(self.driver)))
        await self.driver.aclose()


async def make(driver: SandboxDriver, spec: SandboxSpec) -> SandboxRef:
    """The ref of a started sandbox."""
    refs = [ref async for ref in driver.create(spec)]
    return refs[-1]


async def owned(driver: SandboxDriver) -> set[SandboxRef]:
    """All sandboxes of the driver's owner."""
    return {found.ref async for found in driver.owned()}


@asynccontextmanager
async def entered(driver: SandboxDriver, ref: SandboxRef, generation: int = 1) -> AsyncGenerator[Sandbox, None]:
    """A link to a sandbox that runs, for a while."""
    link = await Link.open(await driver.connect(ref), generation)
    try:
        yield Sandbox(ref, link, {})
    finally:
        await link.aclose()


def call_id() -> str:
    """A new one."""
    return f"call-{new_sandbox_id()}"


async def run(box: Sandbox, code: str, *, timeout_s: float = TIMEOUT_S, limit_bytes: int = 0) -> CallOutcome:
    """Runs a script of bash, whatever comes of it."""
    limit_bytes = limit_bytes or _OUTPUT_LIMIT_BYTES
    return await box.bash(call_id(), code, timeout_s=timeout_s, output_limit_bytes=limit_bytes)


async def says(box: Sandbox, code: str) -> bytes:
    """All output of a script of bash, which must succeed."""
    outcome = await run(box, code)
    output = outcome.head + outcome.tail
    assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 0), output
    return output


async def runs_python(box: Sandbox, program: str, *arguments: str) -> str:
    """All output of a Python program in a process of its own, which must succeed."""
    outcome = await execute(box, ["python3", "-c", program, *arguments])
    output = (outcome.head + outcome.tail).decode("utf-8", "replace")
    assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 0), output
    return output


async def execute(box: Sandbox, argv: list[str], content: Content = None, **options: Any) -> CallOutcome:
    """Runs a program, whatever comes of it."""
    options = {"timeout_s": TIMEOUT_S, "output_limit_bytes": _OUTPUT_LIMIT_BYTES} | options
    return await box.execute(call_id(), argv, content, **options)


async def cell(box: Sandbox, code: str, *, timeout_s: float = TIMEOUT_S) -> CallOutcome:
    """Runs a cell in the sandbox's interpreter, whatever comes of it."""
    return await box.python(call_id(), code, timeout_s=timeout_s, output_limit_bytes=_OUTPUT_LIMIT_BYTES)


async def file(
    box: Sandbox, operation: str, path: str, content: Content = None, limit_bytes: int = 0, **arguments: Any
) -> CallOutcome:
    """One file operation, whatever comes of it."""
    arguments["path"] = path
    limit_bytes = limit_bytes or _OUTPUT_LIMIT_BYTES
    return await box.file(call_id(), operation, arguments, content, output_limit_bytes=limit_bytes)


async def write(box: Sandbox, path: str, content: bytes) -> None:
    """Writes a file, which must succeed."""
    outcome = await file(box, "write", path, content)
    assert outcome.verdict is Verdict.DONE, outcome.error


async def read(box: Sandbox, path: str, limit_bytes: int = 0) -> bytes:
    """All of a file, which must be there."""
    outcome = await file(box, "read", path, limit_bytes=limit_bytes)
    assert outcome.verdict is Verdict.DONE, outcome.error
    assert outcome.dropped_bytes == 0
    return outcome.head + outcome.tail


def error_code(outcome: CallOutcome) -> str:
    """Why a call was refused."""
    assert outcome.verdict is Verdict.REFUSED, outcome
    assert outcome.error is not None
    assert outcome.error.message
    return outcome.error.code
